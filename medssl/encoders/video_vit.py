"""Vision transformer for clips: tubelets in place of patches, visible tokens only with a mask.

A token is a patch through a few frames. Time is an axis like the others: positions are fixed sines
and cosines of the token's time step, row and column, each on its own share of the width, so that
clips of any length and size work. Attention is over all tokens of the clip together.

Source: Arnab et al. 2021 (tubelets, joint attention in space and time); Tong et al. 2022 (visible
tokens only).
"""

from __future__ import annotations

from medssl.core.geometry import Kind
from medssl.encoders._base import Encoder
from medssl.encoders._vit3d import ViT3D, ViTConfig

VARIANTS = ("xs", "s", "b")


class Config(ViTConfig):
    """Options of the clip transformer."""

    token_size: tuple[int, int, int] = (2, 16, 16)
    """Frames and pixels per tubelet (T, H, W); powers of two."""


class VideoViT(ViT3D):
    """The transformer on tubelets."""

    kind: Kind = "clip"

    def __init__(self, variant: str, config: Config, in_channels: int) -> None:
        super().__init__(variant, config, in_channels)
        self._built_as = variant, config

    def per_frame(self) -> VideoViT:
        """A new encoder of the same size whose tokens are patches of single frames."""
        variant, config = self._built_as
        changes = {"token_size": (1, *self.token_size[1:]), "adapter": 0}
        return VideoViT(variant, config.model_copy(update=changes), self.in_channels)


def build(variant: str, config: Config, in_channels: int) -> Encoder:
    """The encoder of ``video_vit-<variant>``."""
    return VideoViT(variant, config, in_channels)
