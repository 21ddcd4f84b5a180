"""Crops of a stored record, turned and scaled in millimetres. Only the needed box is read.

A picture is a record of one slice (D = 1); its views turn in the plane only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medssl.core.geometry import AnyArray, FloatArray
from medssl.core.viewspec import Spatial

Read = Callable[[tuple[int, ...], tuple[int, ...]], AnyArray]


@dataclass(frozen=True, eq=False)
class CropDraw:
    """Numbers of one crop: output voxel o shows input ``matrix @ (o - half) + centre``.

    Attributes:
        size: of the output (d, h, w).
        centre: of the crop in input voxels (d, h, w).
        matrix: 3x3, output to input voxels; ``None`` is the identity: plain slicing.
        flips: mirrored output axes.
    """

    size: tuple[int, int, int]
    centre: npt.NDArray[np.float64]
    matrix: npt.NDArray[np.float64] | None
    flips: tuple[bool, bool, bool] = (False, False, False)

    @property
    def place(self) -> npt.NDArray[np.float64]:
        """(3, 4): output voxel (d, h, w, 1) -> input voxel, flips included."""
        matrix = np.eye(3) if self.matrix is None else self.matrix
        last = np.array(self.size) - 1.0
        sign = np.where(self.flips, -1.0, 1.0)
        start = np.where(self.flips, last, 0.0)  # output voxel 0 before mirroring
        offset = matrix @ (start - last / 2) + self.centre
        return np.hstack([matrix * sign, offset[:, None]])


@dataclass(frozen=True, eq=False)
class Region:
    """Part of a record, in input voxels."""

    centre: npt.NDArray[np.float64]
    extent: npt.NDArray[np.float64]


def draw_crop(
    rng: np.random.Generator,
    size: tuple[int, int, int],
    spatial: Spatial,
    shape_DHW: tuple[int, ...],
    spacing_mm: tuple[float, ...],
    region: Region,
) -> CropDraw:
    """Draw a crop whose centre lies in a region, and inside the record wherever it fits."""
    flips = tuple(bool(f) for f in (rng.random(3) < 0.5) & bool(spatial.flip))
    matrix = None
    if rng.random() < spatial.probability and (spatial.rotate_deg or spatial.scale != (1.0, 1.0)):
        matrix = _turn_and_scale(rng, spatial, np.array(spacing_mm), flat=size[0] == 1)
    half = (np.array(size) - 1) / 2
    room = np.maximum(np.array(shape_DHW) - np.array(size), 0)
    low = np.clip(np.ceil(region.centre - region.extent / 2 - half), 0, room)
    high = np.clip(np.floor(region.centre + region.extent / 2 - half), low, room)
    first = rng.integers(low, high + 1).astype(float)
    short = np.minimum(np.array(shape_DHW) - np.array(size), 0)
    centre = first + np.floor(short / 2) + half
    return CropDraw(size, centre, matrix, flips)  # type: ignore[arg-type]


def apply_crop(
    read: Read,
    draw: CropDraw,
    shape_DHW: tuple[int, ...],
    fill: FloatArray,
    *,
    order: Literal[0, 1] = 1,
) -> AnyArray:
    """The crop's voxels (C, *size); what lies outside the record is ``fill`` (C,).

    ``order`` 1 interpolates linearly (images), 0 takes the nearest voxel (labels).
    """
    half = (np.array(draw.size) - 1) / 2
    if draw.matrix is None:
        start = np.rint(draw.centre - half).astype(int)
        box = read_padded(read, start, start + np.array(draw.size), shape_DHW, fill)
    else:
        corners = np.stack(np.meshgrid(*[(-h, h) for h in half], indexing="ij"), -1).reshape(-1, 3)
        reach = corners @ draw.matrix.T + draw.centre
        start = np.floor(reach.min(0) + 1e-9).astype(int)
        stop = np.ceil(reach.max(0) - 1e-9).astype(int) + 1
        padded = read_padded(read, start, stop, shape_DHW, fill)
        offset = draw.centre - start - draw.matrix @ half
        box = np.stack(
            [
                ndimage.affine_transform(
                    x, draw.matrix, offset, output_shape=draw.size, order=order, mode="nearest"
                )
                for x in padded
            ]
        )
    axes = tuple(1 + axis for axis in range(3) if draw.flips[axis])
    return np.ascontiguousarray(np.flip(box, axes))


def read_padded(
    read: Read,
    start: npt.NDArray[np.int64],
    stop: npt.NDArray[np.int64],
    shape_DHW: tuple[int, ...],
    fill: FloatArray,
) -> AnyArray:
    """The box [start, stop), which may reach outside the record."""
    low = np.clip(start, 0, shape_DHW)
    high = np.clip(stop, low, shape_DHW)
    inside = read(tuple(map(int, low)), tuple(map(int, high)))
    if (low == start).all() and (high == stop).all():
        return inside
    out = np.empty((len(fill), *(stop - start)), dtype=inside.dtype)
    out[:] = fill.astype(inside.dtype)[:, None, None, None]
    place = tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))
    out[(slice(None), *place)] = inside
    return out


def _turn_and_scale(
    rng: np.random.Generator,
    spatial: Spatial,
    spacing_mm: npt.NDArray[np.float64],
    *,
    flat: bool,
) -> npt.NDArray[np.float64]:
    """Rotation in world space (mm), so that thick slices do not shear, times a zoom."""
    turn = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(rng.uniform(-1, 1, 3) * spatial.rotate_deg)):
        if flat and axis > 0:
            continue
        a, b = [k for k in range(3) if k != axis]
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(angle)
        step[a, b], step[b, a] = -np.sin(angle), np.sin(angle)
        turn = turn @ step
    zoom = np.full(3, rng.uniform(*spatial.scale))
    if flat:
        zoom[0] = 1.0
    return np.asarray(np.diag(1 / spacing_mm) @ turn @ np.diag(spacing_mm) / zoom)
