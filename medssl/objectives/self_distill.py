"""Further pretraining on few images: masked autoencoding, held near a teacher's features.

A network that was pretrained elsewhere and goes on with a small set by itself soon fits that set
too closely. Here that is done once, and gives the teacher. The student starts again from the same
first weights, does the same task, and its visible tokens have to be the teacher's. It ends up
nearer to where both began, and knows the new set all the same.

Algorithm:
    1. pretrain objective=mae --init RUN on the target set                   gives TEACHER
    2. pretrain objective=self_distill --init RUN objective.teacher=TEACHER on the same set:
       hide mask_ratio of the tokens of each crop; both see what is left
       h_S, h_T = tokens of student and of teacher                           no gradient to h_T
       loss = L_MAE + distill_weight * mean over tokens of |h_S - h_T|^2 / D
    3. fine-tune the student

Loss:
    L = L_MAE + w / B sum_b 1/|V_b| sum_{i in V_b} |h_S,i - sg h_T,i|^2 / D, V_b = the tokens that
    both see: visible ones (of convolutions, those of the token grid that are not hidden)

When to use:
    Fewer than some 10,000 images of your own, and a network to start from: public weights, or a
    run on a larger archive. One round suffices; a second one takes the student as teacher. With
    enough images, go on with mae.

Source:
    Lee et al. 2023, "Self-Distillation for Further Pre-training of Transformers".
    Departures: the squared distance is divided by the width D, so that one weight serves every
    encoder (distill_weight = D is the paper's sum); visible tokens, as in the MAE of this house.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from medssl.core.errors import ConfigError, UsageError
from medssl.core.features import Features
from medssl.core.task import Batch, StepOutput
from medssl.core.viewspec import Setting
from medssl.encoders._base import Encoder
from medssl.encoders.card import load_card, part_of
from medssl.objectives import mae
from medssl.objectives._parts.frozen import Frozen
from medssl.objectives._parts.patches import mean_over
from medssl.objectives._parts.precision import upcast

# B batch, N tokens, D width

_FIX = "objective.teacher=RUN of `pretrain objective=mae --init` on these data"


class Config(mae.Config):
    """Options of ``self_distill``: those of ``mae`` and two more."""

    teacher: Path | None = None
    """Run whose tokens the student follows: the same encoder, further pretrained with ``mae``.
    There is no default."""
    distill_weight: float = Field(default=1.0, ge=0)
    """Of the distance to the teacher's tokens; 0 = further masked autoencoding alone."""


def token_distance(student_BND: Tensor, teacher_BND: Tensor, seen_BN: Tensor) -> Tensor:
    """|h_S - h_T|^2 / D, mean over the tokens seen, then over samples.

    >>> h = torch.zeros(2, 3, 4)
    >>> seen = torch.tensor([[True, True, False], [True, False, False]])
    >>> token_distance(h + torch.tensor([1.0, 3.0, 9.0])[:, None], h, seen).item()  # (5 + 1) / 2
    3.0
    """
    error_BN = (upcast(student_BND) - upcast(teacher_BND)).square().mean(2)
    return mean_over(error_BN, seen_BN)


class Objective(mae.Objective):
    """``self_distill`` wired to an encoder; ``decoder`` as in ``mae``."""

    config: Config

    def __init__(self, encoder: Encoder, config: Config, setting: Setting) -> None:
        super().__init__(encoder, config, setting)
        self.teacher = Frozen(_teacher_of(encoder, config.teacher))

    def step(self, batch: Batch) -> StepOutput:
        """The error of ``mae`` and the weighted distance to the teacher."""
        terms, counted = self._both(batch)
        loss = terms["reconstruction"] + self.config.distill_weight * terms["distance"]
        return StepOutput(loss, {**terms, "target_share": counted.float().mean()})

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Terms of the loss, unweighted."""
        return self._both(batch)[0]

    def _both(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        [view] = batch["views"]
        x, mask = view["x"], view["mask"]
        features = self.encoder(x, mask)
        with torch.no_grad():
            wanted = self.teacher.encoder(x, mask)
        reconstruction, counted = self.compare(view, features)
        student, teacher = (self._tokens(f, tuple(x.shape[2:])) for f in (features, wanted))
        seen = ~mask if student.shape[1] == mask.shape[1] else mask.new_ones(student.shape[:2])
        distance = token_distance(student, teacher, seen)
        return {"reconstruction": reconstruction, "distance": distance}, counted

    def _tokens(self, features: Features, size: tuple[int, ...]) -> Tensor:
        return self.encoder.tokens(features, size)


def _teacher_of(encoder: Encoder, run: Path | None) -> Encoder:
    """The encoder with the weights of a run.

    Raises:
        ConfigError: no run, or one of another encoder.
    """
    if run is None:
        raise ConfigError("no teacher is given: its tokens are what the student follows", fix=_FIX)
    try:
        _, weights = load_card(run)
    except UsageError as error:
        raise ConfigError(f"the teacher: {error.what}", where=error.where, fix=_FIX) from None
    teacher = copy.deepcopy(encoder)
    try:
        teacher.load_state_dict(part_of(weights, "encoder"), strict=True)
    except RuntimeError:
        what = "the teacher holds another encoder than the one that is trained"
        raise ConfigError(what, where=str(run), fix=_FIX) from None
    return teacher
