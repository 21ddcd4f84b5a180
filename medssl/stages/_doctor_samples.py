"""A few records decoded, spread over modalities: thumbnails, burned-in text, decoding speed."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.archive._grey import grey_image
from medssl.archive.catalog import Catalog
from medssl.archive.quality import pixel_flags
from medssl.core.errors import MedsslError, ReadError
from medssl.core.sample import Record
from medssl.readers._clip_quality import IN_BODY_SCORE, body_scores, thumbnails
from medssl.readers._us_sector import is_coloured, mask_outside, sampled_frames, sector_mask
from medssl.stages._slices import turned, upright

# Larger volumes are not decoded for a thumbnail.
_MOST_BYTES = 2**30
# Soft tissue to bone, as the display of a CT without its own window.
_HU_WINDOW = (-500.0, 500.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sampled:
    """One decoded record.

    Attributes:
        picture_CHW: 0..1, to be shown; ``None`` with the reason in ``hidden``.
        reason: code if it could not be decoded.
        decoded_bytes: size of what was decoded, in ``decode_s`` seconds.
    """

    record: Record
    picture_CHW: npt.NDArray[np.float64] | None
    hidden: str = ""
    reason: str = ""
    text_found: bool = False
    decoded_bytes: int = 0
    decode_s: float = 0.0


def choose(records: Sequence[Record], most: int) -> list[Record]:
    """Images, evenly spread over modality, kind and format; the same ones every time."""
    groups: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for one in records:
        if one.role != "label":
            groups[one.modality, one.kind, one.format].append(one)
    queues = [_spread(groups[key], most) for key in sorted(groups)]
    rounds = max((len(queue) for queue in queues), default=0)
    turns = [queue[k] for k in range(rounds) for queue in queues if k < len(queue)]
    return turns[:most]


def look_at(catalog: Catalog, record: Record) -> Sampled:
    """Decode one record as far as a thumbnail needs."""
    size = math.prod(record.shape) * np.dtype(record.dtype).itemsize
    if record.kind != "clip" and size > _MOST_BYTES:
        return Sampled(record=record, picture_CHW=None, hidden="too large for a thumbnail")
    start_s = time.perf_counter()
    try:
        one = catalog.sample(record)
        array = one.array if record.kind != "clip" else one.frames(sampled_frames(one.shape[1]))
    except MedsslError as error:
        reason = error.reason if isinstance(error, ReadError) else "too_large"
        return Sampled(record=record, picture_CHW=None, hidden="does not decode", reason=reason)
    decode_s = time.perf_counter() - start_s
    text = "burned_in_text" in pixel_flags(array, record.kind, "")
    hidden = _why_hidden(record, text_found=text)
    picture_CHW = None if hidden else _picture(record, array)
    if picture_CHW is None and not hidden:
        hidden = "ultrasound without a visible sector"
    elif picture_CHW is not None and record.modality != "US" and _may_show_a_person(picture_CHW):
        picture_CHW, hidden = None, "colours unlike tissue: may show a person"
    return Sampled(
        record=record,
        picture_CHW=picture_CHW,
        hidden=hidden,
        text_found=text,
        decoded_bytes=array.nbytes,
        decode_s=decode_s,
    )


def _why_hidden(record: Record, *, text_found: bool) -> str:
    """Pictures that may show a name are not shown."""
    if "secondary_capture" in record.flags:
        return "secondary capture"
    if text_found:
        return "burned-in text found"
    cut_to_sector = record.modality == "US" and not any(
        f.startswith("region_") for f in record.flags
    )
    if "burned_in_text_possible" in record.flags and not cut_to_sector:
        return "burned-in text possible"
    return ""


def _may_show_a_person(picture_CHW: npt.NDArray[np.float64]) -> bool:
    """Photographs and frames outside the body: colourful, but not as tissue is."""
    levels_CTHW = np.rint(255 * picture_CHW[:, None]).astype(np.uint8)
    if not is_coloured(levels_CTHW):
        return False
    (score,) = body_scores(thumbnails(levels_CTHW))
    return not score >= IN_BODY_SCORE  # NaN: too dark to tell


def _picture(record: Record, array: npt.NDArray[Any]) -> npt.NDArray[np.float64] | None:
    """0..1: an image, the middle frame of a clip, the middle slice of a volume."""
    if record.kind == "volume":
        return windowed(_slice(record, array), record.units)
    if record.modality == "US":
        clip_CTHW = array if record.kind == "clip" else array[:, None]
        mask_HW = sector_mask(clip_CTHW)
        if mask_HW is None:
            return None
        array = mask_outside(clip_CTHW, mask_HW)
        array = array if record.kind == "clip" else array[:, 0]
    return windowed(array[:, array.shape[1] // 2] if record.kind == "clip" else array, "")


def _slice(record: Record, x_CDHW: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The middle one, in the plane of acquisition."""
    x_CDHW, spacing_mm, across = turned(x_CDHW[:1], record.affine, record.spacing_mm)
    middle_HW = np.take(x_CDHW[0], x_CDHW.shape[1 + across] // 2, axis=across)
    return upright(middle_HW.astype(np.float64), spacing_mm, across)[None]


def windowed(x_CHW: npt.NDArray[Any], units: str) -> npt.NDArray[np.float64]:
    """0..1: colours as they are, HU in a window of soft tissue, others between percentiles."""
    if x_CHW.shape[0] == 3:
        top = 255.0 if x_CHW.dtype == np.uint8 else max(float(x_CHW.max()), 1.0)
        return np.clip(x_CHW.astype(np.float64) / top, 0, 1)
    if units == "HU":
        low, high = _HU_WINDOW
        return np.clip((x_CHW[:1].astype(np.float64) - low) / (high - low), 0, 1)
    return grey_image(x_CHW[:1])[None]


def _spread(records: Sequence[Record], most: int) -> list[Record]:
    step = max(1, len(records) // max(most, 1))
    return list(records[::step][:most])
