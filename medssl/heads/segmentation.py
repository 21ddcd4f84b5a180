"""Dense segmentation of volumes: the encoder's decoder with a Dice + cross-entropy loss."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from medssl.core.config import Config as BaseConfig
from medssl.core.errors import UsageError
from medssl.core.task import Batch, ParamGroup, StepOutput
from medssl.core.taskmodule import TaskModule
from medssl.core.viewspec import Intensity, Spatial, View, ViewSpec
from medssl.encoders._base import Encoder
from medssl.encoders.card import Card, build_from_card, load_card, part_of

# B batch, K classes (0 = background), D/H/W voxels


class Config(BaseConfig):
    """Options of the segmentation head."""

    freeze_encoder: bool = False
    """Train the decoder only."""
    encoder_lr_scale: float = Field(default=1.0, ge=0)
    """Factor on the encoder's learning rate."""
    foreground: float = Field(default=0.5, ge=0, le=1)
    """Share of training crops centred on a labelled voxel."""
    rotate_deg: float = 15.0
    """Largest rotation about each axis."""
    scale: tuple[float, float] = (0.85, 1.15)
    flip: bool = False
    """Mirror axes at random; only where left and right are equal."""


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


class Head(TaskModule):
    """Encoder and decoder trained on labelled crops."""

    def __init__(
        self, encoder: Encoder, decoder: nn.Module, config: Config, crop: tuple[int, int, int]
    ) -> None:
        super().__init__()
        encoder.check_size(crop)
        self.model = SegmentationModel(encoder, decoder)
        self.config = config
        self.crop = crop
        if config.freeze_encoder:
            encoder.requires_grad_(False)

    def views(self) -> ViewSpec:
        """Labelled crops, gently turned, scaled and recoloured."""
        spatial = Spatial(
            rotate_deg=self.config.rotate_deg,
            scale=self.config.scale,
            probability=0.5,
            flip=self.config.flip,
        )
        intensity = Intensity(
            gamma=(0.7, 1.5),
            brightness=0.3,
            contrast=(0.75, 1.25),
            noise=0.1,
            probability=0.3,
            noise_probability=0.3,
        )
        view = View(crop=self.crop, spatial=spatial, intensity=intensity)
        return ViewSpec(views=(view,), foreground=self.config.foreground)

    def step(self, batch: Batch) -> StepOutput:
        """Dice + cross-entropy of the only view against its ``label``."""
        [view] = batch["views"]
        logits = self.model(view["x"]).float()
        labels = view["label"].long()
        dice, ce = soft_dice_loss(logits, labels), nn.functional.cross_entropy(logits, labels)
        return StepOutput(dice + ce, {"dice_loss": dice.detach(), "ce": ce.detach()})

    def param_groups(self) -> list[ParamGroup]:
        """Encoder (with its learning-rate factor) and decoder."""
        groups = []
        for name, module, scale in (
            ("encoder", self.model.encoder, self.config.encoder_lr_scale),
            ("decoder", self.model.decoder, 1.0),
        ):
            named = module.named_parameters(prefix=name)
            groups.append(ParamGroup({n: p for n, p in named if p.requires_grad}, scale))
        return [group for group in groups if group.params]


class SegmentationModel(nn.Module):
    """``x`` (B,C,D,H,W) float32 -> logits (B,K,D,H,W)."""

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
    card, weights = load_card(run, best=best)
    if card.head != "segmentation":
        fix = "give a run of `medssl finetune --task segmentation`"
        kind = f"a {card.head} model" if card.head else "a pretrained encoder"
        raise UsageError(f"the checkpoint is {kind}, not a segmentation model", fix=fix)
    encoder = build_from_card(card)
    model = SegmentationModel(encoder, encoder.make_decoder(len(card.labels)))
    model.encoder.load_state_dict(part_of(weights, "encoder"), strict=True)
    model.decoder.load_state_dict(part_of(weights, "decoder"), strict=True)
    return model.to(device).eval(), card
