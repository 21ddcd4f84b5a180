"""What DINO and iBOT share: multi-crop student, slow teacher on full views, cross-entropies.

B samples, V views, N tokens, M hidden tokens of a batch, K prototypes, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from medssl.core.errors import ConfigError
from medssl.core.features import Features
from medssl.core.task import Batch, StepOutput
from medssl.core.viewspec import MaskSpec, Setting, Share, ViewSpec
from medssl.encoders._base import Encoder
from medssl.objectives._parts.assigning import (
    Assigned,
    Assigning,
    AssignmentConfig,
    Compared,
    Heads,
)
from medssl.objectives._parts.dino import cross_view_entropy, hidden_token_entropy, koleo
from medssl.objectives._parts.distributed import gather
from medssl.objectives._parts.multicrop import FULL, multi_crop, small_crop
from medssl.objectives._parts.prototypes import assignment_log
from medssl.objectives._parts.teacher import Teacher
from medssl.objectives._parts.views import ViewOptions


class DistillationConfig(AssignmentConfig):
    """Options of self-distillation."""

    views: ViewOptions = ViewOptions()
    """How views differ."""
    local_views: int = Field(default=4, ge=0)
    """Small views per sample, for the student only."""
    local_share: float = Field(default=0.5, ge=0.5, le=1)
    """Side of a small view, as a share of the full one, rounded up to what the encoder takes. Below
    half, a view may miss the organ."""
    koleo_weight: float = Field(default=0.1, ge=0)
    """Weight of KoLeo, which spreads the samples of a batch; 0 = off."""
    mask_ratio: Share = (0.1, 0.5)
    """Share of tokens hidden, drawn between these."""
    mask_probability: float = Field(default=0.5, ge=0, le=1)
    """Share of full views with hidden tokens."""


class Seen(NamedTuple):
    """What comes of one batch; the student has logits of small views too."""

    assigned: Assigned
    full: Features
    """Student's features of full views, view by view."""


class Distillation(Assigning):
    """Self-distillation wired to an encoder."""

    decoder: nn.Module | None = None

    def __init__(self, encoder: Encoder, config: DistillationConfig, setting: Setting) -> None:
        encoder.check_size(setting.crop)
        _check(encoder, config)
        super().__init__(config, Heads(encoder.width, encoder.token_width, config))
        self.encoder = encoder
        self.options = config
        self.setting = setting
        self.teacher = Teacher(encoder)
        # Encoders without tokens put 0 in hidden blocks: nothing to learn there.
        filled = config.patch_weight > 0 and encoder.returns_tokens
        self.mask_token = nn.Parameter(torch.zeros(encoder.token_width)) if filled else None

    def followed(self) -> Mapping[Teacher, nn.Module]:
        return {**super().followed(), self.teacher: self.encoder}

    def views(self) -> ViewSpec:
        """Two full views, with hidden tokens where patches count, then the small ones."""
        c = self.options
        mask = MaskSpec(
            token_size=self.encoder.token_size,
            ratio=c.mask_ratio,
            kind="block",
            probability=c.mask_probability,
        )
        small = small_crop(self.encoder, self.setting.crop, c.local_share)
        shown = mask if c.patch_weight else None
        return multi_crop(c.views, self.setting, small, c.local_views, shown)

    def step(self, batch: Batch) -> StepOutput:
        """Weighted sum of :meth:`terms`; notes the teacher's raw logits for the centres."""
        seen = self._look(batch)
        self.note(seen.assigned.raw)
        targets_VBK = seen.assigned.targets_VBK
        terms, weights = self._terms(seen, batch), self._weights()
        loss = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        return StepOutput(loss, {**terms, **assignment_log(targets_VBK.flatten(0, 1))})

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Each term of the loss, unweighted."""
        return self._terms(self._look(batch), batch)

    def _weights(self) -> dict[str, float]:
        c = self.options
        return {"distillation": 1.0, "patch": c.patch_weight, "koleo": c.koleo_weight}

    def _terms(self, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        c, found = self.options, seen.assigned
        tau = c.student_temperature
        terms = {"distillation": cross_view_entropy(found.targets_VBK, found.logits_VBK, tau)}
        if found.patches:
            terms["patch"] = hidden_token_entropy(*found.patches, tau)
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
        given, hidden = self.teacher(x), None
        if mask is not None:
            own, other = (self.encoder.tokens(f, tuple(x.shape[2:])) for f in (features, given))
            hidden = Compared(own, other, mask)
        found = self.assign(features.global_BD, given.global_BD, hidden, FULL)
        if small:
            local = self.encoder(torch.cat([view["x"] for view in small]))
            logits_VBK = self.heads.whole(local.global_BD).unflatten(0, (len(small), -1))
            found = found._replace(logits_VBK=torch.cat([found.logits_VBK, logits_VBK]))
        return Seen(found, features)


def _check(encoder: Encoder, config: DistillationConfig) -> None:
    if config.patch_weight and encoder.mask_refusal:
        what = f"this encoder cannot hide tokens: {encoder.mask_refusal}"
        raise ConfigError(what, fix="objective.patch_weight=0, or another encoder")
