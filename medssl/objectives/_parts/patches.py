"""Pixels as tokens: what masked objectives compare.

B batch, C channels, N tokens, P values per patch (channels included).
"""

from __future__ import annotations

from torch import Tensor

from medssl.encoders._base import Encoder
from medssl.objectives._parts.precision import upcast


def patch_values(encoder: Encoder) -> int:
    """P, values per patch."""
    values = encoder.in_channels
    for side in encoder.token_size:
        values *= side
    return values


def standardise(patches_BNP: Tensor) -> Tensor:
    """Per patch (x - mean) / sqrt(var + 1e-6); a constant patch becomes 0, not NaN.

    >>> import torch
    >>> standardise(torch.full((1, 1, 8), 7.0)).abs().max().item()
    0.0
    """
    x = upcast(patches_BNP)
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-6).sqrt()


def mean_over(error: Tensor, weight: Tensor) -> Tensor:
    """Mean over samples of the mean error of each, weighted; bool weights count elements.

    First per sample: a sample with little to count weighs as much as any other. One with nothing
    to count adds 0. Both (B, ...) of one shape.

    >>> import torch
    >>> weight = torch.tensor([[True, True, False, False], [True] * 4, [False] * 4])
    >>> mean_over(torch.tensor([[3.0, 3.0, 9.0, 9.0], [6.0] * 4, [8.0] * 4]), weight).item()
    3.0
    """
    weight_BX = weight.flatten(1).to(error.dtype)
    total_B = weight_BX.sum(1)
    share_B = (error.flatten(1) * weight_BX).sum(1) / total_B.where(total_B > 0, 1)
    return share_B.mean()


def masked_mse(prediction: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """Squared error of the ``counted`` elements: sum((y - x)^2 m) / sum(m), mean over samples.

    >>> import torch
    >>> x = torch.zeros(2, 4)
    >>> masked_mse(x + 3, x, torch.tensor([[True, True, False, False], [True] * 4])).item()
    9.0
    """
    return mean_over((upcast(prediction) - upcast(target)).square(), counted)


def masked_l1(prediction: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """Absolute error of the ``counted`` elements: sum(|y - x| m) / sum(m), mean over samples.

    >>> import torch
    >>> x = torch.zeros(2, 4)
    >>> masked_l1(x + 3, x, torch.tensor([[True, True, False, False], [False] * 4])).item()
    1.5
    """
    return mean_over((upcast(prediction) - upcast(target)).abs(), counted)
