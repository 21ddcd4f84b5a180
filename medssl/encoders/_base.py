"""What every encoder offers to objectives and heads."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from medssl.core.config import Component, validate
from medssl.core.errors import ConfigError
from medssl.core.features import Features
from medssl.core.geometry import Kind
from medssl.core.registry import ENCODERS
from medssl.encoders._tokens import blocks_to_voxels

# Crops that most encoders of a kind take.
_EXAMPLES: dict[Kind, str] = {
    "image": "[224,224]",
    "volume": "[96,96,96]",
    "clip": "[16,112,112]",
}


class Decoder(nn.Module):
    """Base of dense decoders.

    Attributes:
        last_layer: prefix of the weights that depend on the task; never taken over by ``--init``.
    """

    last_layer: str

    @abstractmethod
    def maps(self, x: Tensor, features: Features) -> Iterator[Tensor]:
        """Map (B, channels, *space) after each block, coarse to fine, computed when asked for."""

    @abstractmethod
    def forward(self, x: Tensor, features: Features) -> Tensor:
        """Input (B, C, *space) and its features -> (B, out_channels, *space)."""


def finest(maps: Iterator[Tensor]) -> Tensor:
    """The last of a decoder's maps; no other is kept."""
    return deque(maps, maxlen=1).pop()


