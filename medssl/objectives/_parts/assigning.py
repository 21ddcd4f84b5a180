"""What objectives share in which a student gives its teacher's assignments to prototypes.

V views, B samples, N tokens, M hidden or changed tokens of a batch, K prototypes, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from medssl.core.config import Config as BaseConfig
from medssl.core.ema import cosine_momentum
from medssl.core.errors import ConfigError
from medssl.core.taskmodule import TaskModule
from medssl.objectives._parts.dino import Balanced, Centred, DinoHead, Targets, warmed
from medssl.objectives._parts.heads import Norm
from medssl.objectives._parts.prototypes import Prototypes
from medssl.objectives._parts.teacher import Teacher


class TargetConfig(BaseConfig):
    """Options of heads, targets and teachers."""

    prototypes: int = Field(default=1024, ge=1)
    """Outputs of the head, K. About 1024 up to some thousand records, 4096 for 50,000; the papers'
    65,536 are for millions."""
    hidden: int = Field(default=1024, ge=1)
    """Width of the head's hidden layers."""
    bottleneck: int = Field(default=256, ge=1)
    """Width of the vectors compared with prototypes."""
    norm: Norm = "batch"
    """Norm in the head: ``batch`` (over all devices), ``layer``, or ``none`` as DINO's own."""
    targets: Literal["centring", "sinkhorn"] = "sinkhorn"
    """What keeps the teacher from giving one answer to all: equal shares (DINOv2), or a moving
    centre (DINO, iBOT). In batches below some dozens centred targets soon say nothing."""
    centre_momentum: float = Field(default=0.9, ge=0, le=1)
    """Of the moving centre (centring only)."""
    student_temperature: float = Field(default=0.1, gt=0)
    """tau_S."""
    teacher_temperature: tuple[float, float] = (0.04, 0.07)
    """tau_T at the first step and after its warm-up."""
    temperature_warmup: float = Field(default=0.3, ge=0, le=1)
    """Share of all steps over which tau_T rises."""
    momentum: float = Field(default=0.996, ge=0, le=1)
    """Of the teacher at the first step; rises to 1 along a cosine."""
    freeze_last: float = Field(default=0.01, ge=0, le=1)
    """Share of all steps in which prototypes stay as they are."""


class AssignmentConfig(TargetConfig):
    """Options of assignments of samples and of their tokens."""

    patch_weight: float = Field(default=1.0, ge=0)
    """Weight of the loss on hidden tokens (iBOT); 0 = off."""
    shared_head: bool | None = False
    """One head for samples and tokens, or one each; none given: one where both vectors have one
    width."""


class Heads(nn.Module):
    """Logits of samples and, where wanted, of tokens.

    Args:
        width: of the vectors of samples.
        token_width: of tokens.
        config: sizes, and whether both share one head.

    Raises:
        ConfigError: they shall share one, and have different widths.
    """

    def __init__(self, width: int, token_width: int, config: AssignmentConfig) -> None:
        super().__init__()
        sizes = (config.hidden, config.bottleneck, config.prototypes)
        self.whole = DinoHead(width, *sizes, norm=config.norm)
        fits = width == token_width
        shared = fits if config.shared_head is None else config.shared_head
        if shared and not fits and config.patch_weight:
            what = f"a shared head needs one width, not {width} and {token_width}"
            raise ConfigError(what, fix="objective.shared_head=false")
        separate = config.patch_weight > 0 and not shared
        self.patch = DinoHead(token_width, *sizes, norm=config.norm) if separate else None

    def patches(self, tokens_MD: Tensor) -> Tensor:
        """Token vectors -> logits (M, K)."""
        out: Tensor = (self.patch or self.whole)(tokens_MD)
        return out


class Compared(NamedTuple):
    """Tokens of student and teacher, and which of them (V * B, N) are compared."""

    student_BND: Tensor
    teacher_BND: Tensor
    mask_BN: Tensor


