"""Conditional anatomical feature alignment: tokens completed by what matches them elsewhere.

B samples, N tokens that ask, M tokens that are asked, D width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

# Of each head of attention.
_HEAD_WIDTH = 64


class CrossAlignment(nn.Module):
    """One block of cross-attention, norms after the sums (Vaswani et al. 2017).

    Args:
        width: of the tokens that ask, and of the result.
        context_width: of the tokens that are asked.
        heads: of attention, 64 wide each.
    """

    def __init__(self, width: int, context_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * _HEAD_WIDTH
        self.query = nn.Linear(width, inner)
        # A bias of keys adds the same to all scores of a query: nothing would be learnt from it.
        self.key = nn.Linear(context_width, inner, bias=False)
        self.value = nn.Linear(context_width, inner)
        self.out = nn.Linear(inner, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, query_BND: Tensor, context_BMD: Tensor) -> Tensor:
        """The asking tokens with what they found in the context, (B, N, width)."""
        asked = (self.query(query_BND), self.key(context_BMD), self.value(context_BMD))
        q, k, v = (x.unflatten(2, (self.heads, _HEAD_WIDTH)).transpose(1, 2) for x in asked)
        found = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).to(query_BND)
        x = self.norms[0](query_BND + self.out(found))
        out: Tensor = self.norms[1](x + self.mlp(x))
        return out
