"""One pass over a record's decoded pixels: its hashes, and flags of what is wrong with it.

Flags: ``burned_in_text``, ``sector_fraction=0.41`` (ultrasound), and of clips those of
:mod:`medssl.readers._clip_quality`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.archive._burned_in import still_parts, text_rows
from medssl.archive._perceptual import perceptual_hash, projection
from medssl.core.errors import ReadError
from medssl.core.geometry import Kind
from medssl.core.sample import Role
from medssl.readers._base import Found
from medssl.readers._dispatch import sample
from medssl.readers._us_sector import sampled_frames, sector_mask

LOSSY = "lossy"
"""Flag of records whose coding lost detail: two decoders may give two pictures."""
_CHUNK_BYTES = 256 * 2**20
# Whatever of these is installed may have decoded a lossy picture.
_DECODERS = ("pillow", "pylibjpeg-openjpeg", "pylibjpeg-libjpeg", "pyjpegls", "python-gdcm", "av")


@dataclass(frozen=True, kw_only=True)
class PixelFacts:
    """What only the pixels tell; ``perceptual_hash`` is ``None`` for labels."""

    pixel_hash: str
    perceptual_hash: str | None
    flags: tuple[str, ...]


class PixelDigest:
    """SHA-256 of shape and values as little-endian float32, fed frame by frame.

    Pixels of a lossy coding also count the versions of the decoders: their hash never equals that
    of another installation, where the same file may decode to other values.
    """

    def __init__(self, shape: tuple[int, ...], *, lossy: bool = False) -> None:
        self._digest = hashlib.sha256(str(shape).encode())
        if lossy:
            self._digest.update(_decoders().encode())

    def add(self, array: npt.NDArray[Any]) -> None:
        """The next values, in array order."""
        self._digest.update(np.ascontiguousarray(array, dtype="<f4").data)

    def hex(self) -> str:
        """The hash of everything added."""
        return self._digest.hexdigest()


def examine(found: Found, role: Role) -> PixelFacts:
    """Decode a record once, whole; a clip in pieces.

    Raises:
        ReadError: it cannot be decoded; ``nan_voxels``; ``constant`` (images only).
        ResourceError: an image or volume above the byte cap.
    """
    digest = PixelDigest(found.shape, lossy=LOSSY in found.flags)
    low, high = np.inf, -np.inf
    kept: list[npt.NDArray[Any]] = []
    for piece, few in _pieces(found):
        if not np.isfinite(piece).all():
            raise ReadError("nan_voxels", "voxels are NaN or infinite")
        low, high = min(low, float(piece.min())), max(high, float(piece.max()))
        digest.add(piece)
        kept.append(few)
    if role != "image":
        return PixelFacts(pixel_hash=digest.hex(), perceptual_hash=None, flags=())
    if low == high:
        raise ReadError("constant", "all voxels have one value")
    overview = np.concatenate(kept, axis=1) if found.geometry.kind == "clip" else kept[0]
    return PixelFacts(
        pixel_hash=digest.hex(),
        perceptual_hash=perceptual_hash(projection(overview, found.geometry.kind)),
        flags=pixel_flags(overview, found.geometry.kind, found.modality),
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
        mask_HW = sector_mask(array if kind == "clip" else array[:, None])
        share = 0.0 if mask_HW is None else float(mask_HW.mean())
        flags.append(f"sector_fraction={share:.2f}")
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
        yield np.moveaxis(x_CTHW, 1, 0), x_CTHW[:, keep]


@cache
def _decoders() -> str:
    found = []
    for name in _DECODERS:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
