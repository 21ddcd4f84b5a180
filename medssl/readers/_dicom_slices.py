"""One slice of a volume, be it a file, a frame of a multi-frame file or a tile of a mosaic."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medssl.core.geometry import FARTHEST_MM
from medssl.readers._base import FileHeader

# Closer than this two slices lie at one position.
SAME_POSITION_MM = 0.01
# Cosines further than this from unit length and right angles are no orientation.
_COSINE_TOLERANCE = 1e-3
_PLACE = (
    *("rows", "columns", "orientation", "position_mm", "pixel_spacing_mm", "rescale"),
    *("bits_allocated", "bits_stored", "signed", "photometric"),
)


class Slice(NamedTuple):
    """``tags`` are those of :func:`medssl.readers._dicom_tags.tags_of`, of this slice."""

    path: str
    number: int
    """Which slice of its file, counted from 0."""
    tags: dict[str, Any]


Slices = list[Slice]


def slices_of(header: FileHeader) -> Slices:
    """The slices that a file holds.

    ``tags["slices"]`` lists what each of several slices states differently from its file.
    """
    own = header.tags.get("slices")
    if own is None:
        return [Slice(header.path, 0, header.tags)]
    shared = {key: value for key, value in header.tags.items() if key != "slices"}
    return [Slice(header.path, n, _merged(shared, tags)) for n, tags in enumerate(own)]


def _merged(shared: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    return {**shared, **own, "split": {**shared["split"], **own.get("split", {})}}


def normal_of(slices: Slices) -> npt.NDArray[np.float64]:
    """Unit normal of slices that share an orientation."""
    row, column = np.reshape(slices[0].tags["orientation"], (2, 3))
    return np.cross(row, column)


def positions_of(slices: Slices) -> npt.NDArray[np.float64]:
    """ImagePositionPatient (n, 3) in mm, LPS."""
    return np.array([one.tags["position_mm"] for one in slices], dtype=np.float64)


def count_doubled(slices: Slices) -> int:
    """How many slices lie where another one lies, seen along the normal."""
    along_mm = np.sort(positions_of(slices) @ normal_of(slices))
    return int((np.diff(along_mm) < SAME_POSITION_MM).sum())


def digest_of(slices: Sequence[Slice]) -> str:
    """Equal as long as geometry, rescale and pixel format of every slice stay what they were."""
    content = [[one.tags[key] for key in _PLACE] for one in slices]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))  # of 3 numbers numpy takes longer


def bad_geometry(tags: dict[str, Any]) -> str:
    """What is wrong with the place of a slice; empty = nothing."""
    names = {
        "orientation": "ImageOrientationPatient",
        "position_mm": "ImagePositionPatient",
        "pixel_spacing_mm": "PixelSpacing",
    }
    for key, name in names.items():
        if not tags[key]:
            return f"{name} is missing, incomplete or not a number"
    if min(tags["pixel_spacing_mm"]) <= 0:
        return "PixelSpacing is not positive"
    if max(map(abs, [*tags["position_mm"], *tags["pixel_spacing_mm"]])) > FARTHEST_MM:
        return "position or spacing lead farther than a kilometre away"
    row, column = tags["orientation"][:3], tags["orientation"][3:]
    products = _dot(row, row) - 1, _dot(column, column) - 1
    if max(map(abs, (*products, _dot(row, column)))) > _COSINE_TOLERANCE:
        return "row and column directions are not orthogonal unit vectors"
    return ""
