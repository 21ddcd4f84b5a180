"""From a labelled procedure to one without labels: what is weighed, and what a teacher says.

B frames, K phases of the labelled procedure.

Source: Samarasinghe et al. 2023, "CDFSL-V: Cross-Domain Few-Shot Learning for Videos". As its code
means to and does not: the ramps are applied, and the teacher follows once per step.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Self

import torch
from pydantic import Field
from torch import Tensor, nn

from medssl.core.config import Config as BaseConfig
from medssl.core.ema import move_towards
from medssl.core.task import Batch, StepOutput
from medssl.core.viewspec import Intensity, Spatial, View, ViewSpec
from medssl.encoders._base import Encoder
from medssl.heads import classification
from medssl.heads.classification import weighted_cross_entropy

_STRONG = Intensity(
    gamma=(0.5, 2.0), brightness=0.6, contrast=(0.5, 1.5), noise=0.2, blur=(0.5, 1.5),
    probability=0.8, noise_probability=0.5,
)  # fmt: skip


class Curriculum(BaseConfig):
    """How training turns from the labelled procedure to the other one."""

    consistency: float = Field(default=1.0, gt=0)
    """Weight of what the teacher says of unlabelled frames, at the end."""
    sharpness: float = Field(default=10.0, gt=0)
    """Of the turn: low = even over all steps, high = all at once in the middle."""
    temperature: float = Field(default=0.1, gt=0)
    """Of the teacher's answers; low values make them sure."""
    momentum: float = Field(default=0.99, ge=0, le=1)
    """Of the teacher's weights, per step."""


def ramp(progress: float, sharpness: float) -> float:
    """An arctan from 0 at the start to 1 at the end, steepest in the middle, where it is one half.

    >>> [ramp(p, 10.0) for p in (0.0, 0.5, 1.0)]
    [0.0, 0.5, 1.0]
    """
    end = math.atan(sharpness / 2)
    return (math.atan(sharpness * (progress - 0.5)) / end + 1) / 2


def pseudo_label_loss(student_BK: Tensor, teacher_BK: Tensor, temperature: float) -> Tensor:
    """Mean of -sum_k t_k log p_k, t = softmax(teacher / temperature) held fixed, float32.

    >>> pseudo_label_loss(torch.zeros(2, 4), torch.ones(2, 4), 0.1)  # log 4
    tensor(1.3863)
    """
    target_BK = (teacher_BK.detach().float() / temperature).softmax(1)
    return -(target_BK * student_BK.float().log_softmax(1)).sum(1).mean()


class CurriculumHead(classification.Head):
    """A linear layer on single frames; with a ``curriculum``, also on those without labels.

    A batch then has ``unlabelled``: a weak and a strong view of a frame of another procedure. The
    student sees the strong one and has to say of it, in phases of the labelled procedure, what its
    slow teacher says of the weak one. The weight of that rises along a ramp; along the same ramp
    the rate of the linear layer falls to 0, so that what the encoder learns turns from phases of
    the one procedure to what is common to both.
    """

    def __init__(
        self,
        encoder: Encoder,
        counts: Sequence[int],
        config: classification.Config,
        crop: tuple[int, ...],
    ) -> None:
        super().__init__(encoder, counts, config, crop)
        self.curriculum: Curriculum | None = getattr(config, "curriculum", None)
        self.teacher: nn.Module | None = None
        if self.curriculum:
            self.teacher = copy.deepcopy(self.model).requires_grad_(False).eval()
        self._before: list[Tensor] = []

    @property
    def turned(self) -> float:
        """How far training has turned to the other procedure, 0 to 1."""
        assert self.curriculum is not None
        return ramp(float(self.progress), self.curriculum.sharpness)

    def train(self, mode: bool = True) -> Self:
        """As every head's; a teacher stays in eval mode."""
        super().train(mode)
        teacher = getattr(self, "teacher", None)  # there is none yet while the base is built
        if teacher is not None:
            teacher.eval()
        return self

    def unlabelled_views(self) -> ViewSpec:
        """A weak and a strong view of one place."""
        weak = View(crop=self.crop, spatial=Spatial(scale=(0.95, 1.05), flip=self.config.flip))
        gentle = self.gentle_view().spatial.model_copy(update={"probability": 0.8})
        strong = View(crop=self.crop, spatial=gentle, intensity=_STRONG)
        return ViewSpec(views=(weak, strong), overlap=0.8)

    def step(self, batch: Batch) -> StepOutput:
        """Cross-entropy of labelled frames, and of unlabelled ones with the teacher's answers."""
        if self.curriculum is None or self.teacher is None:
            return super().step(batch)
        [view], (weak, strong) = batch["views"], batch["unlabelled"]
        target = batch["target"].long()
        # Both procedures pass at once: batch norms see them together.
        logits = self.model(torch.cat([view["x"], strong["x"]]))
        known_BK, other_BK = logits.split([len(target), len(strong["x"])])
        with torch.no_grad():
            taught_BK = self.teacher(weak["x"])
        ce = weighted_cross_entropy(known_BK, target, self.weight_K)
        agree = pseudo_label_loss(other_BK, taught_BK, self.curriculum.temperature)
        weight = self.curriculum.consistency * self.turned
        log = {
            "ce": ce.detach(),
            "accuracy": (known_BK.argmax(1) == target).float().mean(),
            "consistency": agree.detach(),
            "consistency_weight": ce.new_tensor(weight),
        }
        return StepOutput(ce + weight * agree, log)

    def before_update(self, progress: float) -> None:
        """Notes the linear layer, whose step is shortened afterwards."""
        super().before_update(progress)
        if self.curriculum:
            self._before = [p.detach().clone() for p in self._layer()]

    @torch.no_grad()
    def after_update(self, progress: float) -> None:
        """The linear layer goes a part of its step only; the teacher follows."""
        if self._before:
            for now, before in zip(self._layer(), self._before, strict=True):
                now.lerp_(before, self.turned)
        self._before = []
        super().after_update(progress)
        if self.curriculum and self.teacher is not None:
            move_towards(self.teacher, self.model, self.curriculum.momentum)

    def discard_update(self) -> None:
        """The layer has not moved."""
        self._before = []

    def _layer(self) -> list[nn.Parameter]:
        return list(self.model.get_submodule("classifier").parameters())
