"""Segmentation of volumes, pictures and frames: a decoder, Dice + cross-entropy loss."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from medssl.core.task import Batch, StepOutput
from medssl.core.viewspec import ViewSpec
from medssl.encoders._base import Encoder
from medssl.encoders.card import Card
from medssl.heads._model import HeadConfig, HeadModule, reload

# B batch, K classes (0 = background), D/H/W voxels


class Config(HeadConfig):
    """Options of the segmentation head."""

    decoder: str = "auto"
    """Of the encoder's own kinds; for image encoders e.g. ``unet``, ``dpt``."""
    foreground: float = Field(default=0.5, ge=0, le=1)
    """Share of training crops centred on a labelled voxel."""
    fps: float | None = Field(default=None, gt=0)
    """Videos: frames per second that predict looks at, at most; default: every frame."""


def soft_dice_loss(logits_BKDHW: Tensor, labels_BDHW: Tensor) -> Tensor:
    """1 - Dice of softmax probabilities, mean over samples and foreground classes, float32.

    Dice = (2 sum(p y) + 1) / (sum(p) + sum(y) + 1), as Drozdzal et al. 2016 with smoothing 1:
    a class that is absent and not predicted costs nothing.

    >>> labels = torch.tensor([[[[0, 1]]]])
    >>> sure = torch.tensor([[[[[50.0, -50.0]]], [[[-50.0, 50.0]]]]])
    >>> round(soft_dice_loss(sure, labels).item(), 6)
    0.0
    >>> round(soft_dice_loss(-sure, labels).item(), 6)  # disjoint: 1 - 1/3
    0.666667
    """
    p_BKV = logits_BKDHW.float().softmax(1).flatten(2)[:, 1:]
    y_BKV = (
        nn.functional.one_hot(labels_BDHW.long(), logits_BKDHW.shape[1])
        .movedim(-1, 1)
        .flatten(2)[:, 1:]
    )
    overlap = (p_BKV * y_BKV).sum(2)
    total = p_BKV.sum(2) + y_BKV.sum(2)
    return 1 - ((2 * overlap + 1) / (total + 1)).mean()


class Head(HeadModule):
    """Encoder and decoder trained on labelled crops."""

    config: Config

    def __init__(
        self, encoder: Encoder, decoder: nn.Module, config: Config, crop: tuple[int, ...]
    ) -> None:
        encoder.check_size(crop)
        super().__init__(SegmentationModel(encoder, decoder), config, crop)

    def views(self) -> ViewSpec:
        """Labelled crops, half of them on a labelled voxel."""
        return ViewSpec(views=(self.gentle_view(),), foreground=self.config.foreground)

    def step(self, batch: Batch) -> StepOutput:
        """Dice + cross-entropy of the only view against its ``label``."""
        [view] = batch["views"]
        logits = self.model(view["x"]).float()
        labels = view["label"].long()
        dice, ce = soft_dice_loss(logits, labels), nn.functional.cross_entropy(logits, labels)
        return StepOutput(dice + ce, {"dice_loss": dice.detach(), "ce": ce.detach()})


class SegmentationModel(nn.Module):
    """``x`` (B, C, *space) float32 -> logits (B, K, *space)."""

    def __init__(self, encoder: Encoder, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.decoder(x, self.encoder(x))
        return out


def load_model(
    run: Path, device: str | torch.device, *, best: bool = False
) -> tuple[SegmentationModel, Card]:
    """The segmentation model of a finetune run, in eval mode, and its card.

    Raises:
        UsageError: if the run holds no segmentation model.
    """

    def make(encoder: Encoder, card: Card) -> SegmentationModel:
        return SegmentationModel(encoder, encoder.make_decoder(len(card.labels), card.decoder))

    return reload(run, "segmentation", make, device=device, best=best)
