"""Plain image transformers of timm; with a mask they compute visible tokens only.

B batch, N tokens, V visible tokens, P prefix tokens (class, registers), D width.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from medssl.core.features import Features
from medssl.encoders._adapter import add_adapters
from medssl.encoders._base import Decoder, Encoder
from medssl.encoders._decoders2d import Maps, image_decoder
from medssl.encoders._input import InputScale
from medssl.encoders._recompute import recomputed
from medssl.encoders._tokens import fill_hidden, take_tokens, visible_index

# What comes before the blocks.
_INPUT = (
    "net.patch_embed.", "net.cls_token", "net.reg_token", "net.pos_embed", "net.norm_pre.",
    "net.rope.",
)  # fmt: skip


class PlainViT(Encoder):
    """A ViT of timm (VisionTransformer or Eva). Prefix tokens are always visible.

    The global vector is the class token after the last norm, or the mean of the tokens.
    """

    returns_tokens = True

    adapters: nn.ModuleList

    def __init__(self, net: Any, in_channels: int, *, recompute: bool, adapter: int = 0) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.recompute = recompute
        self.token_size = self.size_multiple = tuple(net.patch_embed.patch_size)
        self.width = self.token_width = net.embed_dim
        self.scale = InputScale(in_channels)
        net.attn_pool = None  # a head's
        self.net = net
        self.mixed = getattr(net, "rope_mixed", False)
        depth = len(net.blocks)
        self.maps = Maps((self.width,) * depth, (max(self.token_size),) * depth)
        add_adapters(self, depth, self.width, adapter)
        blocks = ((f"net.blocks.{i}.", f"adapters.{i}.") for i in range(depth))
        self.layers = (_INPUT, *blocks)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, fill_D: Tensor | None = None
    ) -> Features:
        net = self.net
        grid = self.grid(tuple(x.shape[2:]))
        tokens_BHWD = net.patch_embed(self.scale(x))
        if mask is not None and fill_D is not None:
            filled = fill_hidden(tokens_BHWD.flatten(1, 2), mask, fill_D)
            tokens_BHWD, mask = filled.view_as(tokens_BHWD), None
        tokens, rope = _with_positions(net, tokens_BHWD)
        index = torch.arange(grid[0] * grid[1], device=x.device).expand(len(x), -1)
        prefix = net.num_prefix_tokens
        if mask is not None:
            index = visible_index(mask)
            kept = take_tokens(tokens[:, prefix:], index)
            tokens = torch.cat([tokens[:, :prefix], kept], 1)
            rope = _take_rope(rope, index)
        levels = self._levels(net.norm_pre(tokens), rope)
        levels[-1] = net.fc_norm(net.norm(levels[-1]))
        tokens = levels[-1][:, prefix:]
        pyramid = [] if mask is not None else [_to_map(t[:, prefix:], grid) for t in levels]
        pooled = levels[-1][:, 0] if net.cls_token is not None else tokens.mean(1)
        return Features(pooled, tokens, index, pyramid)

    def _levels(self, tokens: Tensor, rope: Tensor | None) -> list[Tensor]:
        levels = []
        for depth, block in enumerate(self.net.blocks):
            turn = {} if rope is None else {"rope": rope[depth] if self.mixed else rope}
            run = partial(recomputed, block) if self.recompute else block
            tokens = self.adapters[depth](run(tokens, **turn))
            levels.append(tokens)
        return levels

    def make_decoder(self, out_channels: int, name: str = "auto") -> Decoder:
        return image_decoder(self.maps, out_channels, name)


def _with_positions(net: Any, tokens_BHWD: Tensor) -> tuple[Tensor, Tensor | None]:
    """Prefix and tokens (B, P + N, D) with learnt positions, and rotary positions if any."""
    found = net._pos_embed(tokens_BHWD)
    return found if isinstance(found, tuple) else (found, None)


def _take_rope(rope: Tensor | None, index_BV: Tensor) -> Tensor | None:
    """Rotary positions of the kept tokens, with axes that broadcast over heads.

    (N, E) -> (B, 1, V, E); one set per block and head, (L, H, N, E) -> (L, B, H, V, E).
    """
    if rope is None:
        return None
    if rope.ndim == 2:
        return rope[index_BV][:, None]
    return rope[:, :, index_BV].transpose(1, 2)


def _to_map(tokens_BND: Tensor, grid: tuple[int, ...]) -> Tensor:
    return tokens_BND.transpose(1, 2).reshape(len(tokens_BND), -1, *grid)
