"""The state of a training: all that decides what the next step does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn

from medssl.training.ema import Ema


def capture(
    fabric: Fabric, task: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None
) -> dict[str, Any]:
    """Weights, optimiser, gradient scaler, moving average and random state."""
    rng: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if fabric.device.type == "cuda":
        rng["cuda"] = torch.cuda.get_rng_state()
    return {
        "task": task.state_dict(),
        "optimizer": optimizer.state_dict(),
        "precision": fabric._strategy.precision.state_dict(),
        "ema": ema.module.state_dict() if ema else {},
        "rng": rng,
    }


def bring_back(
    state: Mapping[str, Any],
    fabric: Fabric,
    task: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: Ema | None,
) -> None:
    """Inverse of :func:`capture`; every name must fit."""
    task.load_state_dict(state["task"], strict=True)
    optimizer.load_state_dict(state["optimizer"])
    fabric._strategy.precision.load_state_dict(state["precision"])
    if ema:
        ema.module.load_state_dict(state["ema"], strict=True)
    torch.set_rng_state(state["rng"]["cpu"])
    if "cuda" in state["rng"]:
        torch.cuda.set_rng_state(state["rng"]["cuda"])
