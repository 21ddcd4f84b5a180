"""Token bookkeeping shared by transformers and masked objectives.

B batch, C channels, N tokens, V visible tokens, D width, P values per patch (channels included).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn


def sincos_positions(grid: tuple[int, ...], width: int, pitch: tuple[float, ...] = ()) -> Tensor:
    """Fixed positions (1, N, width): each axis gets an equal share of sines and cosines.

    Args:
        grid: tokens per axis.
        width: length of a position.
        pitch: distance of neighbouring tokens per axis, in units of the smallest; 1 by default.
    """
    share = width // (2 * len(grid)) * 2
    steps = zip(grid, pitch or (1.0,) * len(grid), strict=True)
    axes = [torch.arange(size, dtype=torch.float64) * step for size, step in steps]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(-1, len(grid))
    rates = 10_000.0 ** -(torch.arange(0, share, 2, dtype=torch.float64) / share)
    angles = places[:, :, None] * rates
    codes = torch.cat([angles.sin(), angles.cos()], -1).flatten(1)
    padded = nn.functional.pad(codes, (0, width - codes.shape[1]))
    return padded[None].float()


@lru_cache(maxsize=32)
def cached_positions(
    grid: tuple[int, ...], width: int, pitch: tuple[float, ...], device: torch.device
) -> Tensor:
    """As :func:`sincos_positions`, on a device, computed once; not to be changed in place."""
    with torch.inference_mode(False):
        return sincos_positions(grid, width, pitch).to(device)


def relative_pitch(
    token_size: tuple[int, ...], spacing_mm: tuple[float, ...] | None
) -> tuple[float, ...]:
    """Distances of tokens per axis in units of the smallest; () where spacing is unknown.

    >>> relative_pitch((4, 16, 16), (5.0, 1.0, 1.0))
    (1.25, 1.0, 1.0)
    """
    if spacing_mm is None:
        return ()
    pitch_mm = [t * s for t, s in zip(token_size, spacing_mm, strict=True)]
    return tuple(p / min(pitch_mm) for p in pitch_mm)


def patchify(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, C, *space) -> (B, N, P): tokens in raster order, P = C * voxels per patch.

    >>> import torch
    >>> patchify(torch.arange(8.0).view(1, 1, 2, 4), (2, 2))
    tensor([[[0., 1., 4., 5.],
             [2., 3., 6., 7.]]])
    """
    axes = len(size)
    split = [n for side, p in zip(x.shape[2:], size, strict=True) for n in (side // p, p)]
    cut = x.reshape(*x.shape[:2], *split)
    grid, inside = range(2, 2 + 2 * axes, 2), range(3, 3 + 2 * axes, 2)
    return cut.permute(0, *grid, 1, *inside).flatten(1 + axes).flatten(1, axes)


def unpatchify(patches_BNP: Tensor, grid: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
    """(B, N, P) -> (B, C, *space): the inverse of :func:`patchify`.

    >>> import torch
    >>> x = torch.rand(2, 3, 4, 6)
    >>> bool((unpatchify(patchify(x, (2, 3)), (2, 2), (2, 3)) == x).all())
    True
    """
    axes = len(size)
    x = patches_BNP.reshape(len(patches_BNP), *grid, -1, *size)
    woven = [n for axis in range(axes) for n in (1 + axis, 2 + axes + axis)]
    x = x.permute(0, 1 + axes, *woven)
    return x.reshape(*x.shape[:2], *(g * p for g, p in zip(grid, size, strict=True)))


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
