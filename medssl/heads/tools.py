"""Tools in view, of which several can be there at once: a linear layer and a probability for each.

Binary cross-entropy with logits, in which the frames that show a tool weigh so much more as they
are rarer (SelfSupSurg).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medssl.core.task import Batch, StepOutput
from medssl.core.viewspec import ViewSpec
from medssl.encoders._base import Encoder
from medssl.encoders.card import Card
from medssl.heads._model import HeadConfig, HeadModule, reload
from medssl.heads.classification import ClassificationModel, Classifier, described

# B frames, K tools


class Config(HeadConfig):
    """Options of the tool head."""

    fps: float = Field(default=1.0, gt=0)
    """Frames of a video per second that are looked at."""
    tools: tuple[str, ...] = ()
    """Names in the order of their numbers, and no others; default: those of the labels."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the global vector's entries that is dropped in training."""
    class_weights: Literal["balanced", "none"] = "balanced"
    """``balanced``: frames with a tool weigh (frames without) / (frames with) for it; ``none``: as
    much as those without."""


def positive_weights(counts: Sequence[int], total: int) -> Tensor:
    """Weight (K,) of frames that show a tool: frames without it / frames with it.

    A tool that is never or always there gets 1: there is nothing to balance.

    >>> positive_weights([5, 20, 0], 20)
    tensor([3., 1., 1.])
    """
    n_K = torch.tensor(counts, dtype=torch.float32)
    mixed = (n_K > 0) & (n_K < total)
    return torch.where(mixed, (total - n_K) / n_K.clamp(min=1), 1.0)


def weighted_bce(logits_BK: Tensor, there_BK: Tensor, weight_K: Tensor) -> Tensor:
    """Mean over frames and tools of -w y log p - (1 - y) log(1 - p), float32.

    >>> there, weight = torch.tensor([[1, 0]]), torch.tensor([3.0, 3.0])
    >>> round(weighted_bce(torch.zeros(1, 2), there, weight).item(), 4)  # (3 log 2 + log 2) / 2
    1.3863
    """
    return nn.functional.binary_cross_entropy_with_logits(
        logits_BK.float(), there_BK.float(), pos_weight=weight_K.to(logits_BK.device)
    )


class Head(HeadModule):
    """Encoder and linear layer trained on frames with the tools that they show."""

    config: Config
    weight_K: Tensor

    def __init__(
        self,
        encoder: Encoder,
        counts: tuple[Sequence[int], int],
        config: Config,
        crop: tuple[int, ...],
    ) -> None:
        """``counts``: training frames that show each tool, and all of them."""
        encoder.check_size(crop)
        classifier = Classifier(encoder.width, len(counts[0]), config.dropout)
        super().__init__(ClassificationModel(encoder, classifier), config, crop)
        balanced = config.class_weights == "balanced"
        weight_K = positive_weights(*counts) if balanced else torch.ones(len(counts[0]))
        self.register_buffer("weight_K", weight_K)

    def views(self) -> ViewSpec:
        """One crop per frame."""
        return ViewSpec(views=(self.gentle_view(),))

    def step(self, batch: Batch) -> StepOutput:
        """Weighted cross-entropy of the only view against the frame's ``target`` (B, K)."""
        [view] = batch["views"]
        logits, there = self.model(view["x"]), batch["target"]
        loss = weighted_bce(logits, there, self.weight_K)
        right = ((logits > 0) == (there > 0)).float().mean()
        return StepOutput(loss, {"bce": loss.detach(), "accuracy": right.detach()})


def load_model(
    run: Path, device: str | torch.device, *, best: bool = False
) -> tuple[ClassificationModel, Card]:
    """The tool model of a finetune run, in eval mode, and its card.

    Raises:
        UsageError: if the run holds no tool model.
    """
    return reload(run, "tools", described, device=device, best=best)
