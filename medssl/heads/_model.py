"""What heads share: an encoder with a part of its own, how it is frozen, trained and reloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from medssl.core.config import Config
from medssl.core.errors import UsageError
from medssl.core.task import ParamGroup
from medssl.core.taskmodule import TaskModule
from medssl.core.viewspec import Intensity, Spatial, View
from medssl.encoders._base import Encoder
from medssl.encoders.card import Card, build_from_card, load_card, part_of

M = TypeVar("M", bound=nn.Module)


class HeadConfig(Config):
    """Options of every head."""

    freeze_encoder: bool = False
    """Train the head's own weights only; the encoder stays bit for bit, batch statistics too."""
    encoder_lr_scale: float = Field(default=1.0, ge=0)
    """Factor on the encoder's learning rate."""
    freeze_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of all steps, at the start, in which the encoder stays as it is: the head first learns
    what to make of its features."""
    rotate_deg: float = 15.0
    """Largest rotation about each axis."""
    scale: tuple[float, float] = (0.85, 1.15)
    flip: bool | None = None
    """Mirror axes at random; default: only where left and right are equal (endoscopy, photographs).
    """


class HeadModule(TaskModule):
    """Base of heads.

    Attributes:
        model: its children are the parts of the weights file: ``encoder`` and the head's own.
        crop: voxels (D, H, W), or pixels (H, W) for an image encoder.
    """

    config: HeadConfig
    progress: Tensor

    def __init__(self, model: nn.Module, config: HeadConfig, crop: tuple[int, ...]) -> None:
        super().__init__()
        self.model = model
        self.crop = crop
        self.config = config
        self.register_buffer("progress", torch.zeros(()))
        # Rounded as ``progress`` is, so that the share ends at its step.
        self.freeze_share = float(torch.tensor(config.freeze_share))
        if config.freeze_encoder:
            self.encoder.requires_grad_(False)
        self.train()

    @property
    def encoder(self) -> Encoder:
        """The model's."""
        encoder = self.model.get_submodule("encoder")
        assert isinstance(encoder, Encoder)
        return encoder

    @property
    def rests(self) -> bool:
        """Whether the encoder stays as it is in the next step."""
        return self.config.freeze_encoder or float(self.progress) < self.freeze_share

    def train(self, mode: bool = True) -> Self:
        """As every module's; a resting encoder is in eval mode: no dropout, no new statistics."""
        super().train(mode)
        if self.rests:
            self.encoder.eval()
        return self

    def before_update(self, progress: float) -> None:  # noqa: ARG002
        """A resting encoder gets no gradient: weight decay and momentum leave it alone too."""
        if self.rests:
            for weight in self.encoder.parameters():
                weight.grad = None

    def after_update(self, progress: float) -> None:
        """Once its share of the steps is over, the encoder learns."""
        self.progress.fill_(progress)
        self.train(self.training)

    def gentle_view(self) -> View:
        """A labelled crop, gently turned, scaled and recoloured."""
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
        return View(crop=self.crop, spatial=spatial, intensity=intensity)

    def param_groups(self) -> list[ParamGroup]:
        """Encoder (with its learning-rate factor) and the head's own part."""
        groups = []
        for name, module in self.model.named_children():
            scale = self.config.encoder_lr_scale if name == "encoder" else 1.0
            named = module.named_parameters(prefix=name)
            groups.append(ParamGroup({n: p for n, p in named if p.requires_grad}, scale))
        return [group for group in groups if group.params]


def reload(
    run: Path,
    head: str,
    make: Callable[[Encoder, Card], M],
    *,
    device: str | torch.device,
    best: bool,
) -> tuple[M, Card]:
    """The model of a finetune run, in eval mode, and its card.

    Args:
        run: folder of the run.
        head: name of the head.
        make: the model with random weights on an encoder.
        device: where it goes.
        best: the checkpoint that did best on validation patients, where there is one.

    Raises:
        UsageError: if the run holds no model of this head.
    """
    card, weights = load_card(run, best=best)
    if card.head != head:
        kind = f"a {card.head} model" if card.head else "a pretrained encoder"
        what = f"the checkpoint is {kind}, not a {head} model"
        raise UsageError(what, fix=f"give a run of `medssl finetune --task {head}`")
    model = make(build_from_card(card), card)
    for name, part in model.named_children():
        part.load_state_dict(part_of(weights, name), strict=True)
    return model.to(device).eval(), card
