"""Small bottlenecks between the blocks of a transformer that stays as it is.

Source: Houlsby et al. 2019; the scaled residual of Chen et al. 2022 (AdaptFormer).
"""

from __future__ import annotations

from torch import Tensor, nn

PREFIX = "adapters."
"""Of adapters' weights in an encoder."""
_SCALE = 0.1


class Adapter(nn.Module):
    """x + 0.1 up(gelu(down(x))) on the last axis; at first ``up`` is 0 and x comes out bit for bit.

    >>> import torch
    >>> x = torch.randn(2, 3, 8)
    >>> torch.equal(Adapter(8, 2)(x), x)
    True
    """

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.up(nn.functional.gelu(self.down(x)))
        return x + _SCALE * change


def add_adapters(encoder: nn.Module, depth: int, width: int, bottleneck: int) -> None:
    """Give ``encoder`` its ``adapters``, one per block; with any, nothing else of it learns.

    ``bottleneck`` 0: they hand on what they get, and have no weights.
    """
    if bottleneck:
        encoder.requires_grad_(False)
    encoder.adapters = nn.ModuleList(
        Adapter(width, bottleneck) if bottleneck else nn.Identity() for _ in range(depth)
    )
