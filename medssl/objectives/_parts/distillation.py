"""What DINO and iBOT share: multi-crop student, slow teacher on full views, cross-entropies.

B samples, V views, N tokens, M hidden tokens of a batch, K prototypes, D width.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from medssl.core.config import Config as BaseConfig
from medssl.core.ema import cosine_momentum
from medssl.core.errors import ConfigError
from medssl.core.features import Features
from medssl.core.task import Batch, StepOutput
from medssl.core.taskmodule import TaskModule
from medssl.core.viewspec import MaskSpec, Setting, Share, ViewSpec
from medssl.encoders._base import Encoder
from medssl.objectives._parts.dino import (
    Balanced,
    Centred,
    DinoHead,
    Targets,
    cross_view_entropy,
    hidden_token_entropy,
    koleo,
    warmed,
)
from medssl.objectives._parts.distributed import gather
from medssl.objectives._parts.heads import Norm
from medssl.objectives._parts.multicrop import FULL, multi_crop, small_crop
from medssl.objectives._parts.prototypes import Prototypes, assignment_log
from medssl.objectives._parts.teacher import Teacher
from medssl.objectives._parts.views import ViewOptions


class DistillationConfig(BaseConfig):
    """Options of self-distillation."""

    views: ViewOptions = ViewOptions()
    """How views differ."""
    local_views: int = Field(default=4, ge=0)
    """Small views per sample, for the student only."""
    local_share: float = Field(default=0.5, ge=0.5, le=1)
    """Side of a small view, as a share of the full one, rounded up to what the encoder takes. Below
    half, a view may miss the organ."""
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
    koleo_weight: float = Field(default=0.1, ge=0)
    """Weight of KoLeo, which spreads the samples of a batch; 0 = off."""
    patch_weight: float = Field(default=1.0, ge=0)
    """Weight of the loss on hidden tokens (iBOT); 0 = off, and nothing is hidden."""
    shared_head: bool | None = False
    """One head for samples and tokens, or one each; none given: one where both vectors have one
    width."""
    mask_ratio: Share = (0.1, 0.5)
    """Share of tokens hidden, drawn between these."""
    mask_probability: float = Field(default=0.5, ge=0, le=1)
    """Share of full views with hidden tokens."""


class Heads(nn.Module):
    """Logits of samples and, where wanted, of tokens."""

    def __init__(self, encoder: Encoder, config: DistillationConfig) -> None:
        super().__init__()
        sizes = (config.hidden, config.bottleneck, config.prototypes)
        self.whole = DinoHead(encoder.width, *sizes, norm=config.norm)
        fits = encoder.width == encoder.token_width
        shared = fits if config.shared_head is None else config.shared_head
        separate = config.patch_weight > 0 and not shared
        self.patch = DinoHead(encoder.token_width, *sizes, norm=config.norm) if separate else None

    def patches(self, tokens_MD: Tensor) -> Tensor:
        """Token vectors -> logits (M, K)."""
        out: Tensor = (self.patch or self.whole)(tokens_MD)
        return out


class Seen(NamedTuple):
    """Outputs of student and teacher for one batch."""

    targets_TBK: Tensor
    logits_SBK: Tensor
    raw: list[tuple[Targets, Tensor]]
    """Raw teacher logits and whose centre they move."""
    full: Features
    """Student's features of full views, view by view."""
    patches: tuple[Tensor, Tensor, Tensor] | None
    """Targets (M, K), logits (M, K) and mask (V * B, N) of hidden tokens."""


