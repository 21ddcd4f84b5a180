"""k-means on the sphere: clusters of directions.

N vectors, K clusters, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl.objectives._parts.distributed import rank, total


class Clusters(NamedTuple):
    """Unit centroids (K, D) and the cluster (N,) of each vector."""

    centroid_KD: Tensor
    label_N: Tensor


@torch.no_grad()
def spherical_kmeans(x_ND: Tensor, count: int, *, iterations: int = 10, seed: int = 0) -> Clusters:
    """Clusters by cosine; a centroid is the direction of the mean of its vectors.

    It starts from rows drawn far from each other (k-means++, Arthur and Vassilvitskii 2007), and an
    empty cluster keeps its centroid. The result is a function of the arguments alone, and that of
    rank 0 on every rank.

    >>> x = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 3.0], [0.1, 1.0]])
    >>> a, b, c, d = spherical_kmeans(x, 2).label_N.tolist()
    >>> a == b, c == d, a == c
    (True, True, False)
    """
    unit_ND = F.normalize(x_ND.detach().cpu(), dim=1)
    centroid_KD = _spread_rows(unit_ND, count, torch.Generator().manual_seed(seed))
    for _ in range(iterations):
        label_N = (unit_ND @ centroid_KD.T).argmax(1)
        sum_KD = torch.zeros_like(centroid_KD).index_add_(0, label_N, unit_ND)
        filled = torch.bincount(label_N, minlength=count)[:, None] > 0
        centroid_KD = torch.where(filled, F.normalize(sum_KD, dim=1), centroid_KD)
    label_N = (unit_ND @ centroid_KD.T).argmax(1)
    return Clusters(*(_of_first_rank(v.to(x_ND.device)) for v in (centroid_KD, label_N)))


def _spread_rows(unit_ND: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Rows, each drawn with a chance in proportion to its squared distance to those before."""
    far_N = torch.ones(len(unit_ND), dtype=torch.float64)
    rows: list[Tensor] = []
    for _ in range(count):
        rows.append(unit_ND[torch.multinomial(far_N, 1, generator=generator)])
        far_N = torch.minimum(far_N, (1 - unit_ND @ rows[-1][0]).double().clamp(min=1e-12))
    return torch.cat(rows)


def _of_first_rank(x: Tensor) -> Tensor:
    return total(x if rank() == 0 else torch.zeros_like(x))
