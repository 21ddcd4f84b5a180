"""Contrast of places within an image: a region finds itself among the regions beside it.

U maps, P pairs of maps, R regions, C cells of a map in a region, K regions beside one, D width.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl.core.errors import ConfigError
from medssl.objectives._parts.precision import no_autocast, upcast

# Cells of a region along an axis, and how many regions beside it are told apart from it.
_EDGE = 3
NEAR = 5
# Places along an axis in quarters of its free length: of the grid, and of the inner points.
_GRID, _INNER = (0, 2, 4), (1, 3)
# An axis of fewer cells cannot tell five places apart.
_FEWEST = _EDGE + 4


class Layout(NamedTuple):
    """Regions of a map: cells of each, in raster order of the map, and those beside it."""

    cells_RC: Tensor
    near_RK: Tensor


def region_layout(size: tuple[int, ...]) -> Layout:
    """Regions of 3 cells per axis: 3 along each axis of the map, and points between them.

    A map of two axes has 9 + 4 = 13 regions (Chaitanya et al. 2020), one of three axes
    27 + 8 = 35. An axis of fewer than 7 cells is not divided: regions lie in its middle. Regions
    overlap where the map has fewer than 15 cells along an axis.

    Raises:
        ConfigError: the map is too small.

    >>> [tuple(part.shape) for size in ((16, 16), (16, 16, 16)) for part in region_layout(size)]
    [(13, 9), (13, 5), (35, 27), (35, 5)]
    """
    starts = [corner for places in (_GRID, _INNER) for corner in _corners(size, places)]
    if len(starts) <= NEAR:
        what = f"maps of {list(size)} cells are too small for regions beside each other"
        raise ConfigError(what, fix="a larger crop, or more of objective.decoder_blocks")
    number = torch.arange(torch.Size(size).numel()).view(size)
    edges = [min(_EDGE, side) for side in size]
    cells = [
        number[tuple(slice(a, a + edge) for a, edge in zip(start, edges, strict=True))]
        for start in starts
    ]
    place_RA = torch.tensor(starts, dtype=torch.float64)
    far_RR = torch.cdist(place_RA, place_RA, compute_mode="donot_use_mm_for_euclid_dist")
    # The region itself comes first; of equally near ones those that are listed first.
    order_RR = far_RR.fill_diagonal_(-1).argsort(dim=1, stable=True)
    return Layout(torch.stack(cells).flatten(1), order_RR[:, 1 : NEAR + 1])


def _corners(size: tuple[int, ...], places: tuple[int, ...]) -> list[tuple[int, ...]]:
    axes = []
    for side in size:
        free = max(side - _EDGE, 0)
        axes.append([free // 2] if side < _FEWEST else [free * place // 4 for place in places])
    return sorted(product(*axes))


def region_vectors(map_UCX: Tensor, cells_RC: Tensor) -> Tensor:
    """Channels of the cells of each region, side by side: (U, R, D).

    >>> region_vectors(torch.arange(8.0).view(1, 2, 2, 2), torch.tensor([[0, 1], [2, 3]]))
    tensor([[[0., 1., 4., 5.],
             [2., 3., 6., 7.]]])
    """
    return map_UCX.flatten(2)[:, :, cells_RC].transpose(1, 2).flatten(2)


def region_nce(z_URD: Tensor, pair_P2: Tensor, near_RK: Tensor, temperature: float) -> Tensor:
    """Each region finds itself in the other map of its pair, among those beside it in both.

    Mean over pairs (f, g) and regions p of
    -log( e^{f_p.g_p/t} / (e^{f_p.g_p/t} + sum_{n beside p} (e^{f_p.f_n/t} + e^{f_p.g_n/t})) ).

    Args:
        z_URD: vectors of regions; they are brought to length 1.
        pair_P2: numbers of f and g.
        near_RK: regions beside each one.
        temperature: t.

    Source: Chaitanya et al. 2020, Eq. 3.

    Equal vectors leave a guess among the region and 2 K others, here log 11:

    >>> near = torch.tensor([[(p + k) % 6 for k in range(1, 6)] for p in range(6)])
    >>> round(region_nce(torch.ones(2, 6, 4), torch.tensor([[0, 1]]), near, 0.1).item(), 4)
    2.3979
    """
    z_URD = F.normalize(upcast(z_URD), dim=2, eps=1e-6)
    first, second = pair_P2.unbind(1)
    with no_autocast(z_URD):
        within_PRR = (z_URD @ z_URD.transpose(1, 2))[first]
        across_PRR = z_URD[first] @ z_URD[second].transpose(1, 2)
    beside = near_RK.expand(len(pair_P2), -1, -1)
    positive_PR = across_PRR.diagonal(dim1=1, dim2=2)
    others = [within_PRR.gather(2, beside), across_PRR.gather(2, beside)]
    logits = torch.cat([positive_PR[..., None], *others], 2) / temperature
    return (logits.logsumexp(2) - logits[..., 0]).mean()
