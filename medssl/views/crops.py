"""Which crop of a record a view shows: where its centre may lie, and how much tissue it holds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from medssl.core.viewspec import View
from medssl.views.guard import may_mirror
from medssl.views.intensity import Crop
from medssl.views.source import Source
from medssl.views.spatial import (
    CropDraw,
    Region,
    Vector,
    apply_crop,
    draw_crop,
    farthest,
    narrowed,
    put,
)

# Draws until a crop with enough tissue is found; the fullest is taken then.
_TRIES = 4
# Keeps the upper edge of a part, which is the lower one of the next, out of it.
_EDGE = 1e-6

Where = Callable[[CropDraw], tuple[CropDraw, Region | None]]
"""Where the centre of a crop may lie; the crop may be changed to fit there."""


def fullest(
    view: View, rng: np.random.Generator, source: Source, where: Where, min_tissue: float
) -> tuple[CropDraw, Crop]:
    """A crop with enough tissue, or the fullest of a few."""
    best: tuple[float, CropDraw, Crop] | None = None
    for _ in range(_TRIES):
        draw, region = where(
            draw_crop(
                rng, size_of(view.crop), view.spatial, source.spacing_mm,
                flip=may_mirror(view.spatial.flip, source.modality),
            )
        )  # fmt: skip
        draw = put(rng, draw, source.shape_DHW, region)
        x = np.asarray(apply_crop(source.read, draw, source.shape_DHW, np.array(source.fill)))
        share = float(tissue_of(source, x).mean())
        if best is None or share > best[0]:
            best = share, draw, x
        if share >= min_tissue:
            break
    assert best is not None
    return best[1:]


def anywhere(draw: CropDraw) -> tuple[CropDraw, Region | None]:
    """In the record."""
    return draw, None


def near(first: CropDraw, overlap: float) -> Where:
    """The first view shows at least ``overlap`` of the crop, per axis."""

    def where(draw: CropDraw) -> tuple[CropDraw, Region]:
        draw = narrowed(first, draw, overlap)
        reach = farthest(first, draw, overlap)
        return draw, Region(first.centre - reach, first.centre + reach)

    return where


def holding(voxel: Vector) -> Where:
    """The crop shows a voxel, somewhere."""

    def where(draw: CropDraw) -> tuple[CropDraw, Region]:
        reach = np.maximum(draw.inner - 1, 0) / 2
        return draw, Region(voxel - reach, voxel + reach)

    return where


def centred(voxel: Vector) -> Where:
    """The crop shows a voxel in its middle, at ``size // 2`` where voxels are copied."""

    def where(draw: CropDraw) -> tuple[CropDraw, Region]:
        size = np.array(draw.size)
        centre = voxel - size // 2 + (size - 1) / 2 if draw.plain else voxel
        return draw, Region(centre, centre)

    return where


def in_part(body: Vector, part: int, parts: int) -> Where:
    """The centre lies in one of ``parts`` of equal length along the first axis of the body.

    Voxel i of n belongs to the part that its centre i + 1/2 lies in, so the parts cover all n
    without a gap, also where ``parts`` does not divide n. A record with fewer voxels than parts
    gives its voxel nearest to the middle of the part.

    Args:
        body: (2, 3) edges of the tissue in voxels.
        part: 0 is the end with the smallest voxel numbers (the feet).
        parts: how many there are.
    """
    start, length = body[0, 0], body[1, 0] - body[0, 0]
    low, high = start + length * part / parts, start + length * (part + 1) / parts - _EDGE
    if length < parts:
        low = high = start + np.floor((part + 0.5) * length / parts) + 0.5
    free = np.array([np.inf, np.inf])
    region = Region(np.array([low, *-free]), np.array([high, *free]))
    return lambda draw: (draw, region)


def labelled(share: float, rng: np.random.Generator, source: Source) -> Where:
    """A ``share`` of crops holds a random labelled voxel, the others lie anywhere."""
    wanted, points = rng.random() < share, source.foreground
    if not wanted or points is None or not len(points):
        return anywhere
    return holding(np.asarray(points[rng.integers(len(points))], dtype=float))


def size_of(crop: tuple[int, ...]) -> tuple[int, int, int]:
    """Voxels (d, h, w) of a crop of two or three axes."""
    d, h, w = crop if len(crop) == 3 else (1, *crop)
    return d, h, w


def tissue_of(source: Source, x: Crop) -> npt.NDArray[np.bool_]:
    """Voxels above air, (C, d, h, w)."""
    return np.asarray(x > np.array(source.air)[:, None, None, None])
