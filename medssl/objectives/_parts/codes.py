"""Balanced assignments of a small batch, with the vectors of past batches beside it.

B samples of this rank, K prototypes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medssl.objectives._parts.distributed import rank, world
from medssl.objectives._parts.prototypes import Prototypes
from medssl.objectives._parts.queue import Queue
from medssl.objectives._parts.sinkhorn import sinkhorn


@torch.no_grad()
def queued_codes(
    scores_BK: Tensor, prototypes: Prototypes, queue: Queue, epsilon: float, iterations: int
) -> Tensor:
    """Sinkhorn's assignments (B, K); a queue takes part once it is full.

    Each rank adds its share of the queue, so that no vector counts twice.
    """
    count = len(scores_BK)
    if queue.full:
        past = prototypes(queue.key_KD[rank() :: world()])
        scores_BK = torch.cat([scores_BK, past.to(scores_BK.dtype)])
    return sinkhorn(scores_BK, epsilon, iterations)[:count]
