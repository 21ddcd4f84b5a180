"""Vision transformer for single frames: the image branch of discovr, also on its own.

``video_vit`` with tokens of one frame each, as an encoder of images. ``--init`` of a discovr run
loads the weights of its image branch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field
from torch import Tensor

from medssl.core.config import Config as BaseConfig
from medssl.core.features import Features
from medssl.encoders._base import Decoder, Encoder
from medssl.encoders._vit3d import ViT3D, ViTConfig

VARIANTS = ("xs", "s", "b")


class Config(BaseConfig):
    """Options of the transformer on frames."""

    patch_px: tuple[int, int] = (16, 16)
    """Pixels per token (H, W); powers of two."""
    registers: int = Field(default=0, ge=0)
    """Learnt tokens beside the patches, always visible, never returned."""
    drop_path: float = 0.0
    """Stochastic depth."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""


def options_of(video_vit: dict[str, Any]) -> dict[str, Any]:
    """Options of the image branch of a ``video_vit`` with these.

    >>> options_of({"token_size": [2, 8, 8], "adapter": 4})
    {'patch_px': [8, 8]}
    """
    own = {k: v for k, v in video_vit.items() if k in Config.model_fields}
    size = video_vit.get("token_size")
    return own if size is None else {"patch_px": list(size)[1:], **own}


class FrameViT(Encoder):
    """A frame is a clip of one frame, with tokens of one frame."""

    returns_tokens = True

    def __init__(self, variant: str, config: Config, in_channels: int) -> None:
        super().__init__()
        given = config.model_dump(exclude={"patch_px"})
        self.net = ViT3D(variant, ViTConfig(token_size=(1, *config.patch_px), **given), in_channels)
        self.in_channels = in_channels
        self.token_size = self.size_multiple = config.patch_px
        self.width, self.token_width = self.net.width, self.net.token_width
        self.layers = tuple(tuple(f"net.{start}" for start in layer) for layer in self.net.layers)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, fill_D: Tensor | None = None
    ) -> Features:
        features: Features = self.net(x[:, :, None], mask, fill_D)
        return features._replace(pyramid=[level[:, :, 0] for level in features.pyramid])

    def make_decoder(self, out_channels: int, name: str = "auto") -> Decoder:
        return FrameDecoder(self.net.make_decoder(out_channels, name))


class FrameDecoder(Decoder):
    """The decoder of clips on one frame."""

    def __init__(self, clip: Decoder) -> None:
        super().__init__()
        self.clip = clip
        self.last_layer = f"clip.{clip.last_layer}"

    def maps(self, x: Tensor, features: Features) -> Iterator[Tensor]:
        for level in self.clip.maps(x[:, :, None], _as_clips(features)):
            yield level[:, :, 0]

    def forward(self, x: Tensor, features: Features) -> Tensor:
        out: Tensor = self.clip(x[:, :, None], _as_clips(features))[:, :, 0]
        return out


def _as_clips(features: Features) -> Features:
    return features._replace(pyramid=[level[:, :, None] for level in features.pyramid])


def build(variant: str, config: Config, in_channels: int) -> Encoder:
    """The encoder of ``frame_vit-<variant>``."""
    return FrameViT(variant, config, in_channels)
