"""Image encoders of libraries that give one map per resolution: CNNs and hierarchical nets."""

from __future__ import annotations

import math

from torch import Tensor, nn

from medssl.core.errors import ConfigError
from medssl.encoders._base import Decoder, MapEncoder
from medssl.encoders._decoders2d import Maps, image_decoder
from medssl.encoders._input import InputScale


class PyramidEncoder(MapEncoder):
    """Maps of a library's network; hidden blocks are 0 in its scaled input.

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
        self.shape = maps
        self.deepest = max(maps.strides)
        self.only_size = only_size
        self.size_multiple = only_size or tuple(math.lcm(self.deepest, t) for t in token_size)
        if any(s % t for s, t in zip(self.size_multiple, token_size, strict=True)):
            what = f"token_size {token_size[0]} does not divide the network's {list(only_size)}"
            raise ConfigError(what, fix=f"token_size={self.deepest}")
        self.width = maps.channels[-1]
        fine = [c for c, s in zip(maps.channels, maps.strides, strict=True) if s <= min(token_size)]
        if not fine:
            finest = min(maps.strides)
            what = f"token_size {token_size[0]} is below the finest map's {finest}"
            raise ConfigError(what, fix=f"token_size={finest}")
        self.token_width = fine[-1]
        self.scale = InputScale(in_channels)
        self.body = body

    def check_size(self, size: tuple[int, ...]) -> None:
        """As for every encoder of maps; some networks take one size only."""
        if self.only_size and size != self.only_size:
            fix = f"crop={list(self.only_size)}, or encoder.image_size".replace(" ", "", 1)
            raise ConfigError(f"crop {list(size)}, but the network is built for one size", fix=fix)
        super().check_size(size)

    def scaled(self, x: Tensor) -> Tensor:
        """Input as the weights expect it; hidden blocks are 0 after that."""
        out: Tensor = self.scale(x)
        return out

    def maps(self, x: Tensor) -> list[Tensor]:
        pyramid: list[Tensor] = self.body(x)
        return pyramid

    def make_decoder(self, out_channels: int, name: str = "auto") -> Decoder:
        return image_decoder(self.shape, out_channels, name)
