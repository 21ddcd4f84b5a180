"""Agreement of slices and of volumes in two views, and regression of hidden slices.

V = 2 views, B samples, S slices of a stack, N slices that there are, K prototypes, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl.objectives._parts.distributed import total, world
from medssl.objectives._parts.precision import no_autocast, upcast


def slice_numbers(place_B34: Tensor, count: int) -> Tensor:
    """Which slices of their records the ``count`` slices of each stack are, (B, count).

    A stack steps along one axis of the record: the one that moves from slice to slice.

    >>> place = torch.tensor([[[1.0, 0, 0, 9], [0, 0, 1, 2], [0, 3, 0, 5]]])
    >>> slice_numbers(place, 3)
    tensor([[ 9., 10., 11.]])
    """
    axis_B1 = place_B34[:, :, 0].abs().argmax(1, keepdim=True)
    step_B1, first_B1 = (place_B34[:, :, column].gather(1, axis_B1) for column in (0, 3))
    return first_B1 + step_B1 * torch.arange(count, device=place_B34.device)


def same_slices(number_VBS: Tensor, inside_VBS: Tensor) -> Tensor:
    """Which slices of the two views are one slice of the record, (B, S, S)."""
    apart_BSS = (number_VBS[0][:, :, None] - number_VBS[1][:, None]).abs()
    return (apart_BSS < 0.5) & inside_VBS[0][:, :, None] & inside_VBS[1][:, None]


def laid_out(rows_ND: Tensor, inside: Tensor) -> Tensor:
    """Rows of what is inside, at their places (..., D); 0 elsewhere. Differentiable.

    >>> laid_out(torch.tensor([[1.0], [2.0]]), torch.tensor([[True, False], [False, True]]))[..., 0]
    tensor([[1., 0.],
            [0., 2.]])
    """
    empty = rows_ND.new_zeros(*inside.shape, rows_ND.shape[-1])
    return empty.index_put((inside,), rows_ND)


def swapped_entropy(
    codes_VBSK: Tensor, scores_VBSK: Tensor, same_BSS: Tensor, temperature: float
) -> Tensor:
    """CE of each view's codes and the other's predictions, over pairs of equal slices.

    Mean over both directions and the pairs of a sample, then over the samples (of all ranks) that
    have any: a volume counts as much as a picture.

    >>> codes = torch.full((2, 1, 1, 4), 0.25)
    >>> swapped_entropy(codes, torch.zeros(2, 1, 1, 4), torch.ones(1, 1, 1).bool(), 0.1)
    tensor(1.3863)
    """
    with no_autocast(scores_VBSK):
        log_p = (upcast(scores_VBSK) / temperature).log_softmax(3)
        codes = codes_VBSK.to(log_p.dtype)
        there_BSS = -torch.einsum("bsk,btk->bst", codes[0], log_p[1])
        back_BSS = -torch.einsum("bsk,btk->bst", log_p[0], codes[1])
    return _per_sample((there_BSS + back_BSS) / 2, same_BSS)


def hidden_regression(predicted_VBSD: Tensor, target_VBSD: Tensor, hidden_VBS: Tensor) -> Tensor:
    """Squared distance of unit vectors (2 - 2 cos) at hidden slices; targets have no gradient.

    Mean over the hidden slices of a stack, then over the stacks (of all ranks) that have any.

    >>> one, other = torch.tensor([[[[2.0, 0.0]]]]), torch.tensor([[[[0.0, 3.0]]]])
    >>> hidden_regression(one, other, torch.tensor([[[True]]]))
    tensor(2.)
    """
    predicted, target = (
        F.normalize(upcast(x), dim=3, eps=1e-6) for x in (predicted_VBSD, target_VBSD.detach())
    )
    apart_VBS = (predicted - target).square().sum(3)
    return _per_sample(apart_VBS.flatten(0, 1), hidden_VBS.flatten(0, 1))


def _per_sample(values: Tensor, counted: Tensor) -> Tensor:
    """Mean over what counts in a sample, then over the samples of all ranks that have any."""
    values_BX, counted_BX = values.flatten(1), counted.flatten(1)
    mean_B = (values_BX * counted_BX).sum(1) / counted_BX.sum(1).clamp(min=1)
    samples = total(counted_BX.any(1).sum()).clamp(min=1)
    return mean_B.sum() * world() / samples
