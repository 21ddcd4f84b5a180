"""Builds the views of one record that a :class:`~medssl.core.viewspec.ViewSpec` asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.geometry import cut_axis
from medssl.core.masks import draw_mask, jepa_blocks
from medssl.core.sample import UNKNOWN
from medssl.core.viewspec import View, ViewSpec
from medssl.views.guard import levels_of, may_mirror
from medssl.views.intensity import Crop, apply_intensity, draw_intensity
from medssl.views.planes import across, place_in_record
from medssl.views.spatial import (
    CropDraw,
    Read,
    Region,
    Vector,
    apply_crop,
    draw_crop,
    farthest,
    narrowed,
    put,
)

# Draws until a crop with enough tissue is found; the fullest is taken then.
_TRIES = 4

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Source:
    """A stored record that views are cut from.

    Attributes:
        read: voxels (C, d, h, w) of a box; a picture has d = 1.
        air, fill: per channel, level below which a voxel is air, and value outside the record.
        modality: of the record; changes that make no sense for it are not applied.
        window_hu: HU that were stored as 0 and 1; ``None`` = the values are no HU.
        read_labels: labels (1, d, h, w) of a box.
        foreground: (P, 3) labelled voxels.
    """

    read: Read
    shape_DHW: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    air: tuple[float, ...]
    fill: tuple[float, ...]
    modality: str = UNKNOWN
    window_hu: tuple[float, float] | None = None
    read_labels: Read | None = None
    foreground: npt.NDArray[np.int64] | None = None


def build_views(spec: ViewSpec, rng: np.random.Generator, source: Source) -> list[dict[str, Any]]:
    """All views of a sample, in the order of the spec; see :mod:`medssl.core.viewspec`.

    Views with two axes are slices of a volume, across the axis of ``spec.plane``.
    """
    flat = len(spec.views[0].crop) == 2
    axis = cut_axis(spec.plane, source.shape_DHW, source.spacing_mm) if flat else 0
    views = _views(spec, rng, across(source, axis))
    for view in views:
        view["place"] = place_in_record(view["place"], axis)
    return views


def _views(spec: ViewSpec, rng: np.random.Generator, source: Source) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    first: CropDraw | None = None
    for view in (kind for kind in spec.views for _ in range(kind.count)):
        draw, x = _fullest(spec, view, rng, source, first)
        first = first or draw
        out.append(_finish(view, rng, source, draw, x))
    return out


def _fullest(
    spec: ViewSpec, view: View, rng: np.random.Generator, source: Source, first: CropDraw | None
) -> tuple[CropDraw, Crop]:
    """A crop with enough tissue, or the fullest of a few, near the first view if there is one."""
    point = _labelled_point(spec, rng, source) if first is None else None
    best: tuple[float, CropDraw, Crop] | None = None
    for _ in range(_TRIES):
        draw = draw_crop(
            rng, _size(view.crop), view.spatial, source.spacing_mm,
            flip=may_mirror(view.spatial.flip, source.modality),
        )  # fmt: skip
        draw = draw if first is None else narrowed(first, draw, spec.overlap)
        draw = put(rng, draw, source.shape_DHW, _region(spec, draw, first, point))
        x = np.asarray(apply_crop(source.read, draw, source.shape_DHW, np.array(source.fill)))
        share = float(_tissue(source, x).mean())
        if best is None or share > best[0]:
            best = share, draw, x
        if share >= spec.min_tissue:
            break
    assert best is not None
    return best[1:]


def _region(
    spec: ViewSpec, draw: CropDraw, first: CropDraw | None, point: Vector | None
) -> Region | None:
    """Where the centre may lie: the first view shows enough of the crop, or it holds the point."""
    if first is not None:
        reach = farthest(first, draw, spec.overlap)
        return Region(first.centre - reach, first.centre + reach)
    if point is None:
        return None
    reach = np.maximum(draw.inner - 1, 0) / 2
    return Region(point - reach, point + reach)


def _labelled_point(spec: ViewSpec, rng: np.random.Generator, source: Source) -> Vector | None:
    wanted, points = rng.random() < spec.foreground, source.foreground
    if not wanted or points is None or not len(points):
        return None
    return np.asarray(points[rng.integers(len(points))], dtype=float)


def _finish(
    view: View, rng: np.random.Generator, source: Source, draw: CropDraw, x: Crop
) -> dict[str, Any]:
    flat = len(view.crop) == 2
    out: dict[str, Any] = {"tissue": _squeeze(_tissue(source, x), flat), "place": draw.place}
    out.update(_hidden(rng, view))
    if source.read_labels is not None:
        labels = apply_crop(source.read_labels, draw, source.shape_DHW, np.zeros(1), nearest=True)
        out["label"] = _squeeze(labels, flat)[0]
    levels = levels_of(source.modality, source.fill, source.shape_DHW, source.window_hu)
    changed = apply_intensity(x, draw_intensity(rng, view.intensity), levels)
    out["x"] = np.ascontiguousarray(_squeeze(changed, flat))
    return out


def _hidden(rng: np.random.Generator, view: View) -> dict[str, Any]:
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


def _size(crop: tuple[int, ...]) -> tuple[int, int, int]:
    d, h, w = crop if len(crop) == 3 else (1, *crop)
    return d, h, w


def _tissue(source: Source, x: Crop) -> npt.NDArray[np.bool_]:
    return np.asarray(x > np.array(source.air)[:, None, None, None])


def _squeeze(x: Array, flat: bool) -> Array:
    return x[:, 0] if flat else x
