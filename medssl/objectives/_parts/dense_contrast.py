"""InfoNCE of places: each finds its match among the places that look most like it.

B samples, P anchors of a sample, M places it might be taken for, K negatives.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl.core.task import Batch
from medssl.encoders._tokens import take_tokens
from medssl.objectives._parts.correspondence import (
    cell_centres,
    chosen,
    hashed,
    inside,
    numbered,
    to_record,
    to_view,
    vectors_at,
)
from medssl.objectives._parts.dense import Embedded
from medssl.objectives._parts.precision import no_autocast, upcast


class Side(NamedTuple):
    """One view of the batch, with a pool of M random cells in which matches are looked for."""

    maps: Embedded
    size: tuple[int, ...]
    place_B34: Tensor
    spacing_B13: Tensor
    record_BM3: Tensor
    """Cells in voxels of the record."""
    pool: tuple[Tensor, Tensor]
    """Fine and coarse vectors of the cells, (B, M, D) each."""
    tissue_BM: Tensor

    @property
    def mm_BM3(self) -> Tensor:
        return self.record_BM3 * self.spacing_B13


class Compared(NamedTuple):
    """Cosines of anchors with their match and with the pools of both views."""

    query_BPD: Tensor
    match_BP: Tensor
    pool_BPM: Tensor


class Matches(NamedTuple):
    """Anchors of one view in the other.

    Attributes:
        kept_BP: which anchors are some: the view may share fewer places.
        apart_BPM: distance of each anchor to the cells of both pools, in mm.
    """

    kept_BP: Tensor
    apart_BPM: Tensor
    fine: Compared
    coarse: Compared

    @property
    def likeness_BPM(self) -> Tensor:
        return (self.fine.pool_BPM + self.coarse.pool_BPM).detach()


def look(view: Batch, maps: Embedded, spacing_B3: Tensor, key_B: Tensor, pool: int) -> Side:
    """A view with a pool of its cells."""
    size, grid = tuple(view["x"].shape[2:]), tuple(maps.fine.shape[2:])
    cells_N3 = cell_centres(grid, size, key_B.device)
    every = torch.ones(len(key_B), len(cells_N3), dtype=torch.bool, device=key_B.device)
    index_BM, _ = chosen(numbered(key_B, len(cells_N3)), every, pool)
    voxels_BM3, place = cells_N3[index_BM], view["place"]
    fine_BMD = take_tokens(maps.fine.flatten(2).transpose(1, 2), index_BM)
    coarse_BMD = vectors_at(maps.coarse, voxels_BM3, size)
    return Side(
        maps=maps,
        size=size,
        place_B34=place,
        spacing_B13=spacing_B3[:, None].to(place),
        record_BM3=to_record(voxels_BM3, place),
        pool=(fine_BMD, coarse_BMD),
        tissue_BM=mostly_tissue(view["tissue"], grid).gather(1, index_BM),
    )


def mostly_tissue(tissue_BCX: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Which cells (B, N) hold at least half tissue, of any channel.

    >>> mostly_tissue(torch.tensor([[[[True, True, False, False]]]]), (1, 2))
    tensor([[ True, False]])
    """
    pool = F.adaptive_avg_pool3d if len(grid) == 3 else F.adaptive_avg_pool2d
    share = pool(tissue_BCX.any(1, keepdim=True).float(), grid)  # type: ignore[arg-type]
    return share.flatten(1) >= 0.5


def match(source: Side, target: Side, key_B: Tensor, anchors: int) -> Matches:
    """Anchors: random cells of tissue in the pool of ``source`` that ``target`` shows too."""
    seen_BM3 = to_view(source.record_BM3, target.place_B34)
    shared_BM = source.tissue_BM & inside(seen_BM3, target.size)
    anchor_BP, kept_BP = chosen(numbered(key_B, shared_BM.shape[1]), shared_BM, anchors)
    seen_BP3 = take_tokens(seen_BM3, anchor_BP)
    apart_BPM = torch.cdist(
        take_tokens(source.mm_BM3, anchor_BP),
        torch.cat([source.mm_BM3, target.mm_BM3], 1),
        compute_mode="donot_use_mm_for_euclid_dist",
    )
    compared = []
    for map_BDX, own, other in zip(target.maps, source.pool, target.pool, strict=True):
        query_BPD = take_tokens(own, anchor_BP)
        match_BPD = vectors_at(map_BDX, seen_BP3, target.size)
        match_BP = (query_BPD * match_BPD).sum(-1)
        compared.append(
            Compared(query_BPD, match_BP, cosines(query_BPD, torch.cat([own, other], 1)))
        )
    return Matches(kept_BP, apart_BPM, *compared)


class Negatives(NamedTuple):
    """How negatives are taken: ``kept`` at random of the ``hard`` most similar ones."""

    hard: int
    kept: int


def cosines(a_BPD: Tensor, b_BMD: Tensor) -> Tensor:
    """Products (B, P, M) of unit vectors, in float32 at least."""
    a_BPD, b_BMD = upcast(a_BPD), upcast(b_BMD)
    with no_autocast(a_BPD):
        return a_BPD @ b_BMD.transpose(1, 2)


@torch.no_grad()
def hard_negatives(
    likeness_BPM: Tensor, far_BPM: Tensor, key_B: Tensor, negatives: Negatives
) -> tuple[Tensor, Tensor]:
    """Indices (B, P, K) of negatives of each anchor, and which of them are some.

    Args:
        likeness_BPM: by which the hardest are found.
        far_BPM: which places are far enough from the anchor to be another one.
        key_B: of the sample, see :func:`~.correspondence.sample_keys`.
        negatives: how many.
    """
    count, anchors, places = likeness_BPM.shape
    ranked = likeness_BPM.masked_fill(~far_BPM, -torch.inf)
    hardest = ranked.topk(min(negatives.hard, places), dim=2, sorted=False).indices
    flat = hardest.flatten(0, 1)
    first_P1 = torch.arange(anchors, device=flat.device)[:, None] * places
    keys = hashed(key_B[:, None, None], hardest + first_P1).flatten(0, 1)
    far = far_BPM.flatten(0, 1).gather(1, flat)
    index, found = chosen(keys, far, negatives.kept)
    taken = flat.gather(1, index)
    return taken.view(count, anchors, -1), found.view(count, anchors, -1)


def place_nce(
    positive_BP: Tensor, negative_BPK: Tensor, found_BPK: Tensor, temperature: float
) -> Tensor:
    """-log exp(p / t) / (exp(p / t) + sum_K exp(n_k / t)) of each anchor, (B, P).

    Places that are not ``found`` count nothing; an anchor without negatives has a loss of 0.

    Equal cosines leave a guess among K + 1; here log 4, log 3 and log 1:

    >>> found = torch.tensor([[[True] * 3, [True, True, False], [False] * 3]])
    >>> place_nce(torch.ones(1, 3), torch.ones(1, 3, 3), found, 0.5)
    tensor([[1.3863, 1.0986, 0.0000]])
    """
    positive = upcast(positive_BP)[..., None] / temperature
    negative = (upcast(negative_BPK) / temperature).masked_fill(~found_BPK, -torch.inf)
    return torch.cat([positive, negative], -1).logsumexp(-1) - positive[..., 0]