class Encoder(nn.Module):
    """Base of encoders.

    Attributes:
        in_channels: channels of the input.
        token_size: voxels per mask token, array order (2 or 3 axes); the mask's grid is
            input // token_size.
        size_multiple: input sizes must be divisible by this, array order.
        width: length of the global vector.
        token_width: length of the vectors of :meth:`tokens`.
        pitch: distance of neighbouring tokens per axis in units of the smallest, where the
            encoder knows it from the spacing in mm; empty = 1 along every axis.
        returns_tokens: whether features hold tokens: a transformer that can leave hidden ones
            out. Other encoders see hidden blocks as 0.
        mask_refusal: why masks are refused; empty = they are supported.
        layers: how the names of weights begin, layer by layer from the input; weights of no layer
            come after the last one. Empty = not known.
    """

    in_channels: int
    token_size: tuple[int, ...]
    size_multiple: tuple[int, ...]
    width: int
    token_width: int
    pitch: tuple[float, ...] = ()
    returns_tokens: bool = False
    mask_refusal: str = ""
    layers: tuple[tuple[str, ...], ...] = ()

    @property
    def kind(self) -> Kind:
        """Of the input: two axes are an image, three a volume; encoders of clips say so."""
        return "image" if len(self.token_size) == 2 else "volume"

    @abstractmethod
    def forward(
        self, x: Tensor, mask: Tensor | None = None, fill_D: Tensor | None = None
    ) -> Features:
        """Features of a batch.

        Args:
            x: (B, C, *space).
            mask: bool (B, N), True = hidden, raster order.
            fill_D: put in place of hidden tokens, which are left out otherwise: then every sample
                hides the same number, and ``tokens_BND`` holds the visible ones only. Encoders
                without tokens put 0 in hidden blocks in both cases.
        """

    @abstractmethod
    def make_decoder(self, out_channels: int, name: str = "auto") -> Decoder:
        """A dense decoder for this encoder's features, of the kind ``name``.

        Raises:
            ConfigError: no such decoder for this encoder.
        """

    def tokens(self, features: Features, size: tuple[int, ...]) -> Tensor:
        """Dense features on the token grid of an input of ``size``: (B, N, token_width), raster.

        Tokens where the encoder has them, else the map of the pyramid nearest above the grid,
        averaged over each token.
        """
        if features.tokens_BND is not None:
            return features.tokens_BND
        return pooled_tokens(features.pyramid, self.grid(size))

    def without(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The input with 0 in hidden blocks."""
        if mask is None:
            return x
        return x * ~blocks_to_voxels(mask, self.grid(tuple(x.shape[2:])), self.token_size)

    def depth_of(self, name: str) -> int:
        """Number of a weight's layer, 0 = the input's."""
        for depth, starts in enumerate(self.layers):
            if name.startswith(starts):
                return depth
        return len(self.layers)

    def check_size(self, size: tuple[int, ...]) -> None:
        """Refuse a crop the encoder cannot work on.

        Raises:
            ConfigError: if a side is no multiple of ``size_multiple``, or the number of axes is
                another.
        """
        if len(size) != len(self.size_multiple):
            what = f"crop has {len(size)} sides, the encoder takes {len(self.size_multiple)}"
            raise ConfigError(what, fix=f"e.g. crop={_EXAMPLES[self.kind]}")
        if any(s % m for s, m in zip(size, self.size_multiple, strict=True)):
            near = [max(m, round(s / m) * m) for s, m in zip(size, self.size_multiple, strict=True)]
            raise ConfigError(
                f"crop {list(size)} is no multiple of {list(self.size_multiple)}",
                fix=f"crop={near}".replace(" ", ""),
            )

    def grid(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Token grid of an input of this size."""
        return tuple(s // t for s, t in zip(size, self.token_size, strict=True))


class MapEncoder(Encoder):
    """Base of encoders with one map per resolution; hidden blocks are 0 in their input.

    The global vector is the mean of the deepest map.

    Attributes:
        deepest: voxels per side of one voxel of the deepest map.
        smaller: what else to do about a crop that is too small; empty = only a larger crop helps.
    """

    deepest: int
    smaller: str = ""

    @abstractmethod
    def maps(self, x: Tensor) -> list[Tensor]:
        """Maps (B, C, *space), fine to coarse."""

    def scaled(self, x: Tensor) -> Tensor:
        """Input before blocks are hidden."""
        return x

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        fill_D: Tensor | None = None,  # noqa: ARG002
    ) -> Features:
        x = self.scaled(x)
        x = self.without(x, mask)
        pyramid = self.maps(x)
        return Features(pyramid[-1].mean(tuple(range(2, x.ndim))), None, None, pyramid)

    def check_size(self, size: tuple[int, ...]) -> None:
        """As for every encoder; the deepest map also needs two voxels, to be normalised."""
        super().check_size(size)
        if max(size) <= self.deepest:
            fix = f"crop={[2 * side for side in size]}".replace(" ", "") + self.smaller
            raise ConfigError(f"crop {list(size)} leaves one voxel at the deepest stage", fix=fix)


def pooled_tokens(pyramid: list[Tensor], grid: tuple[int, ...]) -> Tensor:
    """The coarsest map that is at least as fine as the grid, averaged over each token."""
    fine = [m for m in pyramid if all(s >= g for s, g in zip(m.shape[2:], grid, strict=True))]
    pool = nn.AdaptiveAvgPool3d if len(grid) == 3 else nn.AdaptiveAvgPool2d
    pooled: Tensor = pool(grid)(fine[-1])
    return pooled.flatten(2).transpose(1, 2)


def refuse_decoder(name: str, known: tuple[str, ...]) -> ConfigError:
    """The error for a decoder that an encoder does not have."""
    fix = f"one of: {', '.join(('auto', *known))}"
    return ConfigError(f"this encoder has no decoder '{name}'", fix=fix)


def build_encoder(name: str, options: dict[str, Any], in_channels: int) -> Encoder:
    """The encoder called ``name``, with random weights.

    Raises:
        ConfigError: unknown name or option.
    """
    module, variant = ENCODERS.module(name)
    config = validate(module.Config, options, where=f"encoder {name}")
    encoder: Encoder = module.build(variant, config, in_channels)
    return encoder


def in_mm(encoder: Component, spacing_mm: tuple[float, ...] | None) -> Component:
    """The encoder with its input's spacing, where it places tokens in mm and was told none."""
    module, _ = ENCODERS.module(encoder.name)
    if spacing_mm is None or "spacing_mm" not in module.Config.model_fields:
        return encoder
    options = {"spacing_mm": list(spacing_mm), **encoder.options}
    return Component(name=encoder.name, **options)
