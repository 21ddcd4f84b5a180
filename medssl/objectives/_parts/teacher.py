"""The slow copy of a student that gives targets."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from torch import nn

from medssl.core.ema import move_towards


class Teacher(nn.Module):
    """Moving average of a student: no gradient, no dropout, no drop-path.

    Batch norms of a teacher normalise with the statistics of their batch, as in DINO, BYOL and
    MoCo v3: running averages of a moving target would lag behind. Float buffers are averaged like
    weights.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(student).requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002
        """Stay in evaluation mode, but for batch norms."""
        super().train(False)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(True)
        return self

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module gives, without a graph."""
        return self.module(*args, **kwargs)

    def follow(self, student: nn.Module, momentum: float) -> None:
        """T <- m T + (1 - m) S; call it from ``after_update`` only."""
        move_towards(self.module, student, momentum)
