"""Image encoders of libraries that give one map per resolution: CNNs and hierarchical nets."""

from __future__ import annotations

import math

from torch import Tensor, nn

from medssl.core.errors import ConfigError
from medssl.core.features import Features
from medssl.encoders._base import Decoder, Encoder
from medssl.encoders._decoders2d import Maps, image_decoder
from medssl.encoders._input import InputScale
from medssl.encoders._tokens import blocks_to_voxels


class PyramidEncoder(Encoder):
    """Maps of a library's network; hidden blocks are 0 in its (normalised) input.

    The global vector is the mean of the deepest map.

    Attributes:
        only_size: of networks that are built for one input size; empty otherwise.
    """

    def __init__(
        self,
        body: nn.Module,
        maps: Maps,
        in_channels: int,
        token_size: tuple[int, int],
        only_size: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.token_size = token_size
        self.maps = maps
        self.deepest = max(maps.strides)
        self.only_size = only_size
        self.size_multiple = only_size or tuple(math.lcm(self.deepest, t) for t in token_size)
        if any(s % t for s, t in zip(self.size_multiple, token_size, strict=True)):
            what = f"token_size {token_size[0]} does not divide the network's {list(only_size)}"
            raise ConfigError(what, fix=f"token_size={self.deepest}")
        self.width = maps.channels[-1]
        fine = [c for c, s in zip(maps.channels, maps.strides, strict=True) if s <= min(token_size)]
        if not fine:
            what = f"token_size {list(token_size)} is below the finest map's {min(maps.strides)}"
            raise ConfigError(what, fix=f"token_size=[{min(maps.strides)},{min(maps.strides)}]")
        self.token_width = fine[-1]
        self.scale = InputScale(in_channels)
        self.body = body

    def check_size(self, size: tuple[int, ...]) -> None:
        """As for every encoder; the deepest map also needs more than one pixel."""
        if self.only_size and size != self.only_size:
            fix = f"crop={list(self.only_size)}, or encoder.image_size".replace(" ", "", 1)
            raise ConfigError(f"crop {list(size)}, but the network is built for one size", fix=fix)
        super().check_size(size)
        if max(size) <= self.deepest:
            fix = f"crop={[2 * side for side in size]}, or encoder.output_stride=8"
            raise ConfigError(f"crop {list(size)} leaves one pixel at the deepest stage", fix=fix)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        fill_D: Tensor | None = None,  # noqa: ARG002
    ) -> Features:
        x = self.scale(x)
        if mask is not None:
            x = x * ~blocks_to_voxels(mask, self.grid(tuple(x.shape[2:])), self.token_size)
        pyramid: list[Tensor] = self.body(x)
        return Features(pyramid[-1].mean((2, 3)), None, None, pyramid)

    def make_decoder(self, out_channels: int, name: str = "auto") -> Decoder:
        return image_decoder(self.maps, out_channels, name)
