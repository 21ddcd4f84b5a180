"""The transformer on patches of three axes behind ``vit3d`` (volumes) and ``video_vit`` (clips).

Source: Dosovitskiy et al. 2021; He et al. 2022; registers: Darcet et al. 2024. Positions are fixed
sines and cosines of the token's place along each axis, so that any input size works.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from monai.networks.blocks import UnetrBasicBlock, UnetrUpBlock
from pydantic import Field
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from medssl.core.config import Config as BaseConfig
from medssl.core.features import Features
from medssl.encoders._adapter import add_adapters
from medssl.encoders._base import Decoder, Encoder, finest, refuse_decoder
from medssl.encoders._recompute import recomputed
from medssl.encoders._tokens import (
    cached_positions,
    fill_hidden,
    patchify,
    take_tokens,
    visible_index,
)

Size = tuple[int, int, int]

# Width, depth, heads.
_LAYOUT = {"xs": (192, 6, 3), "s": (384, 12, 6), "b": (768, 12, 12)}


class ViTConfig(BaseConfig):
    """Options of the transformers on three axes."""

    token_size: Size
    registers: int = Field(default=0, ge=0)
    """Learnt tokens beside the patches, always visible, never returned."""
    drop_path: float = 0.0
    """Stochastic depth."""
    adapter: int = Field(default=0, ge=0)
    """Width of a bottleneck behind every block; the rest of the encoder then stays as it is, so
    start from a run or from public weights. 0 = none, and all weights learn."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""


