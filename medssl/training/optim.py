"""AdamW or LARC, with correct parameter groups."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from medssl.core.config import Config
from medssl.core.errors import ConfigError
from medssl.core.task import ParamGroup
from medssl.training.larc import Larc
from medssl.training.schedule import Phases, infinite, paused_progress, warmup_cosine

# Never decayed, whatever their shape.
_NO_DECAY = (
    "pos_embed", "cls_token", "reg_token", "mask_token", "register_tokens", "register_1RD",
    "relative_position_bias_table", "prototypes", "prototypes.weight",
)  # fmt: skip


class OptimConfig(Config):
    """The optimiser and its schedule."""

    optimizer: Literal["adamw", "larc"] = "adamw"
    """``larc``: gradient descent with momentum and a rate per tensor, for recipes that say so."""
    lr: float = 1e-3
    """Peak learning rate for the batch size in use; no hidden scaling."""
    weight_decay: float = 0.05
    weight_decay_end: float | None = None
    """Weight decay at the last step, reached along a cosine; default: constant."""
    decay_vectors: bool = False
    """Decay norms, biases and tokens too."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Of AdamW."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of LARC."""
    trust: float = Field(default=1e-3, gt=0)
    """Length of a step of LARC at a rate of 1, as a share of the tensor's own."""
    warmup: int = 20
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "infinite"] = "cosine"
    """After the warm-up: ``cosine`` to 0 at the last step, or ``infinite``: to a constant rate,
    from which a later run can go on, with the same data or with new ones."""
    cooldown: int = Field(default=2_000, ge=0)
    """Steps of the cosine from ``lr`` to the constant rate (infinite only)."""
    constant_share: float = Field(default=0.4, gt=0, le=1)
    """The constant rate, as a share of ``lr`` (infinite only)."""
    anneal: int = Field(default=0, ge=0)
    """Last steps, in which the rate falls to its end: for a model that is given away, as nothing
    can go on from there (infinite only). 0 = the rate stays constant."""
    final_share: float = Field(default=0.04, gt=0, le=1)
    """Rate at the end of the annealing, as a share of ``lr`` (infinite only)."""
    clip_norm: float = 1.0
    """Largest gradient norm, in the parameters' units."""


def build_optimizer(
    groups: list[ParamGroup], config: OptimConfig, *, fused: bool = False
) -> torch.optim.Optimizer:
    """Each group split in decayed matrices and undecayed vectors (norms, biases, tokens).

    With ``decay_vectors`` those are decayed too.

    Args:
        groups: of the task.
        config: which optimiser, with its rates.
        fused: PyTorch's AdamW in one kernel. On a CPU it otherwise goes tensor by tensor, which
            took a quarter of a small network's step; under a gradient scaler it can't be clipped.

    Raises:
        ValueError: if a parameter stands in two groups.
    """
    split = []
    for group in groups:
        for decayed in (True, False):
            params = [p for n, p in group.params.items() if is_decayed(n, p) is decayed]
            shrinks = decayed or config.decay_vectors
            decay = config.weight_decay if shrinks else 0.0
            if params:
                split.append({
                    "params": params, "weight_decay": decay, "lr_scale": group.lr_scale,
                    "decayed": shrinks,
                })  # fmt: skip
    if config.optimizer == "larc":
        return Larc(split, lr=config.lr, momentum=config.momentum, trust=config.trust)
    return torch.optim.AdamW(split, lr=config.lr, betas=config.betas, fused=fused)


def is_decayed(name: str, param: nn.Parameter) -> bool:
    """Whether weight decay applies: matrices and kernels, no 1-D weights, no tokens."""
    return param.ndim > 1 and not name.endswith(_NO_DECAY)


def phases_of(config: OptimConfig, steps: int) -> Phases:
    """The phases of the infinite schedule in a run of so many steps.

    Raises:
        ConfigError: the run ends before the constant phase, or would anneal before it.
    """
    cooled = config.warmup + config.cooldown
    if config.final_share > config.constant_share:
        fix = f"final_share={config.constant_share / 10:g}"
        raise ConfigError("annealing would raise the rate", fix=fix)
    if cooled > steps - config.anneal:
        what = f"{steps} steps end before the constant phase, which begins at step {cooled}"
        what += f" and is followed by {config.anneal} of annealing" if config.anneal else ""
        raise ConfigError(what, fix="more steps, or fewer of warmup, cooldown and anneal")
    return Phases(config.warmup, cooled, steps - config.anneal, steps)


def progress_at(config: OptimConfig, step: int, steps: int) -> float:
    """What tasks are told of how far the run is, after ``step`` of its steps, in [0, 1]."""
    if config.schedule == "infinite":
        return paused_progress(step, phases_of(config, steps))
    return step / steps


def rate_at(config: OptimConfig, step: int, steps: int) -> float:
    """Learning rate at ``step`` (0-based), a pure function of it."""
    if config.schedule == "infinite":
        phases = phases_of(config, steps)
        factor = infinite(step + 1, phases, config.constant_share, config.final_share)
    else:
        factor = warmup_cosine(step, steps, min(config.warmup, steps))
    return config.lr * factor


def apply_schedule(
    optimizer: torch.optim.Optimizer, config: OptimConfig, step: int, steps: int
) -> float:
    """Set every group's rate and decay for this step; returns the base rate in force."""
    base = rate_at(config, step, steps)
    end = config.weight_decay if config.weight_decay_end is None else config.weight_decay_end
    left = 0.5 * (1 + math.cos(math.pi * progress_at(config, step, steps)))
    decay = end + (config.weight_decay - end) * left
    for group in optimizer.param_groups:
        group["lr"] = base * group["lr_scale"]
        group["weight_decay"] = decay if group["decayed"] else 0.0
    return base
