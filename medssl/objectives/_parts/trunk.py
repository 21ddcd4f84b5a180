"""Narrow transformers that predict hidden tokens from visible ones.

B batch, N tokens, V visible tokens, D width.
"""

from __future__ import annotations

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from medssl.encoders._base import Encoder
from medssl.encoders._tokens import cached_positions, visible_index

# Width of a head of attention: widths of trunks are multiples of it.
_HEAD = 32


class Trunk(nn.Module):
    """Pre-norm blocks between two linear layers: the caller adds positions after ``enter``.

    Args:
        inputs: width of the encoder's tokens.
        width: of the blocks, a multiple of 32.
        depth: number of blocks.
        outputs: width of what is predicted.
    """

    def __init__(self, inputs: int, width: int, depth: int, outputs: int) -> None:
        super().__init__()
        self.enter = nn.Linear(inputs, width)
        self.blocks = nn.Sequential(
            *(Block(width, width // _HEAD, qkv_bias=True) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, outputs)

    def forward(self, tokens_BNW: Tensor) -> Tensor:
        """Entered tokens (B, N, width) -> (B, N, outputs)."""
        out: Tensor = self.leave(self.norm(self.blocks(tokens_BNW)))
        return out


class TokenDecoder(nn.Module):
    """Small transformer that sees visible tokens and mask tokens, all with positions.

    Args:
        encoder: whose visible tokens it takes.
        depth: number of blocks.
        outputs: width of what is predicted for each token.
    """

    def __init__(self, encoder: Encoder, depth: int, outputs: int) -> None:
        super().__init__()
        width = narrow_width(encoder)
        self.trunk = Trunk(encoder.token_width, width, depth, outputs)
        self.mask_token = new_token(width)
        self.pitch = encoder.pitch

    def forward(self, visible_BVD: Tensor, mask_BN: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Predictions (B, N, outputs) in raster order, also of visible tokens."""
        visible = self.trunk.enter(visible_BVD)
        tokens = self.mask_token.expand(*mask_BN.shape, -1).to(visible.dtype)
        index = visible_index(mask_BN)[..., None].expand_as(visible)
        tokens = tokens.scatter(1, index, visible)
        place = cached_positions(grid, tokens.shape[2], self.pitch, tokens.device)
        out: Tensor = self.trunk(tokens + place.to(tokens.dtype))
        return out


def narrow_width(encoder: Encoder) -> int:
    """Half the encoder's width, at least 96 (He et al. 2022 and Assran et al. 2023: about half)."""
    return max(encoder.token_width // 2 // _HEAD, 3) * _HEAD


def new_token(width: int) -> nn.Parameter:
    """A learnt vector for hidden places; one axis, so that weight decay leaves it alone."""
    return nn.Parameter(torch.randn(width) * 0.02)
