"""Self-distillation with multi-crop, hidden tokens and spread (DINO, DINOv2; Gram anchoring).

A student sees two full views, with some tokens hidden, and a few small views. Its teacher, a slow
average of itself, sees the full views only. The student has to give every view the assignment to
prototypes that the teacher gives to *another* view of the sample (global), and every hidden token
the assignment that the teacher gives to the visible one (patches). Sinkhorn, or a moving centre,
keeps the teacher from giving one answer to all; KoLeo spreads the samples of a batch.

Algorithm:
    g_T = teacher(full views), unmasked            no gradient
    g_S = student(full views, hidden tokens + small views)
    t = Sinkhorn(g_T / tau_T)                      or softmax((g_T - c) / tau_T); never both
    loss = CE(t, softmax(g_S / tau_S)), views s != t
         + patch_weight * the same on hidden tokens, mean per sample first
         + koleo_weight * KoLeo(student's global vectors of full views)
         + gram_weight * Gram(student's tokens, those of a frozen earlier teacher)
    after each step: teacher <- m teacher + (1 - m) student; c <- 0.9 c + 0.1 mean(g_T)

Loss:
    L = mean_{t, s != t} -sum_k t_k log p_s,k
    KoLeo = -1/n sum_i log min_j |x_i - x_j|
    Gram = mean_ij (<x_i, x_j> - <y_i, y_j>)^2 on unit tokens

When to use:
    Image and volume encoders, from about 50 records up: global features for retrieval and
    classification, and with ``patch_weight`` tokens for segmentation. ``targets: centring`` for
    batches of hundreds. Gram anchoring when a patch probe falls while the global one still rises,
    in long runs.

Source:
    Caron et al. 2021 (DINO); Zhou et al. 2022 (iBOT); Oquab et al. 2023 (DINOv2); Simeoni et al.
    2025 (DINOv3). Departures: small views have at least half of a full view's sides, and none has
    solarising or hue (a view without the organ teaches nothing); 1024 prototypes, not 65,536, for
    50 to 50,000 records; batch norm in the head, without which convolutional encoders with a large
    mean in common gave uniform targets; KoLeo leaves out pairs of one record, whose distance is
    nearly 0.
"""

from __future__ import annotations

import torch
from pydantic import Field, field_validator
from torch import Tensor

from medssl.core.task import Batch
from medssl.core.viewspec import Setting
from medssl.encoders._base import Encoder
from medssl.objectives._parts.dino import gram_loss
from medssl.objectives._parts.distillation import Distillation, DistillationConfig, Seen
from medssl.objectives._parts.multicrop import FULL
from medssl.objectives._parts.teacher import Teacher


class Config(DistillationConfig):
    """Options of ``dino``."""

    gram_weight: float = Field(default=0.0, ge=0)
    """Weight of the Gram loss; 0 = off, and no second teacher is kept."""
    gram_at: tuple[float, ...] = (0.3, 0.5, 0.7)
    """Shares of all steps at which the Gram teacher becomes a copy of the teacher; the loss starts
    at the first one."""

    @field_validator("gram_at")
    @classmethod
    def _rises(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if not shares or list(shares) != sorted(shares) or shares[0] < 0 or shares[-1] > 1:
            raise ValueError("has to rise from 0 to 1")
        return shares


class Objective(Distillation):
    """``dino`` wired to an encoder."""

    def __init__(self, encoder: Encoder, config: Config, setting: Setting) -> None:
        super().__init__(encoder, config, setting)
        self.config = config
        self.gram_teacher = Teacher(encoder) if config.gram_weight else None
        # Rounded as ``progress`` is, so that a share that is reached counts once.
        self.gram_at: list[float] = torch.tensor(config.gram_at, device="cpu").tolist()

    def _weights(self) -> dict[str, float]:
        return {**super()._weights(), "gram": self.config.gram_weight}

    def _terms(self, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        terms = super()._terms(seen, batch)
        if self.gram_teacher and float(self.progress) >= self.gram_at[0]:
            x = torch.cat([view["x"] for view in batch["views"][:FULL]])
            size = tuple(x.shape[2:])
            with torch.no_grad():
                anchor = self.encoder.tokens(self.gram_teacher(x), size)
            terms["gram"] = gram_loss(self.encoder.tokens(seen.full, size), anchor)
        return terms

    def after_update(self, progress: float) -> None:
        """Also refresh the Gram teacher where its share of the steps is reached."""
        before = float(self.progress)
        super().after_update(progress)
        due = any(before < share <= float(self.progress) for share in self.gram_at)
        if self.gram_teacher and due:
            self.gram_teacher.follow(self.teacher.module, 0.0)
