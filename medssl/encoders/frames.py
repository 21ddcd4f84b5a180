"""An image encoder on every frame of a clip, and a small transformer over the frames' vectors.

``frames/timm/resnet18`` reads each frame with ``timm/resnet18``. Maps and tokens are the frames'
own; only the clip's vector looks across time. With a mask, hidden blocks are 0 in the input, so
that any mask goes with any image encoder.

B batch, T frames, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from medssl.core.config import Config as BaseConfig
from medssl.core.errors import ConfigError
from medssl.core.features import Features
from medssl.core.geometry import Kind
from medssl.encoders._base import Decoder, Encoder, build_encoder
from medssl.encoders._tokens import cached_positions

EXAMPLES = ("timm/resnet18", "timm/vit_tiny_patch16_224", "smp/resnet34")

# Width of a head of attention.
_HEAD = 32


class Config(BaseConfig):
    """Options of an image encoder on clips."""

    image: dict[str, Any] = {}
    """Options of the image encoder, but for ``weights``."""
    weights: str | None = None
    """Public weights of the image encoder, as it takes them."""
    temporal_depth: int = Field(default=2, ge=0)
    """Transformer blocks over the frames' vectors; 0 = their mean alone."""


class Frames(Encoder):
    """The image encoder on frames; the clip's vector is the mean over time after the blocks."""

    kind: Kind = "clip"

    def __init__(self, image: Encoder, temporal_depth: int) -> None:
        super().__init__()
        self.image = image
        self.in_channels = image.in_channels
        self.token_size = (1, *image.token_size)
        self.size_multiple = (1, *image.size_multiple)
        self.width, self.token_width = image.width, image.token_width
        heads = 1 if self.width % _HEAD else self.width // _HEAD
        self.temporal = nn.Sequential(
            *(Block(self.width, heads, qkv_bias=True) for _ in range(temporal_depth))
        )
        inside = tuple(tuple(f"image.{name}" for name in layer) for layer in image.layers)
        self.layers = (*inside, ("temporal.",)) if inside else ()

    def check_size(self, size: tuple[int, ...]) -> None:
        """Any number of frames of a size that the image encoder takes."""
        super().check_size(size)
        try:
            self.image.check_size(size[1:])
        except ConfigError as refusal:
            what = f"frames of {list(size[1:])} do not fit the image encoder: {refusal.what}"
            raise ConfigError(what, fix=f"for frames, {refusal.fix}") from refusal

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        fill_D: Tensor | None = None,  # noqa: ARG002
    ) -> Features:
        x = self.without(x, mask)
        batch, frames = x.shape[0], x.shape[2]
        features = self.image(_as_images(x))
        vectors_BTD = features.global_BD.view(batch, frames, -1)
        if len(self.temporal):
            place = cached_positions((frames,), self.width, (), x.device)
            vectors_BTD = self.temporal(vectors_BTD + place.to(vectors_BTD.dtype))
        pyramid = [_as_clips(level, batch) for level in features.pyramid]
        return Features(vectors_BTD.mean(1), None, None, pyramid)

    def make_decoder(self, out_channels: int, name: str = "auto") -> Decoder:
        return FrameDecoder(self.image.make_decoder(out_channels, name))


class FrameDecoder(Decoder):
    """The image encoder's decoder on every frame."""

    def __init__(self, image: Decoder) -> None:
        super().__init__()
        self.image = image
        self.last_layer = f"image.{image.last_layer}"

    def maps(self, x: Tensor, features: Features) -> Iterator[Tensor]:
        for level in self.image.maps(_as_images(x), _of_images(features)):
            yield _as_clips(level, len(x))

    def forward(self, x: Tensor, features: Features) -> Tensor:
        return _as_clips(self.image(_as_images(x), _of_images(features)), len(x))


def _as_images(x_BCTHW: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B * T, C, H, W)."""
    return x_BCTHW.transpose(1, 2).flatten(0, 1)


def _as_clips(x: Tensor, batch: int) -> Tensor:
    """Inverse of :func:`_as_images`."""
    return x.view(batch, -1, *x.shape[1:]).transpose(1, 2).contiguous()


def _of_images(features: Features) -> Features:
    return features._replace(pyramid=[_as_images(level) for level in features.pyramid])


def build(variant: str, config: Config, in_channels: int) -> Encoder:
    """The encoder of ``frames/<image encoder>``.

    Raises:
        ConfigError: no such encoder, or not one of images.
    """
    if "weights" in config.image:
        raise ConfigError("encoder.image has no weights", fix="encoder.weights")
    source = {"weights": config.weights} if config.weights else {}
    image = build_encoder(variant, {**config.image, **source}, in_channels)
    if image.kind != "image":
        what = f"frames/{variant}: {variant} takes a {image.kind}, not an image"
        raise ConfigError(what, fix="encoder=frames/timm/resnet18")
    return Frames(image, config.temporal_depth)
