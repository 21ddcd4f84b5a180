"""Causal attention over a window of the past: the same result wherever a window begins.

B videos, H heads, T frames, M maps, W window, E width of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_HEADS = 4
_LAYERS = 2


class WindowedTransformer(nn.Module):
    """Two causal layers that together see ``reach`` frames back: (B, D, T) -> (B, K, T).

    There are no places in the input, only distances: each head subtracts its own slope times the
    distance from its scores (Press et al. 2022), so a window of a stream gives the stream's result.
    """

    def __init__(self, width: int, phases: int, maps: int, reach: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(width, maps)
        self.layers = nn.Sequential(
            *(_Layer(maps, reach // _LAYERS, dropout) for _ in range(_LAYERS))
        )
        self.norm = nn.LayerNorm(maps)
        self.last = nn.Linear(maps, phases)

    def forward(self, x_BDT: Tensor) -> Tensor:
        x_BTM = self.layers(self.first(x_BDT.transpose(1, 2)))
        out: Tensor = self.last(self.norm(x_BTM)).transpose(1, 2)
        return out


class _Layer(nn.Module):
    def __init__(self, maps: int, reach: int, dropout: float) -> None:
        super().__init__()
        self.reach = reach
        self.norm_1, self.norm_2 = nn.LayerNorm(maps), nn.LayerNorm(maps)
        self.qkv, self.out = nn.Linear(maps, 3 * maps), nn.Linear(maps, maps)
        self.mlp = nn.Sequential(nn.Linear(maps, 4 * maps), nn.GELU(), nn.Linear(4 * maps, maps))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTM: Tensor) -> Tensor:
        x_BTM = x_BTM + self.dropout(self._attend(self.norm_1(x_BTM)))
        out: Tensor = x_BTM + self.dropout(self.mlp(self.norm_2(x_BTM)))
        return out

    def _attend(self, x_BTM: Tensor) -> Tensor:
        """Queries in blocks of the window: memory grows with T, not with its square."""
        batch, n, maps = x_BTM.shape
        split = self.qkv(x_BTM).view(batch, n, 3, _HEADS, maps // _HEADS).permute(2, 0, 3, 1, 4)
        q_BHTE, k_BHTE, v_BHTE = split
        size = self.reach + 1
        blocks = []
        for start in range(0, n, size):
            stop, first = min(start + size, n), max(start - self.reach, 0)
            bias_HTT = distance_bias(start, stop, first, self.reach).to(x_BTM)
            blocks.append(
                nn.functional.scaled_dot_product_attention(
                    q_BHTE[:, :, start:stop],
                    k_BHTE[:, :, first:stop],
                    v_BHTE[:, :, first:stop],
                    attn_mask=bias_HTT,
                )
            )
        out: Tensor = self.out(torch.cat(blocks, 2).transpose(1, 2).reshape(batch, n, maps))
        return out


def distance_bias(start: int, stop: int, first: int, reach: int) -> Tensor:
    """(H, stop - start, stop - first) what is added to scores of queries from ``start`` on.

    Minus slope x distance within the window, minus infinity for later frames and beyond it. Slopes
    fall evenly in their logarithm: the strongest head forgets within a few frames, the weakest has
    lost a factor e at the end of the window.

    >>> distance_bias(1, 2, 0, reach=4)[-1].tolist()
    [[-0.25, -0.0]]
    """
    distance = torch.arange(start, stop)[:, None] - torch.arange(first, stop)
    weakest = 1 / max(reach, 1)
    slope_H11 = torch.tensor([weakest ** (h / (_HEADS - 1)) for h in range(_HEADS)])[:, None, None]
    seen = (distance >= 0) & (distance <= reach)
    return torch.where(seen, -slope_H11 * distance, -math.inf)
