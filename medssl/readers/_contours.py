"""Closed contours on a pixel raster: which pixel centres lie inside, and the exact area."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError

# Crossings of one polygon with the rows of pixels; more is no outline of anything.
MAX_CROSSINGS = 20_000_000

Polygons = list[npt.NDArray[np.float64]]
"""Closed polygons of one slice, (N, 2) each, in pixels (W, H); pixel centres are whole numbers."""


def fill(polygons: Polygons, shape_HW: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Pixels whose centre lies inside an odd number of polygons.

    A centre on a left or upper edge is inside, on a right or lower edge outside: polygons that
    share an edge share no pixel.

    >>> square = np.array([[0.5, 0.5], [3.5, 0.5], [3.5, 2.5], [0.5, 2.5]])
    >>> fill([square], (4, 5)).astype(int)
    array([[0, 0, 0, 0, 0],
           [0, 1, 1, 1, 0],
           [0, 1, 1, 1, 0],
           [0, 0, 0, 0, 0]])

    Raises:
        ReadError: ``too_large``.
    """
    height, width = shape_HW
    # Each edge toggles every pixel to its right, row by row (crossing number).
    toggles = np.zeros((height, width + 1), dtype=np.int32)
    for polygon in polygons:
        rows, crossings = _crossings(polygon, height)
        columns = np.clip(np.ceil(crossings), 0, width).astype(np.int64)
        np.add.at(toggles, (rows, columns), 1)
    return np.asarray(np.cumsum(toggles[:, :width], axis=1) % 2 == 1)


def area_px(polygons: Polygons) -> float:
    """Area that nested polygons enclose: a polygon within another is a hole.

    >>> square = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0]])
    >>> area_px([square, square / 2 + 1])
    12.0
    """
    total = 0.0
    for index, polygon in enumerate(polygons):
        others = (p for k, p in enumerate(polygons) if k != index)
        depth = sum(_contains(other, polygon[0]) for other in others)
        total += (-1) ** depth * abs(_signed_area(polygon))
    return abs(total)


def error_allowed_px(polygons: Polygons) -> float:
    """What the raster alone explains: an axis-aligned box gains or loses half its outline.

    A box of a x b pixels holds up to (a + 1)(b + 1) centres: a + b + 1 more than its area.
    """
    outline = sum(float(_lengths(polygon).sum()) for polygon in polygons)
    return outline / 2 + len(polygons)


def _crossings(
    polygon: npt.NDArray[np.float64], height: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Row and W coordinate of every crossing of the outline with a line of pixel centres."""
    start, stop = polygon, np.roll(polygon, -1, axis=0)
    upper = np.where((start[:, 1] <= stop[:, 1])[:, None], start, stop)
    lower = np.where((start[:, 1] <= stop[:, 1])[:, None], stop, start)
    # Half-open: a row belongs to the edge that starts on it.
    first = np.clip(np.ceil(upper[:, 1]), 0, height).astype(np.int64)
    last = np.clip(np.ceil(lower[:, 1]), 0, height).astype(np.int64)
    count = last - first
    if count.sum() > MAX_CROSSINGS:
        raise ReadError("too_large", "an outline crosses the image more often than any drawing")
    edge = np.repeat(np.arange(len(polygon)), count)
    rows = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    share = (rows - upper[edge, 1]) / (lower[edge, 1] - upper[edge, 1])
    return rows, upper[edge, 0] + share * (lower[edge, 0] - upper[edge, 0])


def _contains(polygon: npt.NDArray[np.float64], point: npt.NDArray[np.float64]) -> bool:
    a, b = polygon, np.roll(polygon, -1, axis=0)
    spans = (a[:, 1] <= point[1]) != (b[:, 1] <= point[1])
    a, b = a[spans], b[spans]
    at = a[:, 0] + (point[1] - a[:, 1]) / (b[:, 1] - a[:, 1]) * (b[:, 0] - a[:, 0])
    return int(np.count_nonzero(at <= point[0])) % 2 == 1


def _signed_area(polygon: npt.NDArray[np.float64]) -> float:
    # Relative to the first point: far from the origin the products would cancel.
    x, y = (polygon - polygon[0]).T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _lengths(polygon: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    sides = np.linalg.norm(np.roll(polygon, -1, axis=0) - polygon, axis=1)
    return np.asarray(sides, dtype=np.float64)
