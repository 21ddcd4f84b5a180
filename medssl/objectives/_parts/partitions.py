"""Contrast over parts of the body: the same part of two patients shows the same anatomy.

N rows: embeddings of views, flattened from B samples, V kinds of views and S parts. A slot is what
one part of one sample shows; its views share it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from medssl.objectives._parts.contrast import unit
from medssl.objectives._parts.precision import no_autocast

GlobalMode = Literal["G_R", "G_D-", "G_D"]


class Rows(NamedTuple):
    """What each row shows.

    Attributes:
        slot_N, view_N: which slot, and which kind of view.
        part_N: of the body.
        record_N: where it comes from.
        position_N3: centre in body coordinates, 0 to 1 along each axis of the tissue.
    """

    slot_N: Tensor
    view_N: Tensor
    part_N: Tensor
    record_N: Tensor
    position_N3: Tensor


def rows_of(
    views_VS: Sequence[Sequence[Mapping[str, Any]]],
    record_B: Tensor,
    join: Callable[[Tensor], Tensor],
) -> Rows:
    """Rows of so many kinds of views, one per part; ``join`` adds those of other ranks."""

    def told(key: str) -> Tensor:
        return join(torch.stack([torch.stack([v[key] for v in s], 1) for s in views_VS], 1))

    part_BVS = told("part")
    samples, kinds, parts = part_BVS.shape
    number = torch.arange(samples * parts, device=part_BVS.device)

    def flat(x: Tensor) -> Tensor:
        return x.expand_as(part_BVS).flatten()

    return Rows(
        flat(number.view(samples, 1, parts)),
        flat(number[:kinds].view(1, kinds, 1)),
        flat(part_BVS),
        flat(join(record_B).view(samples, 1, 1)),
        told("position").flatten(0, 2),
    )


def by_sample(rows: Tensor, samples: int, parts: int, kinds: Sequence[int]) -> Tensor:
    """Rows kind by kind, part by part, sample by sample -> (B, V, S, ...) of these kinds."""
    by_kind_VSB = rows.view(-1, parts, samples, *rows.shape[1:])
    return by_kind_VSB[list(kinds)].movedim(2, 0)


def own_pairs(rows: Rows) -> Tensor:
    """(N, N), True for the two views of a slot."""
    return _same(rows.slot_N) & ~_same(rows.view_N)


def across_records(rows: Rows) -> Tensor:
    """(N, N), True for two records that show the same part in the same kind of view."""
    return _same(rows.part_N) & ~_same(rows.record_N) & _same(rows.view_N)


def within(rows: Rows, reach: float) -> Tensor:
    """(N, N), True for crops whose centres differ by at most ``reach`` along every axis."""
    position = rows.position_N3
    return (position[:, None] - position).abs().amax(2) <= reach


def negatives(rows: Rows, mode: GlobalMode) -> Tensor:
    """(N, N), True for what an anchor is told apart from.

    ``G_R``: views of all other slots. ``G_D-`` and ``G_D``: those of other parts only, so that no
    patient's image of the anchor's part is a negative, its own record's included.
    """
    apart = ~_same(rows.slot_N)
    return apart if mode == "G_R" else apart & ~_same(rows.part_N)


def pair_nce(z_ND: Tensor, positive_NN: Tensor, negative_NN: Tensor, temperature: float) -> Tensor:
    """Mean over positive pairs (a, b) of -log( e^{s_ab/t} / (e^{s_ab/t} + sum_n e^{s_an/t}) ).

    s is the cosine; n runs over the negatives of a alone, so that another positive is not pushed
    away. Without negatives the loss is 0.

    Args:
        z_ND: embeddings, of all ranks.
        positive_NN: pairs, at least one.
        negative_NN: negatives of each anchor (rows).
        temperature: t.

    Source: Chaitanya et al. 2020, Eq. 1.

    Equal embeddings leave a guess among the positive and the negatives, here 2:

    >>> views = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]).bool()
    >>> others = ~views & ~torch.eye(4).bool()
    >>> round(pair_nce(torch.ones(4, 2), views, others, 0.1).item(), 4)
    1.0986
    """
    z_ND = unit(z_ND)
    with no_autocast(z_ND):
        logits_NN = z_ND @ z_ND.T / temperature
    told_N = logits_NN.masked_fill(~negative_NN, -torch.inf).logsumexp(1)
    loss_NN = torch.logaddexp(logits_NN, told_N[:, None]) - logits_NN
    return (loss_NN * positive_NN).sum() / positive_NN.sum()


def _same(x_N: Tensor) -> Tensor:
    return x_N[:, None] == x_N
