"""Builds the views of one record that a :class:`~medssl.core.viewspec.ViewSpec` asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.masks import draw_mask, jepa_blocks
from medssl.core.viewspec import View, ViewSpec
from medssl.views.intensity import apply_intensity, draw_intensity
from medssl.views.planes import across, cut_axis, place_in_record
from medssl.views.spatial import CropDraw, Read, Region, apply_crop, draw_crop

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
        read_labels: labels (1, d, h, w) of a box.
        foreground: (P, 3) labelled voxels.
    """

    read: Read
    shape_DHW: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    air: tuple[float, ...]
    fill: tuple[float, ...]
    modality: str = "unknown"
    read_labels: Read | None = None
    foreground: npt.NDArray[np.int64] | None = None


def build_views(spec: ViewSpec, rng: np.random.Generator, source: Source) -> list[dict[str, Any]]:
    """All views of a sample, in the order of the spec; see :mod:`medssl.core.viewspec`.

    Views with two axes are slices of a volume, across the axis of ``spec.plane``.
    """
    axis = cut_axis(spec, source)
    views = _views(spec, rng, across(source, axis))
    for view in views:
        view["place"] = place_in_record(view["place"], axis)
    return views


def _views(spec: ViewSpec, rng: np.random.Generator, source: Source) -> list[dict[str, Any]]:
    first = spec.views[0]
    anchor, x = _anchor(spec, rng, source)
    views = [_finish(first, rng, source, anchor, x)]
    zoomed = np.ones(3) if anchor.matrix is None else np.abs(anchor.matrix).sum(1)
    extent = np.array(anchor.size) * zoomed
    for view in [first] * (first.count - 1) + [v for v in spec.views[1:] for _ in range(v.count)]:
        size = _size(view.crop)
        # Two boxes of widths a and b at distance t overlap by min(a, b, (a + b)/2 - t).
        reach = (extent + np.array(size)) / 2 - spec.overlap * np.minimum(extent, size)
        region = Region(anchor.centre, 2 * np.maximum(reach, 0) * (np.array(size) > 1))
        draw = draw_crop(rng, size, view.spatial, source.shape_DHW, source.spacing_mm, region)
        views.append(_finish(view, rng, source, draw, _read(source, draw)))
    return views


def _anchor(
    spec: ViewSpec, rng: np.random.Generator, source: Source
) -> tuple[CropDraw, npt.NDArray[np.float32]]:
    """The first view's crop: on the foreground or with enough tissue, where asked for."""
    view, shape = spec.views[0], np.array(source.shape_DHW)
    size = _size(view.crop)
    region = Region((shape - 1) / 2, shape.astype(float))
    points = source.foreground
    if rng.random() < spec.foreground and points is not None and len(points):
        region = Region(points[rng.integers(len(points))].astype(float), np.array(size) - 1.0)
    best: tuple[float, CropDraw, npt.NDArray[np.float32]] | None = None
    for _ in range(_TRIES if spec.min_tissue else 1):
        draw = draw_crop(rng, size, view.spatial, source.shape_DHW, source.spacing_mm, region)
        x = _read(source, draw)
        share = float(_tissue(source, x).mean())
        if best is None or share > best[0]:
            best = share, draw, x
        if share >= spec.min_tissue:
            break
    assert best is not None
    return best[1:]


def _finish(
    view: View,
    rng: np.random.Generator,
    source: Source,
    draw: CropDraw,
    x: npt.NDArray[np.float32],
) -> dict[str, Any]:
    flat = len(view.crop) == 2
    out: dict[str, Any] = {"tissue": _squeeze(_tissue(source, x), flat), "place": draw.place}
    out.update(_hidden(rng, view))
    if source.read_labels is not None:
        labels = apply_crop(source.read_labels, draw, source.shape_DHW, np.zeros(1), order=0)
        out["label"] = _squeeze(labels, flat)[0]
    out["x"] = _squeeze(apply_intensity(x, draw_intensity(rng, view.intensity)), flat)
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


def _read(source: Source, draw: CropDraw) -> npt.NDArray[np.float32]:
    return np.asarray(apply_crop(source.read, draw, source.shape_DHW, np.array(source.fill)))


def _tissue(source: Source, x: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    return np.asarray(x > np.array(source.air)[:, None, None, None])


def _squeeze(x: Array, flat: bool) -> Array:
    return x[:, 0] if flat else x
