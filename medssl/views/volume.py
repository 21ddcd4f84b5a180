"""Builds the views of one volume that a :class:`~medssl.core.viewspec.ViewSpec` asks for."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.masks import random_mask
from medssl.core.viewspec import ViewSpec
from medssl.views.intensity import apply_intensity, draw_intensity
from medssl.views.spatial import CropDraw, Read, apply_crop, draw_crop

# Draws until a crop with enough tissue is found; the fullest is taken then.
_TRIES = 4


def volume_view(
    spec: ViewSpec,
    rng: np.random.Generator,
    read: Read,
    *,
    shape_DHW: tuple[int, ...],
    spacing_mm: tuple[float, ...],
    air: tuple[float, ...],
    fill: tuple[float, ...],
    read_labels: Read | None = None,
    foreground: npt.NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """One sample: ``x``, ``tissue`` and, where asked for or given, ``mask`` and ``label``."""
    fills, airs = np.array(fill), np.array(air)[:, None, None, None]
    best: tuple[float, CropDraw, npt.NDArray[np.float32], npt.NDArray[np.bool_]] | None = None
    for _ in range(_TRIES if spec.min_tissue else 1):
        draw = draw_crop(rng, spec, shape_DHW, spacing_mm, foreground)
        x = apply_crop(read, draw, spec.crop, shape_DHW, fills)
        tissue = x > airs
        share = float(tissue.mean())
        if best is None or share > best[0]:
            best = share, draw, x, tissue
        if share >= spec.min_tissue:
            break
    assert best is not None
    _, draw, x, tissue = best
    sample: dict[str, Any] = {"tissue": tissue}
    if spec.mask_ratio is not None and spec.token_size is not None:
        grid = tuple(c // t for c, t in zip(spec.crop, spec.token_size, strict=True))
        sample["mask"] = random_mask(rng, grid, spec.mask_ratio)
    if read_labels is not None:
        labels = apply_crop(read_labels, draw, spec.crop, shape_DHW, np.zeros(1), order=0)
        sample["label"] = labels[0]
    sample["x"] = apply_intensity(x, draw_intensity(rng, spec))
    return sample
