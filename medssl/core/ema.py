"""Moving averages of weights: for teachers of objectives and for the weights that are kept."""

from __future__ import annotations

import math

import torch
from torch import nn


@torch.no_grad()
def move_towards(slow: nn.Module, fast: nn.Module, momentum: float) -> None:
    """T <- m T + (1 - m) S for every float of the state (weights, running statistics).

    Integer buffers are copied. ``momentum`` 1 leaves the slow module alone, 0 copies the fast one.

    >>> a, b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(a.weight, 1.0), nn.init.constant_(b.weight, 0.0)
    >>> move_towards(a, b, 0.75)
    >>> a.weight.item()
    0.75
    """
    source = fast.state_dict()
    for key, value in slow.state_dict().items():
        if value.is_floating_point():
            value.lerp_(source[key].to(value.dtype), 1 - momentum)
        else:
            value.copy_(source[key])


def cosine_momentum(start: float, progress: float) -> float:
    """Momentum that rises from ``start`` to 1: 1 - (1 - start)(cos(pi p) + 1)/2 (BYOL, DINO).

    >>> [round(cosine_momentum(0.9, p), 3) for p in (0.0, 0.5, 1.0)]
    [0.9, 0.95, 1.0]
    """
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2
