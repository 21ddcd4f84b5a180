"""Gradient checkpointing that leaves no trace: the second pass updates no batch statistics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(block: nn.Module, *args: Any, **options: Any) -> Tensor:
    """``block(*args)``, whose activations are computed again in the backward pass."""
    if not torch.is_grad_enabled():
        out: Tensor = block(*args, **options)
        return out
    again: Tensor = checkpoint(block, *args, use_reentrant=False, **options)
    return again


def count_batches_once(net: nn.Module) -> None:
    """Batch norms of a checkpointed network: running statistics move in the first pass only."""
    for module in net.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            module.register_forward_pre_hook(_hold)
            module.register_forward_hook(_let_go, always_call=True)


def _hold(module: Any, args: Any) -> None:  # noqa: ARG001
    """In a backward pass: a momentum of 0 keeps the running mean and variance."""
    if module.training and torch._C._current_graph_task_id() != -1:
        module.held = (module.momentum, module.num_batches_tracked.clone())
        module.momentum = 0.0


def _let_go(module: Any, args: Any, out: Any) -> None:  # noqa: ARG001
    held = module.__dict__.pop("held", None)
    if held:
        module.momentum = held[0]
        module.num_batches_tracked.copy_(held[1])
