"""One pass over a record's decoded pixels: its hashes, and flags of what is wrong with it.

Flags: ``burned_in_text``, ``sector_fraction=0.41`` or ``sector_unknown`` and ``colour_doppler``
(ultrasound), and of clips those of :mod:`medssl.readers._clip_quality`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.archive._burned_in import still_parts, text_rows
from medssl.archive._digest import LOSSY, PixelDigest, in_body_order
from medssl.archive._perceptual import perceptual_hash, projection
from medssl.archive._pool import map_items
from medssl.archive._reading import Progress
from medssl.archive.catalog import Catalog, PixelFacts
from medssl.core.errors import MedsslError, ReadError, own_mistakes
from medssl.core.geometry import Kind
from medssl.core.sample import Record, Role
from medssl.readers._base import Found
from medssl.readers._clip_quality import ClipQuality
from medssl.readers._dispatch import sample
from medssl.readers._us_sector import is_coloured, sampled_frames, sector_mask
from medssl.readers.labels import CONTOURS

# Decoded records between two writes of the catalog: what a killed run loses.
_SAVE_EVERY = 500
_SAVES = 50
_DECODE_CHUNK = 8
_CHUNK_BYTES = 256 * 2**20


def decode_missing(catalog: Catalog, *, workers: int, progress: Progress) -> None:
    """Decode every record whose pixels are not known yet; saves now and then."""
    failed = {(e.record_id, e.hash) for e in catalog.ledger.entries() if e.stage == "pixels"}
    have_pixels = (r for r in catalog.records() if CONTOURS not in r.flags)
    missing = [r for r in have_pixels if not r.pixel_hash and _key(r) not in failed]
    facts: dict[str, PixelFacts] = {}
    look = partial(examine_record, catalog.folder)
    results = map_items(look, missing, workers=workers, chunk=_DECODE_CHUNK)
    # Every save writes the whole table.
    save_every = max(_SAVE_EVERY, len(missing) // _SAVES)
    for done, (record, result) in enumerate(results, start=1):
        if isinstance(result, MedsslError):
            reason = result.reason if isinstance(result, ReadError) else "too_large"
            key, mark = _key(record)
            catalog.ledger.add(key, "pixels", reason, result.what, hash=mark)
        else:
            facts[record.record_id] = result
        progress(done, len(missing))
        if done % save_every == 0:
            _save(catalog, facts)
    _save(catalog, facts)


def examine_record(folder: Path, record: Record) -> PixelFacts:
    """Runs in a worker: :func:`examine` on a record of a catalog.

    Raises:
        ReadError, ResourceError: as :func:`examine`.
    """
    found = Catalog.open(folder).found(record.record_id)
    with own_mistakes("looking at its pixels"):
        return examine(found, record.role, record.modality)


def examine(found: Found, role: Role, modality: str) -> PixelFacts:
    """Decode a record once, whole; a clip in pieces.

    Args:
        found: the record.
        role: only images have a perceptual hash and flags.
        modality: as the catalog has it.

    Raises:
        ReadError: it cannot be decoded; ``nan_voxels``; ``constant`` (images only).
        ResourceError: an image or volume above the byte cap.
    """
    lossy = LOSSY in found.flags or found.format == "video"
    shape = in_body_order(np.broadcast_to(np.int8(0), found.shape), found.geometry).shape
    digest = PixelDigest(shape, lossy=lossy)
    clip = found.geometry.kind == "clip"
    watched = ClipQuality() if clip and found.dtype == "uint8" else None
    low, high = np.inf, -np.inf
    kept: list[npt.NDArray[Any]] = []
    for piece, few in _pieces(found):
        if not np.isfinite(piece).all():
            raise ReadError("nan_voxels", "voxels are NaN or infinite")
        low, high = min(low, float(piece.min())), max(high, float(piece.max()))
        digest.add(np.moveaxis(piece, 1, 0) if clip else in_body_order(piece, found.geometry))
        if watched is not None:
            watched.add(piece)
        kept.append(few)
    if role != "image":
        return PixelFacts(pixel_hash=digest.hex(), perceptual_hash=None, flags=())
    if low == high:
        raise ReadError("constant", "all voxels have one value")
    overview = np.concatenate(kept, axis=1) if clip else kept[0]
    clip_flags = () if watched is None else watched.facts(modality).flags()
    return PixelFacts(
        pixel_hash=digest.hex(),
        perceptual_hash=perceptual_hash(projection(overview, found.geometry.kind)),
        flags=(*pixel_flags(overview, found.geometry.kind, modality), *clip_flags),
    )


def pixel_flags(array: npt.NDArray[Any], kind: Kind, modality: str) -> tuple[str, ...]:
    """Flags of one picture, or of some frames of a clip; volumes have none.

    Args:
        array: (C, H, W), (C, D, H, W), or (C, T, H, W) of evenly spread frames.
        kind: of the record.
        modality: of the record; the sector is looked for in ultrasound.
    """
    if kind == "volume":
        return ()
    still_CHW = still_parts(array) if kind == "clip" else array
    flags = ["burned_in_text"] if text_rows(still_CHW) else []
    if modality == "US":
        clip_CTHW = array if kind == "clip" else array[:, None]
        mask_HW = sector_mask(clip_CTHW)
        if mask_HW is None:
            flags.append("sector_unknown")
        else:
            flags.append(f"sector_fraction={mask_HW.mean():.2f}")
        if is_coloured(clip_CTHW, mask_HW):
            flags.append("colour_doppler")
    return tuple(flags)


def _pieces(found: Found) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Parts of the array in order, and of each what an overview keeps; clips by frames."""
    one = sample(found)
    if found.geometry.kind != "clip":
        yield one.array, one.array
        return
    channels, n_frames, height, width = found.shape
    frame_bytes = channels * height * width * np.dtype(found.dtype).itemsize
    step = max(1, _CHUNK_BYTES // frame_bytes)
    wanted = set(sampled_frames(n_frames))
    for start in range(0, n_frames, step):
        numbers = range(start, min(start + step, n_frames))
        x_CTHW = one.frames(numbers)
        keep = [place for place, number in enumerate(numbers) if number in wanted]
        yield x_CTHW, x_CTHW[:, keep]


def _save(catalog: Catalog, facts: dict[str, PixelFacts]) -> None:
    catalog.ledger.save()
    catalog.add_pixels(facts)
    facts.clear()


def _key(record: Record) -> tuple[str, str]:
    return record.record_id, record.fingerprint
