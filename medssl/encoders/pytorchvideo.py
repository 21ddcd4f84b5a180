"""Clip networks of pytorchvideo: X3D, SlowFast, Slow, R(2+1)D, CSN and MViT, with random weights.

Layers and names are the library's; its classifiers are left out. Nothing is ever downloaded. No
network here can leave tokens out: with a mask, hidden blocks are 0 in the input.
"""

from __future__ import annotations

import copy
import importlib
from typing import Any

import torch
from torch import Tensor, nn

from medssl.core.config import Config as BaseConfig
from medssl.core.errors import ConfigError
from medssl.core.registry import unknown_name
from medssl.encoders._base import Encoder
from medssl.encoders._clip_maps import ClipMaps, Size, shape_of
from medssl.encoders._recompute import count_batches_once, recomputed

EXAMPLES = ("x3d_s", "slowfast_r50", "mvit_base_16x4", "r2plus1d_r50", "csn_r101")

# What the library calls the channels of the input.
_CHANNELS = {
    "x3d_xs": "input_channel",
    "x3d_s": "input_channel",
    "x3d_m": "input_channel",
    "slow_r50": "input_channel",
    "r2plus1d_r50": "input_channel",
    "csn_r101": "input_channel",
    "slowfast_r50": "input_channels",
    "slowfast_r101": "input_channels",
    "mvit_base_16x4": "input_channels",
    "mvit_base_32x3": "input_channels",
}
# Stem and four stages; what follows is the classifier.
_STAGES = 5
# Frames of the fast path for each one of the slow path.
_ALPHA = 4
# Any size that is a multiple of all strides, to find them.
_PROBE: Size = (16, 64, 64)


class Config(BaseConfig):
    """Options of pytorchvideo's networks."""

    token_size: tuple[int, int, int] | None = None
    """Frames and pixels per mask block (T, H, W); default: 2 frames of 16 pixels, or as many frames
    as the finest map puts together (SlowFast: 4)."""
    image_size: tuple[int, int, int] | None = None
    """Frames and pixels (T, H, W) that MViT is built for; default: those of its name (16 or 32
    frames of 224 pixels)."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""


class StageMaps(nn.Module):
    """Map after the stem and after each stage."""

    def __init__(self, net: Any, *, recompute: bool) -> None:
        super().__init__()
        self.blocks = net.blocks[:_STAGES]
        self.recompute = recompute
        if recompute:
            count_batches_once(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        value = self.enter(x)
        for block in self.blocks:
            value = recomputed(block, value) if self.recompute else block(value)
            maps.append(self.join(value))
        return maps

    def enter(self, x: Any) -> Any:
        """What the stem takes."""
        return x

    def join(self, value: Any) -> Any:
        """One map of what a stage gives."""
        return value


class SlowFastMaps(StageMaps):
    """Both paths; a map of the fast one is averaged over the frames of the slow one beside it."""

    def enter(self, x: Any) -> Any:
        frames = torch.linspace(0, x.shape[2] - 1, x.shape[2] // _ALPHA, device=x.device).long()
        return [x.index_select(2, frames), x]

    def join(self, value: Any) -> Any:
        slow, fast = value
        return torch.cat([slow, nn.functional.avg_pool3d(fast, (_ALPHA, 1, 1))], 1)


class MViTMaps(nn.Module):
    """Tokens, as maps, before each pooling and after the last norm; the class token is left out."""

    def __init__(self, net: Any, *, recompute: bool) -> None:
        super().__init__()
        self.net = net
        self.net.head = None
        self.recompute = recompute

    def forward(self, x: Tensor) -> list[Tensor]:
        net = self.net
        tokens = net.cls_positional_encoding(net.patch_embed(x))
        grid = tuple(net.cls_positional_encoding.patch_embed_shape)
        maps: list[Tensor] = []
        for block in net.blocks:
            before = _to_map(tokens, grid)
            tokens, after = (recomputed if self.recompute else _plain)(block, tokens, list(grid))
            if tuple(after) != grid:
                maps.append(before)
            grid = tuple(after)
        return [*maps, _to_map(net.norm_embed(tokens), grid)]


def _plain(block: nn.Module, *args: Any) -> Any:
    return block(*args)


def _to_map(tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
    return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, *grid)


def build(variant: str, config: Config, in_channels: int) -> Encoder:
    """The encoder of ``pytorchvideo/<variant>``.

    Raises:
        ConfigError: no such network, pytorchvideo is not installed, or an option does not fit.
    """
    if variant not in _CHANNELS:
        raise unknown_name("pytorchvideo network", variant, list(_CHANNELS))
    mvit = variant.startswith("mvit")
    if config.image_size and not mvit:
        raise ConfigError(f"pytorchvideo/{variant} has no image_size", fix="leave it out")
    both = variant.startswith("slowfast")
    options: dict[str, Any] = {_CHANNELS[variant]: (in_channels,) * 2 if both else in_channels}
    size: Size | None = None
    if mvit:
        size = config.image_size or (32 if variant.endswith("32x3") else 16, 224, 224)
        options |= {"temporal_size": size[0], "spatial_size": size[1:]}
    net = getattr(_library(), variant)(pretrained=False, **options)
    kinds: dict[str, Any] = {"mvit": MViTMaps, "slowfast": SlowFastMaps}
    body = kinds.get(variant.partition("_")[0], StageMaps)(
        net, recompute=config.gradient_checkpointing
    )
    shape = shape_of(copy.deepcopy(body).to("meta").eval(), in_channels, size or _PROBE)
    encoder = ClipMaps(body, shape, in_channels, config.token_size, size)
    encoder.layers = _layers(net, mvit=mvit)
    return encoder


def _layers(net: Any, *, mvit: bool) -> tuple[tuple[str, ...], ...]:
    """How the names of weights begin, from the input."""
    if not mvit:
        return tuple((f"body.blocks.{i}.",) for i in range(_STAGES))
    first = ("body.net.patch_embed.", "body.net.cls_positional_encoding.")
    return (first, *((f"body.net.blocks.{i}.",) for i in range(len(net.blocks))))


def _library() -> Any:
    """Pytorchvideo's builders; they come with the extra ``video``.

    Raises:
        ConfigError: not installed.
    """
    try:
        return importlib.import_module("pytorchvideo.models.hub")
    except ImportError as error:
        what = "pytorchvideo is not installed"
        raise ConfigError(
            what, fix="pip install 'medssl[video]', or encoder=video_vit-s"
        ) from error
