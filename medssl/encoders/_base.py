"""What every encoder offers to objectives and heads."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn

from medssl.core.config import validate
from medssl.core.errors import ConfigError
from medssl.core.features import Features
from medssl.core.registry import ENCODERS


class Decoder(nn.Module):
    """Base of dense decoders.

    Attributes:
        last_layer: prefix of the weights that depend on the task; never taken over by ``--init``.
    """

    last_layer: str

    @abstractmethod
    def forward(self, x: Tensor, features: Features) -> Tensor:
        """Input (B, C, *space) and its features -> (B, out_channels, *space)."""


class Encoder(nn.Module):
    """Base of encoders.

    Attributes:
        in_channels: channels of the input.
        token_size: voxels per mask token, array order; the mask's grid is input // token_size.
        size_multiple: input sizes must be divisible by this, array order.
        width: length of the global vector.
        returns_tokens: whether features hold tokens, visible ones only when masked.
    """

    in_channels: int
    token_size: tuple[int, ...]
    size_multiple: tuple[int, ...]
    width: int
    returns_tokens: bool = False

    @abstractmethod
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Features:
        """``x`` (B, C, *space); ``mask`` bool (B, N), True = hidden, raster order."""

    @abstractmethod
    def make_decoder(self, out_channels: int) -> Decoder:
        """A dense decoder for this encoder's features."""

    def check_size(self, size: tuple[int, ...]) -> None:
        """Refuse a crop the encoder cannot work on.

        Raises:
            ConfigError: if a side is no multiple of ``size_multiple``.
        """
        if any(s % m for s, m in zip(size, self.size_multiple, strict=True)):
            near = [max(m, round(s / m) * m) for s, m in zip(size, self.size_multiple, strict=True)]
            raise ConfigError(
                f"crop {list(size)} is no multiple of {list(self.size_multiple)}",
                fix=f"crop={near}".replace(" ", ""),
            )

    def grid(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Token grid of an input of this size."""
        return tuple(s // t for s, t in zip(size, self.token_size, strict=True))


def build_encoder(name: str, options: dict[str, Any], in_channels: int) -> Encoder:
    """The encoder called ``name``, with random weights.

    Raises:
        ConfigError: unknown name or option.
    """
    module, variant = ENCODERS.module(name)
    config = validate(module.Config, options, where=f"encoder {name}")
    encoder: Encoder = module.build(variant, config, in_channels)
    return encoder
