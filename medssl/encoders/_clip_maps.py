"""Clip encoders with one map per resolution, and a decoder for maps of any strides.

B batch, C channels, T frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from monai.networks.blocks import UnetrBasicBlock
from torch import Tensor, nn

from medssl.core.errors import ConfigError
from medssl.core.features import Features
from medssl.core.geometry import Kind
from medssl.encoders._base import Decoder, MapEncoder, finest, refuse_decoder

Size = tuple[int, int, int]


@dataclass(frozen=True)
class ClipShape:
    """Channels and strides (frames, pixels, pixels) of a pyramid's maps, fine to coarse."""

    channels: tuple[int, ...]
    strides: tuple[Size, ...]


def shape_of(body: nn.Module, in_channels: int, size: Size) -> ClipShape:
    """Channels and strides of what a network gives, found without computing it."""
    channels, strides = [], []
    with torch.no_grad():
        for level in body(torch.empty(1, in_channels, *size, device="meta")):
            channels.append(int(level.shape[1]))
            t, h, w = (a // b for a, b in zip(size, level.shape[2:], strict=True))
            strides.append((t, h, w))
    return ClipShape(tuple(channels), tuple(strides))


class ClipMaps(MapEncoder):
    """Maps of a library's network for clips; hidden blocks are 0 in its input.

    Args:
        body: (B, C, T, H, W) to a list of maps.
        shape: of the maps.
        in_channels: of the input.
        token_size: of masks (T, H, W); none = 2 frames of 16 pixels, or more frames where the
            network's finest map has fewer.
        only_size: of networks that are built for one size; empty otherwise.

    Raises:
        ConfigError: tokens are finer than the finest map, or do not divide the only size.
    """

    kind: Kind = "clip"

    def __init__(
        self,
        body: nn.Module,
        shape: ClipShape,
        in_channels: int,
        token_size: Size | None,
        only_size: Size | None = None,
    ) -> None:
        super().__init__()
        finest_map = shape.strides[0]
        token_size = token_size or (max(2, finest_map[0]), 16, 16)
        coarsest = shape.strides[-1]
        self.in_channels = in_channels
        self.token_size = token_size
        self.shape = shape
        self.deepest = max(coarsest)
        multiple = tuple(math.lcm(a, b) for a, b in zip(coarsest, token_size, strict=True))
        self.only_size = only_size
        self.size_multiple = only_size or multiple
        if any(s % m for s, m in zip(self.size_multiple, token_size, strict=True)):
            what = f"token_size {list(token_size)} does not divide the network's {only_size}"
            raise ConfigError(what, fix=f"encoder.token_size={list(coarsest)}")
        fine = [
            c for c, s in zip(shape.channels, shape.strides, strict=True) if _fits(s, token_size)
        ]
        if not fine:
            what = f"token_size {list(token_size)} is below the finest map's {list(finest_map)}"
            raise ConfigError(what, fix=f"encoder.token_size={list(finest_map)}")
        self.width = shape.channels[-1]
        self.token_width = fine[-1]
        self.body = body

    def check_size(self, size: tuple[int, ...]) -> None:
        """As for every encoder of maps; some networks take one size only."""
        if self.only_size and size != self.only_size:
            what = f"crop {list(size)}, but the network is built for one size"
            raise ConfigError(what, fix=f"crop={list(self.only_size)}, or encoder.image_size")
        super().check_size(size)

    def maps(self, x: Tensor) -> list[Tensor]:
        pyramid: list[Tensor] = self.body(x)
        return pyramid

    def make_decoder(self, out_channels: int, name: str = "auto") -> Decoder:
        if name not in {"auto", "unet"}:
            raise refuse_decoder(name, ("unet",))
        return ClipUNet(self.in_channels, self.shape.channels, out_channels)


def _fits(stride: Size, token_size: Size) -> bool:
    return all(s <= t for s, t in zip(stride, token_size, strict=True))


class ClipUNet(Decoder):
    """Interpolation to the next finer map, and a residual block on both; to the input's size."""

    last_layer = "out"

    def __init__(self, in_channels: int, channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        skips = (in_channels, *channels[:-1])
        widths = [min(16 * 2**level, 256) for level in range(len(skips))]
        below = (*widths[1:], channels[-1])
        self.ups = nn.ModuleList(
            UnetrBasicBlock(3, skip + coarse, width, 3, 1, "instance", res_block=True)
            for skip, coarse, width in zip(skips, below, widths, strict=True)
        )
        self.out = nn.Conv3d(widths[0], out_channels, 1)

    def maps(self, x: Tensor, features: Features) -> Iterator[Tensor]:
        *skips, y = (x, *features.pyramid)
        for up, skip in zip(reversed(self.ups), reversed(skips), strict=True):
            y = F.interpolate(y, skip.shape[2:], mode="trilinear", align_corners=False)
            y = up(torch.cat([skip, y], 1))
            yield y

    def forward(self, x: Tensor, features: Features) -> Tensor:
        out: Tensor = self.out(finest(self.maps(x, features)))
        return out
