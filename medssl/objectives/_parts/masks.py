"""Masks that do not fit are refused before step 1."""

from __future__ import annotations

import numpy as np

from medssl.core.masks import draw_mask, jepa_blocks
from medssl.core.viewspec import View
from medssl.encoders._base import Encoder


def check_masks(encoder: Encoder, view: View) -> None:
    """Draw once what every sample will draw.

    Raises:
        ConfigError: the token grid of the crop cannot hold the mask or the target blocks.
    """
    rng, grid = np.random.default_rng(0), encoder.grid(view.crop)
    if view.mask is not None:
        draw_mask(rng, view.mask, grid)
    if view.targets is not None:
        jepa_blocks(rng, grid, view.targets)
