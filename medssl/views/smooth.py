"""Smooth random fields: cubic B-splines of a few control values."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

# Cells of the control grid along each axis of a crop.
CELLS = 4

Field = npt.NDArray[np.float32]


def control_shape(size: tuple[int, ...]) -> tuple[int, ...]:
    """Control values per axis; an axis of one voxel has one.

    >>> control_shape((1, 64, 64))
    (1, 7, 7)
    """
    return tuple(1 if n == 1 else CELLS + 3 for n in size)


def smooth_field(control: npt.NDArray[np.floating], size: tuple[int, ...]) -> Field:
    """Control values (K, n0, n1, ...) -> field (K, *size), twice differentiable.

    The weights are positive and sum to 1: the field never leaves the range of its control values.

    >>> round(float(smooth_field(np.ones((1, 7)), (20,)).std()), 6)
    0.0
    """
    field = np.asarray(control, dtype=np.float32)
    for axis, (voxels, values) in enumerate(zip(size, control.shape[1:], strict=True), start=1):
        if values > 1:
            moved = np.tensordot(_basis(voxels, values), field, axes=(1, axis))
            field = np.moveaxis(moved, 0, axis)
        else:
            field = np.repeat(field, voxels, axis)
    return np.ascontiguousarray(field)


@lru_cache(maxsize=32)
def _basis(voxels: int, values: int) -> Field:
    """(voxels, values) weights of uniform cubic B-splines at the voxel centres."""
    cells = values - 3
    u = (np.arange(voxels) + 0.5) / voxels * cells
    cell = np.minimum(u.astype(int), cells - 1)
    t = u - cell
    weights = np.zeros((voxels, values))
    pieces = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    for step, piece in enumerate(pieces):
        weights[np.arange(voxels), cell + step] = piece / 6
    return weights.astype(np.float32)
