"""Losses are computed in float32 whatever the networks compute in; float64 stays float64."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def upcast(x: Tensor) -> Tensor:
    """Half precision -> float32; float32 and float64 are left alone.

    >>> [upcast(torch.zeros(1, dtype=d)).dtype for d in (torch.bfloat16, torch.float64)]
    [torch.float32, torch.float64]
    """
    return x.float() if x.dtype in {torch.float16, torch.bfloat16} else x


def no_autocast(x: Tensor) -> AbstractContextManager[None]:
    """Matrix products of losses keep the precision of their inputs."""
    context: AbstractContextManager[None] = torch.autocast(x.device.type, enabled=False)
    return context
