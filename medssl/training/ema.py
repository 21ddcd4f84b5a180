"""Exponential moving average of weights, updated once per optimiser step."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Ema:
    """A slow copy of a module: T <- d T + (1 - d) S for floats, a copy for integer buffers."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(module).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move towards the module's weights."""
        source = module.state_dict()
        for key, slow in self.module.state_dict().items():
            if slow.is_floating_point():
                slow.lerp_(source[key].to(slow.dtype), 1 - self.decay)
            else:
                slow.copy_(source[key])
