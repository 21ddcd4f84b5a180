"""Crops of a stored volume, turned and scaled in millimetres. Only the needed box is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medssl.core.geometry import AnyArray, FloatArray
from medssl.core.viewspec import ViewSpec

Read = Callable[[tuple[int, ...], tuple[int, ...]], AnyArray]


@dataclass(frozen=True, eq=False)
class CropDraw:
    """Numbers of one crop: output voxel o shows input ``matrix @ (o - half) + centre``.

    Attributes:
        centre: of the crop in input voxels (d, h, w).
        matrix: 3x3, output to input voxels; ``None`` is the identity: plain slicing.
        flips: mirrored output axes.
    """

    centre: npt.NDArray[np.float64]
    matrix: npt.NDArray[np.float64] | None
    flips: tuple[bool, bool, bool]


def draw_crop(
    rng: np.random.Generator,
    spec: ViewSpec,
    shape_DHW: tuple[int, ...],
    spacing_mm: tuple[float, ...],
    foreground: npt.NDArray[np.int64] | None = None,
) -> CropDraw:
    """Draw a crop that lies inside the volume wherever the volume is large enough."""
    size, shape = np.array(spec.crop), np.array(shape_DHW)
    half = (size - 1) / 2
    room = np.maximum(shape - size, 0)
    first = rng.integers(room + 1).astype(float)
    wants_foreground = rng.random() < spec.foreground
    if wants_foreground and foreground is not None and len(foreground):
        point = foreground[rng.integers(len(foreground))]
        first = np.clip(point - rng.integers(size), 0, room).astype(float)
    short = np.minimum(shape - size, 0)
    centre = first + np.floor(short / 2) + half
    flips = tuple(bool(f) for f in (rng.random(3) < 0.5) & spec.flip)
    matrix = None
    if rng.random() < spec.spatial_probability:
        matrix = _turn_and_scale(rng, spec, np.array(spacing_mm))
    return CropDraw(centre, matrix, flips)  # type: ignore[arg-type]


def apply_crop(
    read: Read,
    draw: CropDraw,
    crop: tuple[int, ...],
    shape_DHW: tuple[int, ...],
    fill: FloatArray,
    *,
    order: Literal[0, 1] = 1,
) -> AnyArray:
    """The crop's voxels (C, *crop); what lies outside the volume is ``fill`` (C,).

    ``order`` 1 interpolates linearly (images), 0 takes the nearest voxel (labels).
    """
    half = (np.array(crop) - 1) / 2
    if draw.matrix is None:
        start = np.rint(draw.centre - half).astype(int)
        box = read_padded(read, start, start + np.array(crop), shape_DHW, fill)
    else:
        corners = np.stack(np.meshgrid(*[(-h, h) for h in half], indexing="ij"), -1).reshape(-1, 3)
        reach = corners @ draw.matrix.T + draw.centre
        start = np.floor(reach.min(0)).astype(int)
        stop = np.ceil(reach.max(0)).astype(int) + 1
        padded = read_padded(read, start, stop, shape_DHW, fill)
        offset = draw.centre - start - draw.matrix @ half
        box = np.stack(
            [
                ndimage.affine_transform(
                    x, draw.matrix, offset, output_shape=crop, order=order, mode="nearest"
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
    """The box [start, stop), which may reach outside the volume."""
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
    rng: np.random.Generator, spec: ViewSpec, spacing_mm: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Rotation in world space (mm), so that thick slices do not shear, times a zoom."""
    turn = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(rng.uniform(-1, 1, 3) * spec.rotate_deg)):
        a, b = [k for k in range(3) if k != axis]
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(angle)
        step[a, b], step[b, a] = -np.sin(angle), np.sin(angle)
        turn = turn @ step
    zoom = rng.uniform(*spec.scale)
    return np.asarray(np.diag(1 / spacing_mm) @ turn @ np.diag(spacing_mm)) / zoom