class Distillation(TaskModule):
    """Self-distillation wired to an encoder."""

    progress: Tensor
    decoder: nn.Module | None = None

    def __init__(self, encoder: Encoder, config: DistillationConfig, setting: Setting) -> None:
        super().__init__()
        encoder.check_size(setting.crop)
        _check(encoder, config)
        self.encoder = encoder
        self.settings = config
        self.crop = setting.crop
        self.heads = Heads(encoder, config)
        self.teacher = Teacher(encoder)
        self.teacher_heads = Teacher(self.heads)
        self.targets = _targets(config)
        patches = config.patch_weight > 0
        self.patch_targets = _targets(config) if patches else None
        # Encoders without tokens put 0 in hidden blocks: nothing to learn there.
        filled = patches and encoder.returns_tokens
        self.mask_token = nn.Parameter(torch.zeros(encoder.token_width)) if filled else None
        self.register_buffer("progress", torch.zeros(()))

    def views(self) -> ViewSpec:
        """Two full views, with hidden tokens where patches count, then the small ones."""
        c = self.settings
        mask = MaskSpec(
            token_size=self.encoder.token_size,
            ratio=c.mask_ratio,
            kind="block",
            probability=c.mask_probability,
        )
        small = small_crop(self.encoder, self.crop, c.local_share)
        shown = mask if c.patch_weight else None
        return multi_crop(c.views, self.crop, small, c.local_views, shown)

    def step(self, batch: Batch) -> StepOutput:
        """Weighted sum of :meth:`terms`; notes the teacher's raw logits for the centres."""
        seen = self._look(batch)
        if self.training and torch.is_grad_enabled():
            for targets, raw in seen.raw:
                targets.note(raw)
        terms, weights = self._terms(seen, batch), self._weights()
        loss = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        return StepOutput(loss, {**terms, **assignment_log(seen.targets_TBK.flatten(0, 1))})

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Each term of the loss, unweighted."""
        return self._terms(self._look(batch), batch)

    def _weights(self) -> dict[str, float]:
        c = self.settings
        return {"distillation": 1.0, "patch": c.patch_weight, "koleo": c.koleo_weight}

    def _terms(self, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        c = self.settings
        tau = c.student_temperature
        terms = {"distillation": cross_view_entropy(seen.targets_TBK, seen.logits_SBK, tau)}
        if seen.patches:
            targets, logits, mask = seen.patches
            terms["patch"] = hidden_token_entropy(targets, logits, mask, tau)
        if c.koleo_weight:
            record = gather(batch["record"])
            views = seen.full.global_BD.chunk(FULL)
            terms["koleo"] = torch.stack([koleo(gather(view), record) for view in views]).sum()
        return terms

    def _look(self, batch: Batch) -> Seen:
        full, small = batch["views"][:FULL], batch["views"][FULL:]
        x = torch.cat([view["x"] for view in full])
        mask = torch.cat([view["mask"] for view in full]) if "mask" in full[0] else None
        features = self.encoder(x, mask, self.mask_token) if mask is not None else self.encoder(x)
        logits = [self.heads.whole(features.global_BD)]
        if small:
            local = self.encoder(torch.cat([view["x"] for view in small]))
            logits.append(self.heads.whole(local.global_BD))
        with torch.no_grad():
            seen = self.teacher(x)
            raw = self._teacher_heads.whole(seen.global_BD)
            targets = self.targets(raw, self._temperature())
        raws, patches = [(self.targets, raw)], None
        if mask is not None:
            assert self.patch_targets is not None  # views have masks only where patches count
            size = tuple(x.shape[2:])
            with torch.no_grad():
                raw = self._teacher_heads.patches(self.encoder.tokens(seen, size)[mask])
                wanted = self.patch_targets(raw, self._temperature())
            raws.append((self.patch_targets, raw))
            patches = wanted, self.heads.patches(self.encoder.tokens(features, size)[mask]), mask
        count = len(full[0]["x"])
        split = targets.view(FULL, count, -1), torch.cat(logits).view(-1, count, targets.shape[1])
        return Seen(*split, raws, features, patches)

    @property
    def _teacher_heads(self) -> Heads:
        heads = self.teacher_heads.module
        assert isinstance(heads, Heads)
        return heads

    def _temperature(self) -> float:
        c = self.settings
        return warmed(c.teacher_temperature, c.temperature_warmup, float(self.progress))

    def before_update(self, progress: float) -> None:
        """Prototypes rest at first; without a gradient weight decay leaves them alone too."""
        if progress < self.settings.freeze_last:
            for module in self.heads.modules():
                if isinstance(module, Prototypes):
                    module.weight.grad = None

    def after_update(self, progress: float) -> None:
        """Teacher, centres and the clock of the schedules."""
        momentum = cosine_momentum(self.settings.momentum, progress)
        self.teacher.follow(self.encoder, momentum)
        self.teacher_heads.follow(self.heads, momentum)
        for targets in self._all_targets():
            targets.update()
        self.progress.fill_(progress)

    def discard_update(self) -> None:
        """Drop what was noted for the centres."""
        for targets in self._all_targets():
            targets.forget()

    def _all_targets(self) -> list[Targets]:
        return [module for module in self.modules() if isinstance(module, Targets)]


def _targets(config: DistillationConfig) -> Targets:
    if config.targets == "sinkhorn":
        return Balanced()
    return Centred(config.prototypes, config.centre_momentum)


def _check(encoder: Encoder, config: DistillationConfig) -> None:
    if not config.patch_weight:
        return
    if encoder.mask_refusal:
        what = f"this encoder cannot hide tokens: {encoder.mask_refusal}"
        raise ConfigError(what, fix="objective.patch_weight=0, or another encoder")
    if config.shared_head and encoder.width != encoder.token_width:
        what = f"a shared head needs one width, not {encoder.width} and {encoder.token_width}"
        raise ConfigError(what, fix="objective.shared_head=false")
