"""A record as JSON and back: for the catalog's owner-only table and for the decoding process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medssl.core.geometry import Geometry
from medssl.readers._base import Found
from medssl.readers._video_index import VideoIndex

# Instead of the times of a video, which may be hundreds of thousands: its index has them.
_IN_INDEX = "index"


def to_json(found: Found) -> dict[str, Any]:
    """What ``load`` needs; identifiers stay out."""
    geometry = found.geometry
    return {
        "files": list(found.files),
        "format": found.format,
        "shape": list(found.shape),
        "dtype": found.dtype,
        "part": found.part,
        "modality": found.modality,
        "kind": geometry.kind,
        "affine": None if geometry.affine is None else geometry.affine.ravel().tolist(),
        "spacing_mm": geometry.spacing_mm,
        "frame_times_s": _IN_INDEX if _has_index(found) else geometry.frame_times_s,
        "options": found.options,
    }


def from_json(content: dict[str, Any]) -> Found:
    """Inverse of :func:`to_json`; what it leaves out is at its default."""
    affine = content["affine"]
    geometry = Geometry(
        kind=content["kind"],
        affine=None if affine is None else np.array(affine, dtype=np.float64).reshape(4, 4),
        spacing_mm=_tuple(content["spacing_mm"]),
        frame_times_s=_times(content),
    )
    return Found(
        files=tuple(content["files"]),
        format=content["format"],
        shape=tuple(content["shape"]),
        dtype=content["dtype"],
        geometry=geometry,
        part=content["part"],
        modality=content["modality"],
        options=content["options"],
    )


def _has_index(found: Found) -> bool:
    return found.format == "video" and found.geometry.frame_times_s is not None


def _times(content: dict[str, Any]) -> tuple[float, ...] | None:
    if content["frame_times_s"] == _IN_INDEX:
        return VideoIndex.from_json(content["options"]["index"]).frame_times_s
    return _tuple(content["frame_times_s"])


def _tuple(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(values)
