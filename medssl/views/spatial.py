"""Crops of a stored record: turned, zoomed and bent in millimetres with one interpolation.

A picture, or a slice of a volume, is a record of one slice (D = 1): its views turn, zoom and bend
in the plane only. Only the box that a crop needs is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from medssl.core.geometry import AnyArray, FloatArray
from medssl.core.viewspec import Spatial
from medssl.views.resample import resample
from medssl.views.smooth import CELLS, control_shape, smooth_field

# Displacements below this share of the control spacing cannot fold a cubic B-spline field
# (Choi and Lee 2000: 1 / 2.48 in three dimensions).
_NO_FOLD = 0.4

Vector = npt.NDArray[np.float64]
Read = Callable[[tuple[int, ...], tuple[int, ...]], AnyArray]


@dataclass(frozen=True, eq=False)
class CropDraw:
    """Numbers of one crop: output voxel o shows input ``matrix @ (o - half) + centre + bend(o)``.

    Attributes:
        size: of the output (d, h, w).
        centre: of the crop in input voxels (d, h, w).
        matrix: 3x3, output to input voxels; ``None`` is the identity.
        flips: mirrored output axes.
        bend: (3, ...) control values of a smooth displacement, in input voxels; ``None`` = none.
    """

    size: tuple[int, int, int]
    centre: Vector
    matrix: Vector | None
    flips: tuple[bool, bool, bool] = (False, False, False)
    bend: npt.NDArray[np.float32] | None = None

    @property
    def plain(self) -> bool:
        """Whether voxels are copied, not interpolated."""
        return self.matrix is None and self.bend is None

    @property
    def affine(self) -> Vector:
        return np.eye(3) if self.matrix is None else self.matrix

    @property
    def place(self) -> Vector:
        """(3, 4): output voxel (d, h, w, 1) -> input voxel, flips included, without the bend."""
        last = np.array(self.size) - 1.0
        sign = np.where(self.flips, -1.0, 1.0)
        start = np.where(self.flips, last, 0.0)  # output voxel 0 before mirroring
        offset = self.affine @ (start - last / 2) + self.centre
        return np.hstack([self.affine * sign, offset[:, None]])

    @property
    def extent(self) -> Vector:
        """Edges of the crop in input voxels, before it is turned."""
        flat = self.size[0] == 1
        step = abs(np.linalg.det(self.affine)) ** (1 / (2 if flat else 3))
        extent: Vector = np.array(self.size) * step
        extent[0] = 1.0 if flat else extent[0]
        return extent

    @property
    def outer(self) -> Vector:
        """Edges of the box of input voxels around the crop, before it is bent."""
        return np.asarray(np.abs(self.affine) @ np.array(self.size))

    @property
    def inner(self) -> Vector:
        """Edges of a box of input voxels, of the same form as the crop, that it shows wholly."""
        needed = np.abs(np.linalg.inv(self.affine)) @ self.extent
        share = float((np.array(self.size) / needed).min())
        return np.asarray(np.maximum(share * self.extent - 2 * self.reach, 0.0))

    @property
    def reach(self) -> Vector:
        """Largest displacement by the bend, in input voxels."""
        if self.bend is None:
            return np.zeros(3)
        return np.asarray(np.abs(self.bend).max((1, 2, 3)), dtype=float)


@dataclass(frozen=True, eq=False)
class Region:
    """Where the centre of a crop may lie, in input voxels."""

    low: Vector
    high: Vector


def draw_crop(
    rng: np.random.Generator,
    size: tuple[int, int, int],
    spatial: Spatial,
    spacing_mm: tuple[float, ...],
    *,
    flip: bool,
) -> CropDraw:
    """Draw how a crop is turned, zoomed, bent and mirrored; :func:`put` says where it lies."""
    spacing, flat = np.array(spacing_mm, dtype=float), size[0] == 1
    mirrored = (rng.random(3) < 0.5) & flip
    turns, bends = rng.random(2) < spatial.probability
    angles = np.deg2rad(rng.uniform(-1, 1, 3) * spatial.rotate_deg)
    zoom = float(np.exp(rng.uniform(*np.log(spatial.scale))))
    matrix = None
    if turns and (spatial.rotate_deg or spatial.scale != (1.0, 1.0)):
        matrix = turn_and_zoom(angles * ([1, 0, 0] if flat else 1), zoom, spacing, flat=flat)
    flips = (bool(mirrored[0]) and not flat, bool(mirrored[1]), bool(mirrored[2]))
    draw = CropDraw(size, np.zeros(3), matrix, flips)
    if bends and spatial.elastic_mm:
        draw = replace(draw, bend=_bend(rng, draw, spatial.elastic_mm, spacing))
    return draw


def farthest(first: CropDraw, other: CropDraw, share: float) -> Vector:
    """Largest distance of the centres, per axis, so that ``first`` shows ``share`` of ``other``.

    Two boxes of widths a and b at distance t overlap by min(a, b, (a + b) / 2 - t). This holds
    both for the boxes around the crops and for boxes inside them: turned crops then share at
    least ``share`` ** axes of the voxels of ``other``. Where ``first`` is smaller than that, all
    of it is shown; where strong turns make the second impossible, the centres are the same.
    """
    around = (first.outer + other.outer) / 2 - np.minimum(share * other.outer, first.outer)
    inside = (first.inner + other.inner) / 2 - np.minimum(share * other.extent, first.inner)
    return np.maximum(np.minimum(around, inside), 0.0)


def narrowed(first: CropDraw, other: CropDraw, share: float) -> CropDraw:
    """``other``, zoomed in where it would show so much that ``first`` is less than its share.

    Crops that are larger than ``first`` in the output too are left as they are.
    """
    step = min(1.0, float((first.outer / np.maximum(share * other.outer, 1e-9)).min()))
    if step == 1.0 or (np.array(other.size) > first.size).any():
        return other
    zooms = np.array([1.0 if other.size[0] == 1 else step, step, step])
    return replace(other, matrix=other.affine * zooms)


def put(
    rng: np.random.Generator,
    draw: CropDraw,
    shape_DHW: tuple[int, ...],
    region: Region | None = None,
) -> CropDraw:
    """The crop at a random place of ``region``, inside the record wherever both can be had."""
    size, shape = np.array(draw.size), np.array(shape_DHW)
    slack = np.maximum(shape - draw.extent, 0) / 2
    if draw.plain:  # a crop larger than the record by an odd number of voxels lies half a voxel off
        slack = np.where((size > shape) & ((size - shape) % 2 == 1), 0.5, slack)
    low, high = (shape - 1) / 2 - slack, (shape - 1) / 2 + slack
    if region is not None:
        low, high = (np.clip(x, region.low, region.high) for x in (low, high))
    half = (size - 1) / 2
    first, last = np.ceil(low - half - 1e-9), np.floor(high - half + 1e-9)
    whole = first <= last
    start = rng.integers(first, np.maximum(first, last) + 1)
    if draw.plain and whole.all():
        return replace(draw, centre=start + half)
    # Between voxels: also a plain crop whose region holds no whole voxel step.
    centre = rng.uniform(low, high)
    if draw.size[0] == 1:  # slices are never mixed
        centre[0] = start[0]
    return replace(draw, centre=centre, matrix=draw.affine)


def apply_crop(
    read: Read,
    draw: CropDraw,
    shape_DHW: tuple[int, ...],
    fill: FloatArray,
    *,
    nearest: bool = False,
) -> AnyArray:
    """The crop's voxels (C, *size); what lies outside the record is ``fill`` (C,).

    Linear interpolation, smoothed before where the crop shrinks the record; ``nearest`` is for
    labels.
    """
    half = (np.array(draw.size) - 1) / 2
    if draw.plain:
        start = np.rint(draw.centre - half).astype(int)
        box = read_padded(read, start, start + np.array(draw.size), shape_DHW, fill)
    else:
        around = np.abs(draw.affine) @ half + draw.reach
        start = np.floor(draw.centre - around + 1e-6).astype(int)
        stop = np.ceil(draw.centre + around - 1e-6).astype(int) + 1
        padded = read_padded(read, start, stop, shape_DHW, fill)
        places = _places(draw, draw.centre - start - draw.affine @ half)
        step = draw.extent / np.array(draw.size)
        box = resample(padded, places, step, nearest=nearest)
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


def turn_and_zoom(angles_rad: Vector, zoom: float, spacing_mm: Vector, *, flat: bool) -> Vector:
    """Rotation in world space (mm), so that thick slices do not shear, times a zoom."""
    turn = np.eye(3)
    for axis, angle in enumerate(angles_rad):
        a, b = [k for k in range(3) if k != axis]
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(angle)
        step[a, b], step[b, a] = -np.sin(angle), np.sin(angle)
        turn = turn @ step
    zooms = np.array([1.0 if flat else zoom, zoom, zoom])
    return np.asarray(np.diag(1 / spacing_mm) @ turn @ np.diag(spacing_mm) / zooms)


def _bend(
    rng: np.random.Generator, draw: CropDraw, largest_mm: float, spacing_mm: Vector
) -> npt.NDArray[np.float32]:
    """Control values of a displacement of at most ``largest_mm`` that does not fold."""
    moving = np.array(draw.size) > 1
    cell_mm = draw.extent * spacing_mm / CELLS
    most_mm = np.minimum(largest_mm / np.sqrt(max(moving.sum(), 1)), _NO_FOLD * cell_mm) * moving
    control = rng.uniform(-1, 1, (3, *control_shape(draw.size)))
    return np.asarray(control * (most_mm / spacing_mm)[:, None, None, None], dtype=np.float32)


def _places(draw: CropDraw, offset: Vector) -> npt.NDArray[np.float32]:
    """(3, *size): voxel of the padded box that each output voxel shows."""
    d, h, w = (np.arange(n, dtype=np.float32) for n in draw.size)
    places = np.empty((3, *draw.size), dtype=np.float32)
    for axis, row in enumerate(draw.affine.astype(np.float32)):
        start = row[0] * d + np.float32(offset[axis])
        places[axis] = start[:, None, None] + (row[1] * h)[:, None] + row[2] * w
    if draw.bend is not None:
        places += smooth_field(draw.bend, draw.size)
    return places
