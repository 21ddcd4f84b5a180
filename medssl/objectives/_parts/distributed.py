"""Sums and gathers over ranks that keep one rule: the loss and the gradient of the global batch.

Every rank computes the loss of the *whole* batch from gathered embeddings. The gather hands each
rank the sum of all ranks' gradients of its rows; DDP then averages weights' gradients over ranks.
Together that is the gradient of one process with the whole batch. Losses that are means over the
samples of a rank need no gather.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process."""
    return dist.get_rank() if world() > 1 else 0


def gather(x: Tensor) -> Tensor:
    """Rows of all ranks, in the order of ranks: (B, ...) -> (world * B, ...); differentiable."""
    if world() == 1:
        return x
    out: Tensor = _Gather.apply(x.contiguous())
    return out


def total(x: Tensor) -> Tensor:
    """Sum over ranks; differentiable."""
    if world() == 1:
        return x
    out: Tensor = _Sum.apply(x)
    return out


@torch.no_grad()
def largest(x: Tensor) -> Tensor:
    """Largest value of each element over ranks, without gradient."""
    if world() == 1:
        return x
    out = x.clone()
    dist.all_reduce(out, dist.ReduceOp.MAX)
    return out


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(world())]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous().clone()
        dist.all_reduce(grad)
        rows = len(grad) // world()
        return grad[rank() * rows : (rank() + 1) * rows]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        out = x.clone()
        dist.all_reduce(out)
        return out

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous().clone()
        dist.all_reduce(grad)
        return grad
