"""Two full views and some small ones of each sample (Caron et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from medssl.core.errors import ConfigError
from medssl.core.viewspec import MaskSpec, Setting, View, ViewSpec
from medssl.encoders._base import Encoder
from medssl.objectives._parts.pair import view_vectors
from medssl.objectives._parts.views import ViewOptions, style_of

FULL = 2


def multi_crop(
    options: ViewOptions,
    setting: Setting,
    small: tuple[int, ...],
    count: int,
    mask: MaskSpec | None = None,
) -> ViewSpec:
    """Two full views (with ``mask``), then ``count`` views of size ``small``."""
    look = {"spatial": options.spatial, "intensity": options.intensity}
    views = [View(crop=setting.crop, count=FULL, mask=mask, **look)]
    if count:
        views.append(View(crop=small, count=count, **look))
    return ViewSpec(
        views=tuple(views),
        overlap=options.overlap,
        min_tissue=0.2,
        style=style_of(options, setting),
        clip=setting.frames,
    )


def small_crop(encoder: Encoder, crop: tuple[int, ...], share: float) -> tuple[int, ...]:
    """``share`` of each side, rounded up to what the encoder takes; at worst the full crop."""
    sides = [
        min(math.ceil(share * side / multiple) * multiple, side)
        for side, multiple in zip(crop, encoder.size_multiple, strict=True)
    ]
    try:
        encoder.check_size(tuple(sides))
    except ConfigError:  # e.g. nothing would be left at the deepest level
        return crop
    return tuple(sides)


def crop_vectors(encoder: Encoder, views: Sequence[Mapping[str, Any]]) -> Tensor:
    """Global vectors (V, B, D); views of one size pass the encoder as one batch."""
    groups = [group for group in (views[:FULL], views[FULL:]) if group]
    return torch.stack([vector for group in groups for vector in view_vectors(encoder, group)])
