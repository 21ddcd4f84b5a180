"""What every encoder returns.

B batch, N tokens, D width, C channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Features(NamedTuple):
    """Features of a batch of views.

    Attributes:
        global_BD: one vector per sample.
        tokens_BND: returned tokens, ``None`` for encoders without tokens.
        token_index_BN: raster index of each returned token on the full token grid.
        pyramid: maps (B, C, *space), fine to coarse; empty when tokens were dropped.
    """

    global_BD: Tensor
    tokens_BND: Tensor | None
    token_index_BN: Tensor | None
    pyramid: list[Tensor]
