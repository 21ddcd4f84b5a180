"""Where the frames of a segmentation object lie: functional groups, and an even grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError
from medssl.core.geometry import RAS_FROM_LPS, line_tolerance_mm
from medssl.readers._dicom_open import parsing
from medssl.readers._dicom_tags import PydicomElements

# Closer than this two frames show one slice.
SAME_POSITION_MM = 0.01
_COSINE_TOLERANCE = 1e-3

FloatArray = npt.NDArray[np.float64]


class Grid(NamedTuple):
    """Where the frames of an object lie."""

    affine: FloatArray
    """Voxel (W, H, D) -> RAS+ mm."""
    slices: list[int]
    """Slice of each frame, in file order."""
    n_slices: int
    residual_mm: float


def even_grid(
    positions: FloatArray,
    orientation: Sequence[float],
    spacing_mm: Sequence[float],
    between_mm: float | None,
    thickness_mm: float | None,
) -> Grid:
    """An even grid through slice positions, some of which may be missing.

    Args:
        positions: (N, 3) ImagePositionPatient of the frames, in any order, repeats allowed.
        orientation: ImageOrientationPatient.
        spacing_mm: PixelSpacing, (H, W).
        between_mm: SpacingBetweenSlices; believed where every position fits it.
        thickness_mm: SliceThickness; the extent of a single slice, never a spacing.

    Raises:
        ReadError: ``gap`` or ``bad_geometry``.
    """
    row, column = np.reshape(np.asarray(orientation, dtype=np.float64), (2, 3))
    normal = np.cross(row, column)
    along_mm = positions @ normal
    order = np.argsort(along_mm, kind="stable")
    steps_mm = np.diff(along_mm[order])
    new_slice = np.concatenate([[True], steps_mm > SAME_POSITION_MM])
    if new_slice.sum() == 1:
        step = normal * _slice_extent(between_mm, thickness_mm)
        places = np.zeros(len(positions), dtype=np.int64)
    else:
        firsts = order[new_slice]
        counts = _slice_counts(np.diff(along_mm[firsts]), between_mm)
        index = np.concatenate([[0], np.cumsum(counts)])
        step = (positions[firsts[-1]] - positions[firsts[0]]) / index[-1]
        places = np.empty(len(positions), dtype=np.int64)
        places[order] = index[np.cumsum(new_slice) - 1]
    first = positions[order[0]]
    off_mm = np.linalg.norm(positions - (first + places[:, None] * step), axis=1).max()
    allowed_mm = line_tolerance_mm(float(np.linalg.norm(step)))
    if off_mm > allowed_mm:
        raise ReadError("gap", f"frames lie up to {off_mm:.2f} mm off an even line of slices")
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1], lps[:3, 2] = row * spacing_mm[1], column * spacing_mm[0], step
    lps[:3, 3] = first
    return Grid(RAS_FROM_LPS @ lps, places.tolist(), int(places.max()) + 1, float(off_mm))


@parsing()
def items(dataset: Any, keyword: str) -> list[Any]:
    """Items of a sequence; none if it is absent or no sequence."""
    value = dataset.get(keyword)
    return list(value) if value is not None and not isinstance(value, str | bytes) else []


class FunctionalGroups:
    """Values from the per-frame groups, or from the shared ones where a frame is silent."""

    def __init__(self, dataset: Any, n_frames: int) -> None:
        self._frames = items(dataset, "PerFrameFunctionalGroupsSequence")
        self._shared = items(dataset, "SharedFunctionalGroupsSequence")[:1]
        if len(self._frames) != n_frames:
            what = f"{n_frames} frames, but {len(self._frames)} descriptions of frames"
            raise ReadError("broken_header", what)

    def _of(self, frame: Any, sequence: str, keyword: str, count: int) -> list[float] | None:
        for group in (frame, *self._shared):
            for item in items(group, sequence)[:1]:
                values = PydicomElements(item).numbers(keyword, count)
                if values is not None:
                    return values
        return None

    def numbers(self, sequence: str, keyword: str, count: int) -> list[float]:
        """The value that all frames share."""
        values = [self._of(frame, sequence, keyword, count) for frame in self._frames]
        if any(one is None for one in values):
            raise ReadError("bad_geometry", f"{keyword} is missing or no number")
        together = np.array(values)
        if np.abs(together - together[0]).max() > _COSINE_TOLERANCE:
            raise ReadError("bad_geometry", f"{keyword} differs between frames")
        first: list[float] = together[0].tolist()
        if keyword == "PixelSpacing" and min(first) <= 0:
            raise ReadError("bad_geometry", "PixelSpacing is not positive")
        return first

    def orientation(self) -> list[float]:
        values = self.numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6)
        cosines = np.reshape(values, (2, 3))
        if np.abs(cosines @ cosines.T - np.eye(2)).max() > _COSINE_TOLERANCE:
            raise ReadError("bad_geometry", "row and column directions are not orthogonal")
        return values

    def positions(self) -> FloatArray:
        keyword = "ImagePositionPatient"
        found = [self._of(one, "PlanePositionSequence", keyword, 3) for one in self._frames]
        if any(one is None for one in found):
            raise ReadError("geometry_unknown", "a frame does not say where it lies")
        return np.array(found, dtype=np.float64)

    def optional(self, sequence: str, keyword: str) -> float | None:
        values = self._of(self._frames[0], sequence, keyword, 1)
        return values[0] if values and values[0] > 0 else None

    def segment_numbers(self) -> list[int]:
        keyword = "ReferencedSegmentNumber"
        found = [self._of(f, "SegmentIdentificationSequence", keyword, 1) for f in self._frames]
        if any(one is None for one in found):
            raise ReadError("broken_header", "a frame does not say which segment it shows")
        return [int(one[0]) for one in found if one]


def _slice_extent(between_mm: float | None, thickness_mm: float | None) -> float:
    extent_mm = between_mm or thickness_mm
    if extent_mm is None:
        raise ReadError("bad_geometry", "a single slice, and no word on how thick it is")
    return extent_mm


def _slice_counts(steps_mm: FloatArray, between_mm: float | None) -> npt.NDArray[np.int64]:
    """How many slices further each position is than the one before."""
    for base_mm in (between_mm, float(steps_mm.min())):
        if base_mm is None:
            continue
        counts = np.round(steps_mm / base_mm)
        allowed_mm = 2 * line_tolerance_mm(base_mm)
        if counts.min() >= 1 and np.abs(steps_mm - counts * base_mm).max() <= allowed_mm:
            return counts.astype(np.int64)
    low, high = steps_mm.min(), steps_mm.max()
    raise ReadError("gap", f"steps from {low:.2f} to {high:.2f} mm are no multiples of one another")
