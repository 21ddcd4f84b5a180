"""MONAI's Swin UNETR: shifted windows on volumes, with its own U-Net decoder.

Source: Hatamizadeh et al. 2022; Tang et al. 2022 pretrain it. Layers and names are MONAI's
(``SwinUNETR``): ``s`` is its default (feature size 24), ``b`` the published one (48). Hidden blocks
are 0 in the input.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from monai.networks.nets.swin_unetr import SwinUNETR
from torch import Tensor, nn

from medssl.core.config import Config as BaseConfig
from medssl.core.errors import ConfigError
from medssl.core.features import Features
from medssl.encoders._base import Decoder, Encoder, MapEncoder, finest, refuse_decoder

VARIANTS = ("xs", "s", "b")

_FEATURES = {"xs": 12, "s": 24, "b": 48}
_DEEPEST = 32


class Config(BaseConfig):
    """Options of Swin UNETR."""

    token_size: tuple[int, int, int] = (8, 8, 8)
    """Voxels per mask block (D, H, W)."""
    drop_path: float = 0.0
    """Stochastic depth."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""


class SwinEncoder(MapEncoder):
    """The shifted-window transformer; maps at 1/2, 1/4 ... 1/32 of the input's size."""

    def __init__(self, variant: str, config: Config, in_channels: int) -> None:
        super().__init__()
        features = _FEATURES[variant]
        self.in_channels = in_channels
        self.features = features
        self.token_size = config.token_size
        self.deepest = _DEEPEST
        self.size_multiple = tuple(math.lcm(_DEEPEST, t) for t in config.token_size)
        widths = [features * 2**level for level in range(5)]
        self.width = widths[-1]
        fine = [w for level, w in enumerate(widths) if 2 ** (level + 1) <= min(config.token_size)]
        if not fine:
            raise ConfigError("token_size is below the finest map's 2", fix="token_size=[2,2,2]")
        self.token_width = fine[-1]
        self.swinViT = SwinUNETR(
            in_channels,
            1,
            feature_size=features,
            dropout_path_rate=config.drop_path,
            use_checkpoint=config.gradient_checkpointing,
        ).swinViT
        stages = ((f"swinViT.layers{i}.", f"swinViT.layers{i}c.") for i in range(1, 5))
        self.layers = (("swinViT.patch_embed.",), *stages)

    def maps(self, x: Tensor) -> list[Tensor]:
        pyramid: list[Tensor] = self.swinViT(x.contiguous())
        return pyramid

    def make_decoder(self, out_channels: int, name: str = "auto") -> Decoder:
        if name not in {"auto", "swin_unetr"}:
            raise refuse_decoder(name, ("swin_unetr",))
        return SwinDecoder(self, out_channels)


class SwinDecoder(Decoder):
    """MONAI's residual blocks and upward path on the encoder's maps."""

    last_layer = "net.out"

    def __init__(self, encoder: SwinEncoder, out_channels: int) -> None:
        super().__init__()
        self.net = SwinUNETR(encoder.in_channels, out_channels, feature_size=encoder.features)
        self.net.swinViT = nn.Identity()  # its weights live in the encoder

    def maps(self, x: Tensor, features: Features) -> Iterator[Tensor]:
        net, levels = self.net, features.pyramid
        y = net.encoder10(levels[4])
        for up, enter, level in (
            (net.decoder5, nn.Identity(), levels[3]),
            (net.decoder4, net.encoder4, levels[2]),
            (net.decoder3, net.encoder3, levels[1]),
            (net.decoder2, net.encoder2, levels[0]),
            (net.decoder1, net.encoder1, x),
        ):
            y = up(y, enter(level))
            yield y

    def forward(self, x: Tensor, features: Features) -> Tensor:
        out: Tensor = self.net.out(finest(self.maps(x, features)))
        return out


def build(variant: str, config: Config, in_channels: int) -> Encoder:
    """The encoder of ``swin_unetr-<variant>``."""
    return SwinEncoder(variant, config, in_channels)
