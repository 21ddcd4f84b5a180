"""Balanced soft assignments of a batch to prototypes.

B samples of this rank, K prototypes. Source: Cuturi 2013; Caron et al. 2020 (SwAV), listing 1,
here on logarithms: scores of any size and format stay finite.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medssl.objectives._parts.distributed import largest, total
from medssl.objectives._parts.precision import upcast


@torch.no_grad()
def sinkhorn(
    scores_BK: Tensor, epsilon: float, iterations: int = 3, weight_B: Tensor | None = None
) -> Tensor:
    """Targets (B, K) whose rows sum to 1; prototypes share the batch of all ranks ever more evenly.

    Each iteration scales every prototype to the same mass, then every sample to mass 1. So rows are
    exact after any number of iterations, and prototypes balanced only in the limit. With
    ``weight_B`` above 0 a sample counts so much in the mass of the prototypes.

    >>> sinkhorn(torch.zeros(4, 2), 0.05)[0]
    tensor([0.5000, 0.5000])
    """
    log_q_BK = upcast(scores_BK) / epsilon
    log_w_B1 = 0.0 if weight_B is None else weight_B.to(log_q_BK)[:, None].log()
    for _ in range(iterations):
        log_q_BK = log_q_BK - _log_mass(log_q_BK + log_w_B1)
        log_q_BK = log_q_BK.log_softmax(1)
    return log_q_BK.exp()


def _log_mass(log_q_BK: Tensor) -> Tensor:
    """Logarithm of each prototype's mass over all ranks; a rank may have no sample."""
    nothing = log_q_BK.new_full((1, log_q_BK.shape[1]), -math.inf)
    top_K = largest(torch.cat([log_q_BK, nothing]).amax(0))
    return top_K + total((log_q_BK - top_K).exp().sum(0)).log()