class ViT3D(Encoder):
    """Plain pre-norm transformer on patches, without class token.

    Args:
        variant: size.
        config: patches and what else can be chosen.
        in_channels: of the input.
        pitch: distance of neighbouring tokens per axis, in units of the smallest; empty = 1.
    """

    register_1RD: nn.Parameter | None
    adapters: nn.ModuleList

    returns_tokens = True

    def __init__(
        self, variant: str, config: ViTConfig, in_channels: int, pitch: tuple[float, ...] = ()
    ) -> None:
        super().__init__()
        width, depth, heads = _LAYOUT[variant]
        self.in_channels = in_channels
        self.token_size = config.token_size
        self.size_multiple = config.token_size
        self.width = self.token_width = width
        self.pitch = pitch
        self.recompute = config.gradient_checkpointing
        self.embed = nn.Conv3d(in_channels, width, config.token_size, config.token_size)
        rates = [config.drop_path * i / (depth - 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            Block(width, heads, qkv_bias=True, drop_path=rate) for rate in rates
        )
        self.norm = nn.LayerNorm(width)
        self.registers = config.registers
        self.register_1RD = None
        if config.registers:
            self.register_1RD = nn.Parameter(torch.randn(1, config.registers, width) * 0.02)
        self.apply(_init_linear)
        # A patch embedding is a linear layer on the flattened patch.
        nn.init.xavier_uniform_(self.embed.weight.view(width, -1))
        nn.init.zeros_(self.embed.bias)  # type: ignore[arg-type]
        add_adapters(self, depth, width, config.adapter)
        blocks = ((f"blocks.{i}.", f"adapters.{i}.") for i in range(depth))
        self.layers = (("embed.", "register_1RD"), *blocks)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, fill_D: Tensor | None = None
    ) -> Features:
        grid = self.grid(tuple(x.shape[2:]))
        tokens, index = self._tokens(x, mask, fill_D)
        if self.register_1RD is not None:
            extra = self.register_1RD.to(tokens.dtype).expand(len(x), -1, -1)
            tokens = torch.cat([extra, tokens], 1)
        levels = []
        for block, adapter in zip(self.blocks, self.adapters, strict=True):
            tokens = adapter(recomputed(block, tokens) if self.recompute else block(tokens))
            levels.append(tokens)
        levels[-1] = self.norm(tokens)
        levels = [level[:, self.registers :] for level in levels]
        whole = mask is None or fill_D is not None
        pyramid = [_to_map(t, grid) for t in levels] if whole else []
        return Features(levels[-1].mean(1), levels[-1], index, pyramid)

    def _tokens(
        self, x: Tensor, mask: Tensor | None, fill_D: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Embedded patches with their positions (B, V, D), and their raster indices (B, V)."""
        patches_BNP = patchify(x, self.token_size)
        place_1ND = cached_positions(
            self.grid(tuple(x.shape[2:])), self.width, self.pitch, x.device
        )
        index = torch.arange(patches_BNP.shape[1], device=x.device).expand(len(x), -1)
        if mask is not None and fill_D is None:
            index = visible_index(mask)
            patches_BNP = take_tokens(patches_BNP, index)
            place_1ND = take_tokens(place_1ND.expand(len(x), -1, -1), index)
        # The weights of a convolution, so that cards keep their names; as a matrix product it is
        # several times faster, and hidden patches cost nothing.
        tokens = nn.functional.linear(patches_BNP, self.embed.weight.flatten(1), self.embed.bias)
        if mask is not None and fill_D is not None:
            tokens = fill_hidden(tokens, mask, fill_D)
        return tokens + place_1ND.to(tokens.dtype), index

    def make_decoder(self, out_channels: int, name: str = "auto") -> Decoder:
        if name not in {"auto", "unetr"}:
            raise refuse_decoder(name, ("unetr",))
        return UNETRDecoder(self, out_channels)


class UNETRDecoder(Decoder):
    """Hidden states of evenly spaced blocks, upsampled to a U-Net's skips (UNETR).

    Source: Hatamizadeh et al. 2022, generalised to any power-of-two patch.
    """

    last_layer = "out"

    def __init__(self, encoder: ViT3D, out_channels: int, features: int = 16) -> None:
        super().__init__()
        steps = upsampling_steps(encoder.token_size)
        depth = len(encoder.blocks)
        widths = [features * 2 ** min(level, 4) for level in range(len(steps) + 1)]
        # Level 0 is full resolution; level i lies i steps above it.
        self.taps = [math.ceil(depth * level / len(steps)) - 1 for level in range(1, len(steps))]
        self.stem = _conv(encoder.in_channels, widths[0])
        self.lifts = nn.ModuleList(
            _lift(encoder.width, widths[level], steps[level:]) for level in range(1, len(steps))
        )
        self.bottom = nn.Conv3d(encoder.width, widths[-1], 1)
        self.ups = nn.ModuleList(
            UnetrUpBlock(3, widths[level + 1], widths[level], 3, steps[level], "instance", True)
            for level in range(len(steps))
        )
        self.out = nn.Conv3d(widths[0], out_channels, 1)

    def maps(self, x: Tensor, features: Features) -> Iterator[Tensor]:
        y = self.bottom(features.pyramid[-1])
        for level, up in reversed(list(enumerate(self.ups))):
            y = up(y, self._skip(level, x, features))
            yield y

    def forward(self, x: Tensor, features: Features) -> Tensor:
        out: Tensor = self.out(finest(self.maps(x, features)))
        return out

    def _skip(self, level: int, x: Tensor, features: Features) -> Tensor:
        if level == 0:
            skip: Tensor = self.stem(x)
            return skip
        lifted: Tensor = self.lifts[level - 1](features.pyramid[self.taps[level - 1]])
        return lifted


def upsampling_steps(token_size: tuple[int, ...]) -> list[Size]:
    """Factors (1 or 2 per axis) that lead from full resolution (first) to the token grid.

    >>> upsampling_steps((2, 8, 8))
    [(1, 2, 2), (1, 2, 2), (2, 2, 2)]
    """
    left = list(token_size)
    steps = []
    while max(left) > 1:
        step = (_halved(left, 0), _halved(left, 1), _halved(left, 2))
        left = [size // factor for size, factor in zip(left, step, strict=True)]
        steps.append(step)
    return steps


def _halved(left: list[int], axis: int) -> int:
    return 2 if left[axis] == max(left) else 1


def _lift(width: int, features: int, steps: list[Size]) -> nn.Sequential:
    """Upsample a token map to the level above which ``steps`` lie."""
    layers: list[nn.Module] = []
    channels = width
    for step in reversed(steps):
        layers += [nn.ConvTranspose3d(channels, features, step, step), nn.InstanceNorm3d(features)]
        layers += [nn.LeakyReLU(inplace=True)]
        channels = features
    return nn.Sequential(*layers, _conv(features, features))


def _conv(inputs: int, outputs: int) -> nn.Module:
    block: nn.Module = UnetrBasicBlock(3, inputs, outputs, 3, 1, "instance", res_block=True)
    return block


def _to_map(tokens_BND: Tensor, grid: tuple[int, ...]) -> Tensor:
    return tokens_BND.transpose(1, 2).reshape(len(tokens_BND), -1, *grid)


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
