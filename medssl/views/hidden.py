"""Which tokens of a view are hidden."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from medssl.core.masks import draw_mask, jepa_blocks
from medssl.core.viewspec import View


def hidden(rng: np.random.Generator, view: View) -> dict[str, Any]:
    """Token mask of a view, with target blocks where it asks for them."""
    if view.mask is not None:
        return {"mask": draw_mask(rng, view.mask, _grid(view.crop, view.mask.token_size))}
    if view.targets is None:
        return {}
    grid = _grid(view.crop, view.targets.token_size)
    blocks = jepa_blocks(rng, grid, view.targets)
    mask = np.ones(math.prod(grid), dtype=bool)
    mask[blocks.context] = False
    return {"mask": mask, "targets": blocks.targets}


def _grid(crop: tuple[int, ...], token_size: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(c // t for c, t in zip(crop, token_size, strict=True))
