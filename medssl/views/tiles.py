"""Crops side by side: the base crops of a record, and where other views lie among them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from medssl.core.viewspec import Spatial, View
from medssl.views.crops import Where, fullest, size_of
from medssl.views.intensity import Crop
from medssl.views.source import Source
from medssl.views.spatial import CropDraw, Region


def tiled(
    view: View, rng: np.random.Generator, source: Source, where: Where, min_tissue: float
) -> tuple[CropDraw, list[tuple[CropDraw, Crop]]]:
    """The block of tiles, and the tiles in raster order.

    The block lies on the grid of voxels, neither turned nor zoomed nor mirrored. Along an axis on
    which the record is smaller than the block, the record is in its middle, and the outer tiles are
    padded, or hold padding alone.
    """
    size = tuple(t * c for t, c in zip(view.tiles, view.crop, strict=True))
    block, x = fullest(
        view.model_copy(update={"crop": size, "spatial": Spatial(flip=False)}),
        rng, source, where, min_tissue,
    )  # fmt: skip
    return block, list(_tiles(size_of(view.crop), block, x))


def within(block: CropDraw) -> Where:
    """All of the crop lies in the block, where it fits."""

    def where(draw: CropDraw) -> tuple[CropDraw, Region]:
        reach = np.maximum(np.array(block.size) - draw.outer, 0) / 2
        return draw, Region(block.centre - reach, block.centre + reach)

    return where


def _tiles(size: tuple[int, int, int], block: CropDraw, x: Crop) -> Iterator[tuple[CropDraw, Crop]]:
    counts = np.array(block.size) // size
    for index in np.ndindex(*counts):
        start = np.array(index) * size
        centre = block.centre + start - (np.array(block.size) - size) / 2
        cut = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        tile = np.ascontiguousarray(x[(slice(None), *cut)])
        yield replace(block, size=size, centre=centre), tile
