"""Token bookkeeping shared by transformers and masked objectives.

B batch, N tokens, V visible tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def sincos_positions(grid: tuple[int, ...], width: int) -> Tensor:
    """Fixed positions (1, N, width): each axis gets an equal share of sines and cosines."""
    share = width // (2 * len(grid)) * 2
    axes = [torch.arange(size, dtype=torch.float64) for size in grid]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(-1, len(grid))
    rates = 10_000.0 ** -(torch.arange(0, share, 2, dtype=torch.float64) / share)
    angles = places[:, :, None] * rates
    codes = torch.cat([angles.sin(), angles.cos()], -1).flatten(1)
    padded = nn.functional.pad(codes, (0, width - codes.shape[1]))
    return padded[None].float()


def visible_index(mask_BN: Tensor) -> Tensor:
    """Raster indices (B, V) of visible tokens; each sample hides the same number."""
    return (~mask_BN).nonzero()[:, 1].view(len(mask_BN), -1)


def take_tokens(tokens_BND: Tensor, index_BV: Tensor) -> Tensor:
    """Tokens at the given raster indices."""
    return tokens_BND.gather(1, index_BV[..., None].expand(-1, -1, tokens_BND.shape[2]))


def blocks_to_voxels(mask_BN: Tensor, grid: tuple[int, ...], token_size: tuple[int, ...]) -> Tensor:
    """Token mask (B, N), raster order -> voxel mask (B, 1, *space)."""
    mask = mask_BN.view(len(mask_BN), 1, *grid)
    for axis, size in enumerate(token_size, start=2):
        mask = mask.repeat_interleave(size, axis)
    return mask


def fill_hidden(tokens_BND: Tensor, mask_BN: Tensor, fill_D: Tensor) -> Tensor:
    """Tokens with ``fill_D`` in place of hidden ones."""
    return torch.where(mask_BN[..., None], fill_D.to(tokens_BND), tokens_BND)
