"""Random token masks with exact counts, raster order."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt


def hidden_count(tokens: int, ratio: float) -> int:
    """``int(ratio * tokens)``, at least one token hidden and one visible.

    >>> hidden_count(196, 0.75)
    147
    """
    return min(max(int(ratio * tokens), 1), tokens - 1)


def random_mask(
    rng: np.random.Generator, grid: tuple[int, ...], ratio: float
) -> npt.NDArray[np.bool_]:
    """Mask (N,) of a token grid, True = hidden; each set of tokens is equally likely.

    >>> int(random_mask(np.random.default_rng(0), (14, 14), 0.75).sum())
    147
    """
    tokens = math.prod(grid)
    mask = np.zeros(tokens, dtype=bool)
    mask[rng.permutation(tokens)[: hidden_count(tokens, ratio)]] = True
    return mask
