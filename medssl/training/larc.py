"""Stochastic gradient descent whose step is a share of each tensor's own length (LARC, LARS).

You et al. 2017, without the clipping of NVIDIA's variant, as in the recipes of SelfSupSurg.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_TINY = 1e-8


class Larc(torch.optim.Optimizer):
    """SGD with momentum and a rate per tensor: lr * trust * |w| / (|g| + decay * |w|).

    The decay is part of the gradient: g + decay * w is what is scaled. A tensor whose length or
    gradient is zero takes the plain step, so that biases leave zero.
    """

    def __init__(
        self, params: Iterable[Any], *, lr: float, momentum: float = 0.9, trust: float = 1e-3
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "trust": trust, "weight_decay": 0.0}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._update(param, group)
        return loss

    def _update(self, param: Tensor, group: dict[str, Any]) -> None:
        step = scaled_gradient(param, param.grad, group["weight_decay"], group["trust"])
        state = self.state[param]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(param)
        buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(step)
        param.sub_(group["lr"] * buffer)


def scaled_gradient(w: Tensor, g: Tensor | None, decay: float, trust: float) -> Tensor:
    """What is added to the momentum: of length trust * |w| where there is no decay.

    >>> w, g = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])
    >>> scaled_gradient(w, g, 0.0, 0.001)
    tensor([0.0000, 0.0050])
    """
    assert g is not None
    length, slope = w.norm(), g.norm()
    ratio = trust * length / (slope + decay * length + _TINY)
    plain = (length == 0) | (slope == 0)
    whole: Tensor = g + decay * w * ~plain
    return torch.where(plain, whole, ratio * whole)
