"""Classification of volumes, pictures and clips: a linear layer on the encoder's global vector.

The vector is standardised (layer norm without weights) before the layer: encoders give vectors of
very different size, and with few labels one learning rate has to fit them all. It does so sample
by sample, so that a batch of one works and a result does not depend on its neighbours.

Training sees crops, each with the class of its whole record: choose a crop (or ``size_px``,
``spacing_mm``) that shows what the class depends on. Predictions are means over windows, see
:func:`medssl.inference.sliding.predict_probabilities`; those of a video, means over clips that are
spread evenly over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medssl.core.task import Batch, StepOutput
from medssl.core.viewspec import ClipSpec, ViewSpec
from medssl.encoders._base import Encoder
from medssl.encoders.card import Card
from medssl.heads._model import HeadConfig, HeadModule, reload

# B batch, K classes, D width of the global vector


class Config(HeadConfig):
    """Options of the classification head."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the global vector's entries that is dropped in training."""
    class_weights: Literal["balanced", "none"] = "balanced"
    """``balanced``: every class counts the same in the loss, however rare; probabilities are then
    those of equally frequent classes. ``none``: every case counts the same."""
    fps: float | None = Field(default=None, gt=0)
    """Videos: frames per second that are kept; default: as ``init`` had it, else 15."""
    clip: ClipSpec | None = None
    """Videos: which frames a training crop shows; default: as ``init`` had it."""


def balanced_weights(counts: Sequence[int]) -> Tensor:
    """Weight (K,) of each class: N / (K n_k), so that the mean weight of a case is 1.

    A class without a case gets 0; K counts the others.

    >>> balanced_weights([30, 10, 0])
    tensor([0.6667, 2.0000, 0.0000])
    """
    n_K = torch.tensor(counts, dtype=torch.float32)
    there = n_K > 0
    return torch.where(there, n_K.sum() / (there.sum() * n_K.clamp(min=1)), 0.0)


def weighted_cross_entropy(logits_BK: Tensor, target_B: Tensor, weight_K: Tensor) -> Tensor:
    """Mean over samples of weight x -log p(target), float32.

    Divided by the number of samples and not, as torch does, by the sum of their weights: then the
    mean over micro-batches and processes is the loss of the whole batch, and a batch of one rare
    case counts as much as it should.

    >>> weighted_cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3]), torch.tensor([1., 1, 1, 3]))
    tensor(2.7726)
    """
    each_B = nn.functional.cross_entropy(logits_BK.float(), target_B, reduction="none")
    return (weight_K.to(each_B)[target_B] * each_B).mean()


class Classifier(nn.Module):
    """Global vector (B, D) -> logits (B, K)."""

    def __init__(self, width: int, n_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, n_classes)
        # Near zero: the start is undecided and gives the encoder small gradients.
        nn.init.trunc_normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, global_BD: Tensor) -> Tensor:
        out: Tensor = self.linear(self.dropout(self.norm(global_BD.float())))
        return out


class ClassificationModel(nn.Module):
    """``x`` (B, C, *crop) float32 -> logits (B, K)."""

    def __init__(self, encoder: Encoder, classifier: Classifier) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.encoder(x).global_BD)
        return out


class Head(HeadModule):
    """Encoder and linear layer trained on crops with the class of their record."""

    config: Config
    weight_K: Tensor

    def __init__(
        self, encoder: Encoder, counts: Sequence[int], config: Config, crop: tuple[int, ...]
    ) -> None:
        """``counts``: training cases of each class, in the order of the card's labels."""
        encoder.check_size(crop)
        classifier = Classifier(encoder.width, len(counts), config.dropout)
        super().__init__(ClassificationModel(encoder, classifier), config, crop)
        balanced = config.class_weights == "balanced"
        weight_K = balanced_weights(counts) if balanced else torch.ones(len(counts))
        self.register_buffer("weight_K", weight_K)

    def views(self) -> ViewSpec:
        """One crop per record."""
        clip = (self.config.clip or ClipSpec()) if self.encoder.kind == "clip" else None
        return ViewSpec(views=(self.gentle_view(),), clip=clip)

    def step(self, batch: Batch) -> StepOutput:
        """Weighted cross-entropy of the only view against the record's ``target``."""
        [view] = batch["views"]
        logits, target = self.model(view["x"]), batch["target"].long()
        loss = weighted_cross_entropy(logits, target, self.weight_K)
        right = (logits.argmax(1) == target).float().mean()
        return StepOutput(loss, {"ce": loss.detach(), "accuracy": right.detach()})


def described(encoder: Encoder, card: Card) -> ClassificationModel:
    """The model that a card describes, with a random last layer."""
    return ClassificationModel(encoder, Classifier(encoder.width, len(card.labels)))


def load_model(
    run: Path, device: str | torch.device, *, best: bool = False
) -> tuple[ClassificationModel, Card]:
    """The classification model of a finetune run, in eval mode, and its card.

    Raises:
        UsageError: if the run holds no classification model.
    """
    return reload(run, "classification", described, device=device, best=best)
