"""Builds the views of one volume that a :class:`~medssl.core.viewspec.ViewSpec` asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.masks import random_mask
from medssl.core.viewspec import ViewSpec
from medssl.views.intensity import apply_intensity, draw_intensity
from medssl.views.spatial import CropDraw, Read, apply_crop, draw_crop

# Draws until a crop with enough tissue is found; the fullest is taken then.
_TRIES = 4


@dataclass(frozen=True, eq=False)
class Source:
    """A stored volume that views are cut from.

    Attributes:
        read: voxels (C, d, h, w) of a box.
        air, fill: per channel, level below which a voxel is air, and value outside the volume.
        read_labels: labels (1, d, h, w) of a box.
        foreground: (P, 3) labelled voxels.
    """

    read: Read
    shape_DHW: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    air: tuple[float, ...]
    fill: tuple[float, ...]
    read_labels: Read | None = None
    foreground: npt.NDArray[np.int64] | None = None


def volume_view(spec: ViewSpec, rng: np.random.Generator, source: Source) -> dict[str, Any]:
    """One sample: ``x``, ``tissue`` and, where asked for or given, ``mask`` and ``label``."""
    fill, air = np.array(source.fill), np.array(source.air)[:, None, None, None]
    shape_DHW = source.shape_DHW
    best: tuple[float, CropDraw, npt.NDArray[np.float32], npt.NDArray[np.bool_]] | None = None
    for _ in range(_TRIES if spec.min_tissue else 1):
        draw = draw_crop(rng, spec, shape_DHW, source.spacing_mm, source.foreground)
        x = apply_crop(source.read, draw, spec.crop, shape_DHW, fill)
        tissue = x > air
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
    if source.read_labels is not None:
        labels = apply_crop(source.read_labels, draw, spec.crop, shape_DHW, np.zeros(1), order=0)
        sample["label"] = labels[0]
    sample["x"] = apply_intensity(x, draw_intensity(rng, spec))
    return sample
