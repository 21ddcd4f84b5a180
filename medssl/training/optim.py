"""AdamW with correct parameter groups."""

from __future__ import annotations

import torch
from torch import nn

from medssl.core.config import Config
from medssl.core.task import ParamGroup
from medssl.training.schedule import warmup_cosine

# Never decayed, whatever their shape.
_NO_DECAY = (
    "pos_embed", "cls_token", "reg_token", "mask_token", "register_tokens", "register_1RD",
    "relative_position_bias_table", "prototypes", "prototypes.weight",
)  # fmt: skip


class OptimConfig(Config):
    """AdamW and its schedule."""

    lr: float = 1e-3
    """Peak learning rate for the batch size in use; no hidden scaling."""
    weight_decay: float = 0.05
    weight_decay_end: float | None = None
    """Weight decay at the last step, reached along a cosine; default: constant."""
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: int = 20
    """Steps of linear warm-up."""
    clip_norm: float = 1.0
    """Largest gradient norm, in the parameters' units."""


def build_optimizer(groups: list[ParamGroup], config: OptimConfig) -> torch.optim.AdamW:
    """Each group split in decayed matrices and undecayed vectors (norms, biases, tokens).

    Raises:
        ValueError: if a parameter stands in two groups.
    """
    split = []
    for group in groups:
        for decayed in (True, False):
            params = [p for n, p in group.params.items() if is_decayed(n, p) is decayed]
            decay = config.weight_decay if decayed else 0.0
            if params:
                split.append({
                    "params": params, "weight_decay": decay, "lr_scale": group.lr_scale,
                    "decayed": decayed,
                })  # fmt: skip
    return torch.optim.AdamW(split, lr=config.lr, betas=config.betas)


def is_decayed(name: str, param: nn.Parameter) -> bool:
    """Whether weight decay applies: matrices and kernels, no 1-D weights, no tokens."""
    return param.ndim > 1 and not name.endswith(_NO_DECAY)


def apply_schedule(
    optimizer: torch.optim.Optimizer, config: OptimConfig, step: int, steps: int
) -> float:
    """Set every group's rate and decay for this step; returns the base rate in force."""
    base = config.lr * warmup_cosine(step, steps, min(config.warmup, steps))
    end = config.weight_decay if config.weight_decay_end is None else config.weight_decay_end
    decay = end + (config.weight_decay - end) * warmup_cosine(step, steps, 0)
    for group in optimizer.param_groups:
        group["lr"] = base * group["lr_scale"]
        group["weight_decay"] = decay if group["decayed"] else 0.0
    return base
