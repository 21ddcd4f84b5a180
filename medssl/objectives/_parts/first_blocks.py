"""The first blocks of a decoder, for objectives that learn from a map within it."""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from medssl.core.errors import ConfigError
from medssl.core.features import Features
from medssl.encoders._base import Decoder, Encoder

# So many blocks where the user names no number and the decoder has them.
_USUAL = 3


class MapShape(NamedTuple):
    """The map after so many blocks."""

    blocks: int
    channels: int
    size: tuple[int, ...]


def map_after(decoder: Decoder, blocks: int, x: Tensor, features: Features) -> Tensor:
    """The map after ``blocks`` blocks; later ones are not computed."""
    return next(islice(decoder.maps(x, features), blocks - 1, None))


def keep_first_blocks(
    encoder: Encoder, decoder: Decoder, crop: tuple[int, ...], blocks: int | None
) -> MapShape:
    """Take away what only later blocks need; names of the other weights stay.

    Raises:
        ConfigError: the decoder has fewer blocks.
    """
    maps = _maps(encoder, decoder, crop)
    kept = blocks or min(_USUAL, len(maps))
    if kept > len(maps):
        what = f"the decoder has {len(maps)} blocks, not {kept}"
        raise ConfigError(what, fix=f"objective.decoder_blocks={len(maps)}")
    last = maps[kept - 1]
    weights = list(decoder.parameters())
    grads = torch.autograd.grad(last.sum(), weights, allow_unused=True)
    _drop_unused(decoder, {w for w, g in zip(weights, grads, strict=True) if g is not None})
    return MapShape(kept, last.shape[1], tuple(last.shape[2:]))


def _maps(encoder: Encoder, decoder: Decoder, crop: tuple[int, ...]) -> list[Tensor]:
    """Maps of all blocks for an empty crop, with their graph in the decoder."""
    modes = encoder.training, decoder.training
    x = torch.zeros(1, encoder.in_channels, *crop)
    with torch.no_grad():
        features = encoder.eval()(x)
    maps = list(decoder.eval().maps(x, features))
    encoder.train(modes[0])
    decoder.train(modes[1])
    return maps


def _drop_unused(module: nn.Module, used: set[nn.Parameter]) -> None:
    for name, child in module.named_children():
        weights = set(child.parameters())
        if weights and not weights & used:
            setattr(module, name, nn.Identity())
        else:
            _drop_unused(child, used)
