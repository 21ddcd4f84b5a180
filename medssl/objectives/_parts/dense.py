"""A unit vector for every place of a view: feature pyramid network on an encoder's maps.

B samples, C channels of maps, D width of the vectors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medssl.core.config import Config
from medssl.core.errors import ConfigError
from medssl.core.features import Features
from medssl.encoders._base import Encoder
from medssl.objectives._parts.contrast import unit

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


class EmbeddingConfig(Config):
    """Options of the embedding network; the card of a model holds them."""

    width: int = Field(default=128, ge=2)
    """Length of each of the two vectors of a place."""
    hidden: int = Field(default=64, ge=1)
    """Channels of the pyramid."""
    fine_stride: int = Field(default=2, ge=1)
    """Voxels per cell of the fine vectors: the coarsest map that is no coarser than this, or the
    finest there is."""
    coarse_stride: int = Field(default=8, ge=1)
    """Voxels per cell of the coarse vectors, likewise."""


class Embedded(NamedTuple):
    """Unit vectors of the cells of two grids, (B, D, *grid) each."""

    fine: Tensor
    coarse: Tensor


class DenseEmbedding(nn.Module):
    """Laterals of all maps, added from the deepest up; one head for fine and one for coarse cells.

    Where all maps have one grid (transformers), the middle one and the last one take part.

    Args:
        encoder: whose maps are read.
        config: widths and strides.
        crop: (D, H, W) or (H, W) of the views; other sizes the encoder takes work too.

    Raises:
        ConfigError: the encoder gives no maps.
    """

    def __init__(self, encoder: Encoder, config: EmbeddingConfig, crop: tuple[int, ...]) -> None:
        super().__init__()
        shapes = map_shapes(encoder, crop)
        if not shapes:
            fix = "encoder=resenc-s for volumes, encoder=timm/resnet18 for pictures"
            raise ConfigError("a dense embedding needs an encoder with maps", fix=fix)
        strides = [max(c // s for c, s in zip(crop, shape[1:], strict=True)) for shape in shapes]
        self.levels = _distinct(strides)
        strides = [strides[level] for level in self.levels]
        self.fine_level = _level(strides, config.fine_stride)
        self.coarse_level = _level(strides, config.coarse_stride)
        self.levels, self.first = self.levels[self.fine_level :], self.fine_level
        if len(crop) == 3:
            conv: type[nn.Conv2d | nn.Conv3d] = nn.Conv3d
        else:
            conv = nn.Conv2d
        channels = [shapes[level][0] for level in self.levels]
        self.laterals = nn.ModuleList(conv(c, config.hidden, 1) for c in channels)
        self.fine = _head(conv, config)
        self.coarse = _head(conv, config)

    def forward(self, features: Features) -> Embedded:
        """Vectors of a batch of views; the features are those of unmasked views."""
        maps = [features.pyramid[level] for level in self.levels]
        summed = [self.laterals[-1](maps[-1])]
        for lateral, finer in zip(self.laterals[-2::-1], maps[-2::-1], strict=True):
            summed.insert(0, lateral(finer) + resized(summed[0], tuple(finer.shape[2:])))
        fine = unit(self.fine(summed[0]))
        coarse = unit(self.coarse(summed[self.coarse_level - self.first]))
        return Embedded(fine, coarse)


def resized(map_BCX: Tensor, grid: tuple[int, ...]) -> Tensor:
    """A map at another resolution; linear interpolation between cell centres."""
    if tuple(map_BCX.shape[2:]) == grid:
        return map_BCX
    return F.interpolate(map_BCX, grid, mode=_LINEAR[len(grid)], align_corners=False)


def joint(seen: Embedded) -> Tensor:
    """Both vectors of every fine cell as one of length 1: (B, 2 D, *grid).

    The cosine of two of them is the mean of the fine and the coarse cosine.

    >>> one, other = torch.tensor([[[1.0], [0.0]]]), torch.tensor([[[0.0], [1.0]]])
    >>> a, b = joint(Embedded(one, one)), joint(Embedded(one, other))
    >>> round((a * b).sum().item(), 4)
    0.5
    """
    coarse = unit(resized(seen.coarse, tuple(seen.fine.shape[2:])))
    return torch.cat([seen.fine, coarse], 1) / 2**0.5


def _head(conv: type[nn.Conv2d | nn.Conv3d], config: EmbeddingConfig) -> nn.Sequential:
    """The last layer has no bias: a vector in common to all cells says nothing."""
    return nn.Sequential(
        conv(config.hidden, config.hidden, 3, padding=1),
        nn.LeakyReLU(0.01),
        conv(config.hidden, config.width, 1, bias=False),
    )


@torch.no_grad()
def map_shapes(encoder: Encoder, crop: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Channels and grid of the encoder's maps, fine to coarse, seen on an empty crop."""
    training = encoder.training
    device = next(encoder.parameters()).device
    maps = encoder.eval()(torch.zeros(1, encoder.in_channels, *crop, device=device)).pyramid
    encoder.train(training)
    return [tuple(m.shape[1:]) for m in maps]


def _distinct(strides: list[int]) -> list[int]:
    """The last map of each stride; of maps that all have one, the middle one and the last one.

    >>> _distinct([2, 4, 8, 8]), _distinct([8, 8, 8, 8]), _distinct([8])
    ([0, 1, 3], [1, 3], [0])
    """
    last = sorted({stride: level for level, stride in enumerate(strides)}.values())
    return last if len(last) > 1 else sorted({(len(strides) - 1) // 2, len(strides) - 1})


def _level(strides: list[int], wanted: int) -> int:
    """The coarsest level whose stride is at most ``wanted``; else the finest.

    >>> [_level([1, 2, 4, 8], wanted) for wanted in (1, 3, 16)], _level([4, 8], 2)
    ([0, 1, 3], 0)
    """
    return max([k for k, stride in enumerate(strides) if stride <= wanted], default=0)