class Assigned(NamedTuple):
    """What student and teacher make of the same views.

    Attributes:
        targets_VBK: the teacher's assignments.
        logits_VBK: the student's.
        patches: targets (M, K), logits (M, K) and mask (V * B, N) of compared tokens.
        raw: raw teacher logits and whose centre they move.
    """

    targets_VBK: Tensor
    logits_VBK: Tensor
    patches: tuple[Tensor, Tensor, Tensor] | None
    raw: list[tuple[Targets, Tensor]]


class Following(TaskModule):
    """Teachers, what keeps their targets from collapse, and the schedules of both."""

    progress: Tensor

    def __init__(self, config: TargetConfig) -> None:
        super().__init__()
        self.settings = config
        self.register_buffer("progress", torch.zeros(()))

    def followed(self) -> Mapping[Teacher, nn.Module]:
        """Teachers, and whom they follow."""
        return {}

    def temperature(self) -> float:
        """tau_T at this share of all steps."""
        c = self.settings
        return warmed(c.teacher_temperature, c.temperature_warmup, float(self.progress))

    def note(self, raw: list[tuple[Targets, Tensor]]) -> None:
        """Raw teacher logits of a training step, and whose centre they move."""
        if self.training and torch.is_grad_enabled():
            for targets, logits in raw:
                targets.note(logits)

    def before_update(self, progress: float) -> None:
        """Prototypes rest at first; without a gradient weight decay leaves them alone too."""
        if progress < self.settings.freeze_last:
            for module in self.modules():
                if isinstance(module, Prototypes):
                    module.weight.grad = None

    def after_update(self, progress: float) -> None:
        """Teachers, centres and the clock of the schedules."""
        momentum = cosine_momentum(self.settings.momentum, progress)
        for teacher, student in self.followed().items():
            teacher.follow(student, momentum)
        for targets in self._all_targets():
            targets.update()
        self.progress.fill_(progress)

    def discard_update(self) -> None:
        """Drop what was noted for the centres."""
        for targets in self._all_targets():
            targets.forget()

    def _all_targets(self) -> list[Targets]:
        return [module for module in self.modules() if isinstance(module, Targets)]


class Assigning(Following):
    """Heads of samples and tokens, and their slow copy."""

    def __init__(self, config: AssignmentConfig, heads: Heads) -> None:
        super().__init__(config)
        self.heads = heads
        self.teacher_heads = Teacher(heads)
        self.targets = targets_of(config)
        self.patch_targets = targets_of(config) if config.patch_weight else None

    def followed(self) -> Mapping[Teacher, nn.Module]:
        return {self.teacher_heads: self.heads}

    @property
    def _teacher_heads(self) -> Heads:
        heads = self.teacher_heads.module
        assert isinstance(heads, Heads)
        return heads

    def assign(
        self, student_BD: Tensor, teacher_BD: Tensor, tokens: Compared | None, views: int
    ) -> Assigned:
        """Assignments of the vectors of samples, view by view, and of tokens where they count."""
        logits = self.heads.whole(student_BD)
        temperature = self.temperature()
        with torch.no_grad():
            raw = self._teacher_heads.whole(teacher_BD)
            targets = self.targets(raw, temperature)
        raws, patches = [(self.targets, raw)], None
        if tokens and self.patch_targets is not None:
            mask_BN = tokens.mask_BN
            with torch.no_grad():
                raw = self._teacher_heads.patches(tokens.teacher_BND[mask_BN])
                wanted = self.patch_targets(raw, temperature)
            raws.append((self.patch_targets, raw))
            patches = wanted, self.heads.patches(tokens.student_BND[mask_BN]), mask_BN
        targets, logits = (found.unflatten(0, (views, -1)) for found in (targets, logits))
        return Assigned(targets, logits, patches, raws)


def targets_of(config: TargetConfig) -> Targets:
    """What keeps a teacher from giving one answer to all."""
    if config.targets == "sinkhorn":
        return Balanced()
    return Centred(config.prototypes, config.centre_momentum)
