"""The weights that are kept: an average of the task's, moved once per optimiser step."""

from __future__ import annotations

import copy

from torch import nn

from medssl.core.ema import move_towards


class Ema:
    """A slow copy of a module."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(module).requires_grad_(False).eval()

    def update(self, module: nn.Module) -> None:
        """Move towards the module's weights."""
        move_towards(self.module, module, self.decay)
