"""Cluster centres that are learnt, and what to log of assignments to them.

N samples, K prototypes, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medssl.objectives._parts.precision import no_autocast, upcast


class Prototypes(nn.Module):
    """Cosines of features with K directions: a linear layer with weight norm and gain 1.

    Only the directions count, so weight decay is left out (by the name ``prototypes.weight``).
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(count, width)))

    def forward(self, x_ND: Tensor) -> Tensor:
        """Features of any length -> cosines (N, K), float32."""
        with no_autocast(x_ND):
            # Constant pictures can give a zero vector; the gradient stays bounded there.
            unit = F.normalize(upcast(x_ND), dim=-1, eps=1e-6)
            return F.linear(unit, F.normalize(upcast(self.weight), dim=-1).to(unit.dtype))

    @torch.no_grad()
    def renormalise(self) -> None:
        """Rows back to length 1 after an update; rows that did not move stay bitwise."""
        length = self.weight.norm(dim=1, keepdim=True)
        moved = (length - 1).abs() > 1e-6
        self.weight.copy_(torch.where(moved, self.weight / length, self.weight))


@torch.no_grad()
def assignment_log(targets_NK: Tensor) -> dict[str, Tensor]:
    """Signs of collapse, in nats: sharp targets that agree (mean entropy 0) or say nothing (log K).

    ``prototype_usage``: prototypes that are some sample's best, as a share of all that could be.

    >>> {k: round(float(v), 4) for k, v in assignment_log(torch.eye(2)).items()}
    {'teacher_entropy': 0.0, 'mean_entropy': 0.6931, 'prototype_usage': 1.0}
    """
    used = targets_NK.argmax(1).bincount().count_nonzero()
    return {
        "teacher_entropy": torch.special.entr(targets_NK).sum(1).mean(),
        "mean_entropy": torch.special.entr(targets_NK.mean(0)).sum(),
        "prototype_usage": (used / min(targets_NK.shape)).to(targets_NK.dtype),
    }
