"""Mean features of regions: maps on any grid, pooled over the voxels of each region of a batch.

B samples, V voxels of a crop, M regions of the batch, N cells of a map, C channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from medssl.objectives._parts.precision import upcast


class Regions(NamedTuple):
    """The regions of a batch that are not empty, sample by sample.

    Attributes:
        row_BV: region of each voxel, raster order; -1 = none.
        sample_M: sample of each region.
        size_M: voxels of each region.
    """

    row_BV: Tensor
    sample_M: Tensor
    size_M: Tensor


def regions_of(segments_BX: Tensor) -> Regions:
    """Regions from label maps (B, *space), 0 = none; equal numbers in two samples are two regions.

    >>> found = regions_of(torch.tensor([[0, 7, 7], [7, 3, 3]]))
    >>> found.row_BV.tolist(), found.sample_M.tolist(), found.size_M.tolist()
    ([[-1, 0, 0], [2, 1, 1]], [0, 1, 1], [2, 2, 1])
    """
    label_BV = segments_BX.flatten(1)
    stride = int(label_BV.max()) + 1
    key_BV = label_BV + stride * torch.arange(len(label_BV), device=label_BV.device)[:, None]
    inside_BV = label_BV > 0
    key_M, row, size_M = torch.unique(
        key_BV[inside_BV], sorted=True, return_inverse=True, return_counts=True
    )
    row_BV = torch.full_like(label_BV, -1)
    row_BV[inside_BV] = row
    return Regions(row_BV, key_M // stride, size_M)


def cells_of_voxels(size: tuple[int, ...], grid: tuple[int, ...]) -> Tensor:
    """Cell (V,) of a map with ``grid`` cells over a crop of ``size`` that each voxel lies in.

    >>> cells_of_voxels((2, 4), (1, 2)).tolist()
    [0, 0, 1, 1, 0, 0, 1, 1]
    """
    axes = [
        ((torch.arange(s, dtype=torch.float64) + 0.5) * g / s).long()
        for s, g in zip(size, grid, strict=True)
    ]
    return raster(axes, grid)


def raster(axes: list[Tensor], grid: tuple[int, ...]) -> Tensor:
    """Raster index of every combination of places along the axes of a grid."""
    index = axes[0]
    for places, cells in zip(axes[1:], grid[1:], strict=True):
        index = index[..., None] * cells + places
    return index.flatten()


def pooled(cells_NC: Tensor, cell_BV: Tensor, regions: Regions) -> Tensor:
    """Mean feature (M, C) of each region: every voxel has the feature of its cell.

    Each cell is read once per region that it touches, however many voxels they share.

    Args:
        cells_NC: features of the cells of all samples.
        cell_BV: cell of each voxel, among those of all samples.
        regions: of the batch.
    """
    features = upcast(cells_NC)
    inside_BV = regions.row_BV >= 0
    pair = regions.row_BV[inside_BV] * len(features) + cell_BV[inside_BV]
    pair, shared = torch.unique(pair, return_counts=True)
    row, cell = pair // len(features), pair % len(features)
    share = (shared / regions.size_M[row]).to(features.dtype)
    out = features.new_zeros(len(regions.size_M), features.shape[1])
    return out.index_add(0, row, features[cell] * share[:, None])


def pooled_map(map_BCX: Tensor, size: tuple[int, ...], regions: Regions) -> Tensor:
    """Mean feature (M, C) of each region in a map over crops of ``size``."""
    grid = tuple(map_BCX.shape[2:])
    cells_NC = map_BCX.flatten(2).transpose(1, 2).flatten(0, 1)
    cell_V = cells_of_voxels(size, grid).to(map_BCX.device)
    count = cells_NC.shape[0] // len(map_BCX)
    first_B = torch.arange(len(map_BCX), device=map_BCX.device) * count
    return pooled(cells_NC, first_B[:, None] + cell_V, regions)
