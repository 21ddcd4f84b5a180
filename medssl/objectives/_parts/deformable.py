"""Attention that looks at a few learnt places along the slices of a stack, and a vector of all.

Source: Zhu et al. 2021 (Deformable DETR), here with one axis; Nguyen et al. 2023.

B stacks, S slices, D width, M heads, K points, E width of a head.
"""

from __future__ import annotations

import math

import torch
from timm.layers import Mlp
from torch import Tensor, nn

from medssl.objectives._parts.precision import no_autocast, upcast
from medssl.objectives._parts.trunk import new_token

# Wavelengths of the position code: from two thin slices to more than a body.
_SHORTEST_MM, _LONGEST_MM = 2.0, 4000.0


def places_in_order(offset_mm_BS: Tensor, inside_BS: Tensor) -> Tensor:
    """Place of each slice along its stack, 0 = the first, whatever order they come in (B, S).

    >>> places_in_order(torch.tensor([[4.0, -4.0, 0.0]]), torch.ones(1, 3, dtype=torch.bool))
    tensor([[2., 0., 1.]])
    """
    before_BSS = (offset_mm_BS[:, None] < offset_mm_BS[:, :, None]) & inside_BS[:, None]
    return before_BSS.sum(2).to(offset_mm_BS.dtype)


def weights_at(place_BQ: Tensor, own_BS: Tensor, inside_BS: Tensor) -> Tensor:
    """Weights (B, Q, S) that interpolate linearly between the two slices next to each place.

    Beyond the ends, and from slices that are not inside, comes 0. Differentiable in ``place_BQ``,
    from the right at whole places.

    >>> own, inside = torch.arange(3.0)[None], torch.ones(1, 3, dtype=torch.bool)
    >>> weights_at(torch.tensor([[1.0, 0.25, -0.5]]), own, inside)[0]
    tensor([[0.0000, 1.0000, 0.0000],
            [0.7500, 0.2500, 0.0000],
            [0.5000, 0.0000, 0.0000]])
    """
    low_BQ1 = place_BQ.detach().floor()[..., None]
    share_BQ1 = place_BQ[..., None] - low_BQ1
    is_low, is_high = (
        ((own_BS[:, None] - place).abs() < 0.5) & inside_BS[:, None]
        for place in (low_BQ1, low_BQ1 + 1)
    )
    return (1 - share_BQ1) * is_low + share_BQ1 * is_high


class DeformableAttention(nn.Module):
    """Each slice gathers values at places next to its own: K per head, offsets linear in the slice.

    out_i = W sum_m,k A_imk V_m(p_i + o_imk); A is a softmax over the K points of a head. At the
    start offsets do not depend on the slice: heads look in different directions, points ever
    farther, and all points of a head count alike.

    Args:
        width: D, a multiple of ``heads``.
        heads: M.
        points: K.
    """

    def __init__(self, width: int, heads: int = 8, points: int = 4) -> None:
        super().__init__()
        self.heads, self.points = heads, points
        self.offset = nn.Linear(width, heads * points)
        self.weight = nn.Linear(width, heads * points)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        direction_M1 = torch.linspace(-1, 1, heads)[:, None] if heads > 1 else torch.ones(1, 1)
        for layer in (self.offset, self.weight):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.offset.bias.copy_((direction_M1 * torch.arange(1, points + 1)).flatten())

    def forward(self, x_BSD: Tensor, place_BS: Tensor, inside_BS: Tensor) -> Tensor:
        """Slices at ``place_BS``, in slices; values of those that are not inside count 0."""
        b, s, d = x_BSD.shape
        split = (b, s, self.heads, self.points)
        offset_BSMK = upcast(self.offset(x_BSD)).view(split)
        weight_BSMK = upcast(self.weight(x_BSD)).view(split).softmax(3)
        value_BSME = self.value(x_BSD).view(b, s, self.heads, d // self.heads)
        with no_autocast(x_BSD):
            place = place_BS[:, :, None, None].to(offset_BSMK) + offset_BSMK
            at = weights_at(place.flatten(1), place_BS.to(offset_BSMK), inside_BS)
            mixed = torch.einsum("bqmk,bqmks->bqms", weight_BSMK, at.view(*split, s))
            seen = torch.einsum("bqms,bsme->bqme", mixed, upcast(value_BSME))
        out: Tensor = self.out(seen.reshape(b, s, d).to(x_BSD.dtype))
        return out


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, points: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = DeformableAttention(width, heads, points)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x_BSD: Tensor, place_BS: Tensor, inside_BS: Tensor) -> Tensor:
        x_BSD = x_BSD + self.attention(self.norm1(x_BSD), place_BS, inside_BS)
        out: Tensor = x_BSD + self.mlp(self.norm2(x_BSD))
        return out


class SliceTransformer(nn.Module):
    """Slices' vectors -> vectors that know of each other; each is told where it lies in mm.

    Args:
        inputs: width of the slices' vectors.
        width: of the blocks.
        depth: number of blocks.
        heads, points: of attention.
    """

    def __init__(self, inputs: int, width: int, depth: int, heads: int, points: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, width))
        self.hidden = new_token(width)
        self.blocks = nn.ModuleList(_Block(width, heads, points) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        x_BSC: Tensor,
        offset_mm_BS: Tensor,
        inside_BS: Tensor,
        hidden_BS: Tensor | None = None,
    ) -> Tensor:
        """(B, S, width); in place of ``hidden_BS`` slices stands a learnt vector."""
        x_BSD = self.enter(x_BSC)
        if hidden_BS is not None:
            x_BSD = torch.where(hidden_BS[..., None], self.hidden.to(x_BSD.dtype), x_BSD)
        x_BSD = x_BSD + mm_code(offset_mm_BS, x_BSD.shape[2]).to(x_BSD.dtype)
        place_BS = places_in_order(offset_mm_BS, inside_BS)
        for block in self.blocks:
            x_BSD = block(x_BSD, place_BS, inside_BS)
        out: Tensor = self.norm(x_BSD)
        return out


def mm_code(offset_mm_BS: Tensor, width: int) -> Tensor:
    """Sines and cosines of an offset at wavelengths from 2 mm to 4 m: (B, S, width).

    >>> mm_code(torch.zeros(1, 1), 4)
    tensor([[[0., 0., 1., 1.]]])
    """
    waves = torch.logspace(
        math.log10(_SHORTEST_MM), math.log10(_LONGEST_MM), width // 2, device=offset_mm_BS.device
    )
    angles = 2 * math.pi * offset_mm_BS[..., None] / waves.to(offset_mm_BS.dtype)
    return torch.cat([angles.sin(), angles.cos()], -1)


def mean_inside(x_BSD: Tensor, inside_BS: Tensor) -> Tensor:
    """Mean over the slices inside: (B, D).

    >>> mean_inside(torch.tensor([[[2.0], [4.0], [9.0]]]), torch.tensor([[True, True, False]]))
    tensor([[3.]])
    """
    inside_BS1 = inside_BS[..., None].to(x_BSD.dtype)
    return (x_BSD * inside_BS1).sum(1) / inside_BS1.sum(1).clamp(min=1)
