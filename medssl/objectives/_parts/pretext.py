"""Questions about a clip that its own frames answer: order of parts, speed.

Every clip is asked all questions there are, so that each answer is right equally often and nothing
is drawn at random.

B samples, P questions per sample, K answers, T frames of what the encoder sees.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from medssl.core.config import Config as BaseConfig
from medssl.core.task import Batch, StepOutput
from medssl.core.taskmodule import TaskModule
from medssl.core.viewspec import Factor, Setting, Spatial, View, ViewSpec
from medssl.encoders._base import Encoder
from medssl.objectives._parts.distributed import total, world
from medssl.objectives._parts.heads import Projector
from medssl.objectives._parts.precision import upcast


class PretextConfig(BaseConfig):
    """Options of questions about clips."""

    zoom: Factor = (1.0, 1.25)
    """Of the clip."""
    hidden: int = Field(default=512, ge=1)
    """Width of the head's hidden layer."""


def answer_entropy(logits_BPK: Tensor, answer_P: Tensor, counted_B: Tensor) -> Tensor:
    """Cross-entropy, mean over the questions, then over the counted samples of all ranks.

    >>> import torch
    >>> answer_entropy(torch.zeros(2, 6, 6), torch.arange(6), torch.tensor([True, False]))
    tensor(1.7918)
    """
    answers = answer_P.expand(len(logits_BPK), -1).flatten()
    each = F.cross_entropy(upcast(logits_BPK).flatten(0, 1), answers, reduction="none")
    mean_B = each.view(logits_BPK.shape[:2]).mean(1)
    return (mean_B * counted_B).sum() * world() / total(counted_B.sum()).clamp(min=1)


class Pretext(TaskModule):
    """A question wired to an encoder of clips.

    Args:
        encoder: sees clips of ``setting.crop``.
        config: options.
        setting: of the data.
        frames: of one view, from which what the encoder sees is taken.
        vectors: of the encoder that the head sees for one question.
        answers: number of them.
    """

    decoder = None

    def __init__(
        self,
        encoder: Encoder,
        config: PretextConfig,
        setting: Setting,
        *,
        frames: int,
        vectors: int,
        answers: int,
    ) -> None:
        super().__init__()
        encoder.check_size(setting.crop)
        self.encoder, self.options, self.setting, self.frames = encoder, config, setting, frames
        self.head = Projector(vectors * encoder.width, config.hidden, answers, norm="layer")

    @abstractmethod
    def ask(self, view: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, P, K), right answers (P,), and which samples (B,) count."""

    def views(self) -> ViewSpec:
        """One clip, long enough for all questions."""
        crop = (self.frames, *self.setting.crop[1:])
        view = View(crop=crop, spatial=Spatial(scale=self.options.zoom))
        return ViewSpec(views=(view,), min_tissue=0.2, clip=self.setting.frames)

    def step(self, batch: Batch) -> StepOutput:
        """Cross-entropy, and the share of right answers."""
        [view] = batch["views"]
        logits_BPK, answer_P, counted_B = self.ask(view)
        loss = answer_entropy(logits_BPK, answer_P, counted_B)
        right_B = (logits_BPK.argmax(2) == answer_P).float().mean(1)
        accuracy = (right_B * counted_B).sum() / counted_B.sum().clamp(min=1)
        return StepOutput(loss, {"answer": loss, "accuracy": accuracy})

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Terms of the loss."""
        [view] = batch["views"]
        return {"answer": answer_entropy(*self.ask(view))}


def moving(time_BT: Tensor) -> Tensor:
    """Which clips show another time in every given frame: held ones have no answer.

    >>> import torch
    >>> moving(torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 1.0]]))
    tensor([ True, False])
    """
    return (time_BT.diff(dim=1) > 0).all(1)
