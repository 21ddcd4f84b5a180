"""Tokens of single frames and tokens of tubelets, in one order.

B clips, T frames, n tokens per frame, N tokens per clip, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medssl.encoders._tokens import take_tokens, visible_index
from medssl.objectives._parts.precision import upcast


def as_frames(x_BCTHW: Tensor) -> Tensor:
    """Clips as clips of one frame each, clip after clip: (B * T, C, 1, H, W)."""
    return x_BCTHW.transpose(1, 2).flatten(0, 1)[:, :, None]


def in_each_frame(mask_BN: Tensor, steps: int, frames: int) -> Tensor:
    """The places of a tube mask, for each frame of its clip: (B * T, n).

    >>> in_each_frame(torch.tensor([[True, False, True, False]]), 2, 4).shape
    torch.Size([4, 2])
    """
    return mask_BN.view(len(mask_BN), steps, -1)[:, 0].repeat_interleave(frames, 0)


def per_tubelet(tokens: Tensor, clips: int, length: int) -> Tensor:
    """Frames' tokens (B * T, n, D) -> tubelets' (B, N, D): means over ``length`` frames.

    They come before time steps and places become one axis: raster order, as of the encoder.

    >>> per_tubelet(torch.arange(8.0).view(4, 2, 1), 1, 2).flatten()  # 4 frames of 2 places
    tensor([1., 2., 5., 6.])
    """
    by_tubelet = tokens.view(clips, -1, length, *tokens.shape[1:])
    return by_tubelet.mean(2).flatten(1, 2)


def standardise_over_tokens(tokens_BND: Tensor) -> Tensor:
    """Each channel to mean 0 and standard deviation 1 over the tokens of a clip.

    >>> standardise_over_tokens(torch.tensor([[[1.0], [2.0], [3.0]]])).flatten().round()
    tensor([-1.,  0.,  1.])
    """
    x = upcast(tokens_BND)
    return (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-6)


def visible_first(tokens_BND: Tensor, mask_BN: Tensor) -> Tensor:
    """Visible tokens, then hidden ones: the order in which a decoder that shuffles leaves them.

    >>> hidden = torch.tensor([[True, False, True]])
    >>> visible_first(torch.arange(3.0).view(1, 3, 1), hidden).flatten()
    tensor([1., 0., 2.])
    """
    order = torch.cat([visible_index(mask_BN), visible_index(~mask_BN)], 1)
    return take_tokens(tokens_BND, order)
