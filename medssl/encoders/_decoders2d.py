"""Dense decoders of image encoders: layers of segmentation-models-pytorch on our features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from segmentation_models_pytorch.decoders.dpt.decoder import ReassembleBlock, ResidualConvBlock
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.decoders.unetplusplus.decoder import UnetPlusPlusDecoder
from torch import Tensor, nn

from medssl.core.features import Features
from medssl.encoders._base import Decoder, finest, refuse_decoder

# Halvings down to the deepest map.
_FPN_DEPTH = 5


@dataclass(frozen=True)
class Maps:
    """Channels and strides (pixels) of a pyramid's maps, fine to coarse."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def hierarchical(self) -> bool:
        """Whether strides grow and are powers of two."""
        two = all(s & (s - 1) == 0 for s in self.strides)
        return two and self.strides[0] < self.strides[-1]


def image_decoder(maps: Maps, out_channels: int, name: str) -> Decoder:
    """The decoder called ``name`` for these maps; ``auto`` is the first that fits.

    Raises:
        ConfigError: no such decoder for these maps.
    """
    kinds = _kinds(maps)
    if name == "auto":
        name = next(iter(kinds))
    if name not in kinds:
        raise refuse_decoder(name, tuple(kinds))
    return kinds[name](maps, out_channels)


def _kinds(maps: Maps) -> dict[str, Callable[[Maps, int], Decoder]]:
    """Decoders that fit; the default first."""
    if not maps.hierarchical:
        return {"dpt": DPT2D}
    kinds: dict[str, Callable[[Maps, int], Decoder]] = {"unet": UNet2D}
    channels = Steps(maps).channels
    if all(channels):
        kinds["unetplusplus"] = UNetPlusPlus2D
    if len(channels) == _FPN_DEPTH and all(channels[1:]):
        kinds["fpn"] = FPN2D
    return kinds


class Steps:
    """The deepest map of each stride 2, 4, 8 ...; levels without one are empty (0 channels)."""

    def __init__(self, maps: Maps) -> None:
        last = {stride: i for i, stride in enumerate(maps.strides)}
        self.depth = max(maps.strides).bit_length() - 1
        self.taps = [last.get(2**level) for level in range(1, self.depth + 1)]
        self.channels = [0 if tap is None else maps.channels[tap] for tap in self.taps]

    def __call__(self, x: Tensor, features: Features) -> list[Tensor]:
        """The picture, then one map per halving."""
        levels = [x]
        for level, tap in enumerate(self.taps, start=1):
            size = (x.shape[2] >> level, x.shape[3] >> level)
            empty = x.new_empty(len(x), 0, *size)
            levels.append(empty if tap is None else features.pyramid[tap])
        return levels


class UNet2D(Decoder):
    """U-Net's upward path (Ronneberger et al. 2015)."""

    last_layer = "out"
    kind: type[nn.Module] = UnetDecoder

    def __init__(self, maps: Maps, out_channels: int) -> None:
        super().__init__()
        self.steps = Steps(maps)
        depth = self.steps.depth
        widths = [512, 256, 128, 64, 32, 16][-depth:]
        self.net: Any = self.kind([0, *self.steps.channels], widths, depth)
        self.out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def maps(self, x: Tensor, features: Features) -> Iterator[Tensor]:
        y, *skips = reversed(self.steps(x, features))
        for block, skip in zip(self.net.blocks, skips, strict=True):
            # The picture itself is no skip.
            y = block(y, *skip.shape[2:], None if skip is x else skip)
            yield y

    def forward(self, x: Tensor, features: Features) -> Tensor:
        out: Tensor = self.out(finest(self.maps(x, features)))
        return out


class UNetPlusPlus2D(UNet2D):
    """U-Net with nested skips (Zhou et al. 2018)."""

    kind = UnetPlusPlusDecoder

    def maps(self, x: Tensor, features: Features) -> Iterator[Tensor]:
        blocks, levels = self.net.blocks, self.steps(x, features)[:0:-1]
        before: dict[int, Tensor] = {}
        for k in range(self.net.depth):  # all nodes of one resolution, the outermost last
            row = {k: blocks[f"x_{k}_{k}"](levels[k], levels[k + 1])}
            for start in reversed(range(k)):
                skip = torch.cat([row[i] for i in range(start + 1, k + 1)] + [levels[k + 1]], 1)
                row[start] = blocks[f"x_{start}_{k}"](before[start], skip)
            before = row
            yield before[0]
        yield blocks[f"x_0_{self.net.depth}"](before[0])

    def forward(self, x: Tensor, features: Features) -> Tensor:
        out: Tensor = self.out(self.net(self.steps(x, features)))
        return out


class FPN2D(Decoder):
    """Feature pyramid (Kirillov et al. 2019), from stride 4 up to the picture bilinearly."""

    last_layer = "out"

    def __init__(self, maps: Maps, out_channels: int) -> None:
        super().__init__()
        self.steps = Steps(maps)
        self.net = FPNDecoder([0, *self.steps.channels], self.steps.depth)
        self.out = nn.Conv2d(self.net.out_channels, out_channels, 1)

    def maps(self, x: Tensor, features: Features) -> Iterator[Tensor]:
        net, levels = self.net, self.steps(x, features)
        y = net.p5(levels[-1])
        yield y
        for up, skip in ((net.p4, levels[-2]), (net.p3, levels[-3]), (net.p2, levels[-4])):
            y = up(y, skip)
            yield y

    def forward(self, x: Tensor, features: Features) -> Tensor:
        coarse = self.out(self.net(self.steps(x, features)))
        return _resized(coarse, x.shape[2:])


class DPT2D(Decoder):
    """Four hidden states of a plain transformer, reassembled at four sizes and fused.

    Source: Ranftl et al. 2021, without the class token.
    """

    last_layer = "out"

    def __init__(self, maps: Maps, out_channels: int, features: int = 128) -> None:
        super().__init__()
        depth = len(maps.channels)
        self.taps = [max(depth * quarter // 4 - 1, 0) for quarter in (1, 2, 3, 4)]
        # Sizes relative to the token grid.
        self.lifts = nn.ModuleList(
            ReassembleBlock(maps.channels[tap], features, features, factor)
            for tap, factor in zip(self.taps, (4, 2, 1, 0.5), strict=True)
        )
        self.befores = nn.ModuleList(ResidualConvBlock(features) for _ in self.taps)
        self.afters = nn.ModuleList(ResidualConvBlock(features) for _ in self.taps)
        self.smooth = nn.Sequential(
            nn.Conv2d(features, features // 2, 3, padding=1, bias=False),
            nn.BatchNorm2d(features // 2),
            nn.ReLU(inplace=True),
        )
        self.out = nn.Conv2d(features // 2, out_channels, 1)

    def maps(self, x: Tensor, features: Features) -> Iterator[Tensor]:  # noqa: ARG002
        y: Tensor | None = None
        for level in (3, 2, 1, 0):
            lifted = self.lifts[level](features.pyramid[self.taps[level]])
            coarser = torch.zeros_like(lifted) if y is None else _resized(y, lifted.shape[2:])
            y = self.afters[level](self.befores[level](lifted) + coarser)
            yield y

    def forward(self, x: Tensor, features: Features) -> Tensor:
        y = finest(self.maps(x, features))
        half = _resized(y, [(side + 1) // 2 for side in x.shape[2:]])
        out: Tensor = _resized(self.out(self.smooth(half)), x.shape[2:])
        return out


def _resized(x_BCHW: Tensor, size: Sequence[int]) -> Tensor:
    return nn.functional.interpolate(x_BCHW, list(size), mode="bilinear", align_corners=False)
