"""Builds the views of one record that a :class:`~medssl.core.viewspec.ViewSpec` asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.geometry import cut_axis
from medssl.core.viewspec import View, ViewSpec
from medssl.views.clips import Moment, clip_views
from medssl.views.crops import (
    Where,
    centred,
    fullest,
    in_part,
    labelled,
    near,
    tissue_of,
)
from medssl.views.hidden import hidden
from medssl.views.intensity import Crop, apply_intensity, draw_intensity
from medssl.views.planes import across, axes_of, in_record
from medssl.views.segments import supervoxels
from medssl.views.source import Source
from medssl.views.spatial import CropDraw, Vector, apply_crop
from medssl.views.stack import stack_views
from medssl.views.tiles import tiled, within

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Landmark:
    """What the first view is centred on.

    Attributes:
        voxel: (d, h, w) of the record.
        axis: that is cut, where views are slices: partners are cut alike.
    """

    voxel: Vector
    axis: int


def build_views(
    spec: ViewSpec,
    rng: np.random.Generator,
    source: Source,
    at: Landmark | Moment | None = None,
) -> list[dict[str, Any]]:
    """All views of one record, in the order of the spec; see :mod:`medssl.core.viewspec`.

    Views with two axes are slices of a volume, across the axis of ``spec.plane``, or frames of a
    clip. The first view is centred on the landmark ``at``, or shows that moment, if one is given.
    """
    if spec.clip:
        return clip_views(spec, rng, source, at if isinstance(at, Moment) else None)
    landmark = at if isinstance(at, Landmark) else None
    axis = axis_of(spec, source) if landmark is None else landmark.axis
    cut = across(source, axis)
    if landmark is not None:
        views = _views(spec, rng, cut, centred(landmark.voxel[axes_of(axis)]))
    elif spec.stack:
        views = stack_views(spec, rng, cut)
    elif spec.partitions:
        views = _parts(spec, rng, cut)
    else:
        views = _views(spec, rng, cut, labelled(spec.foreground, rng, cut))
    for view in views:
        view["place"] = in_record(view["place"], axis)
        view["position"] = in_record(view["position"], axis)
    return views


def axis_of(spec: ViewSpec, source: Source) -> int:
    """Axis of a record that comes first in its views: the cut of slices, else feet to head."""
    flat = len(spec.views[0].crop) == 2
    if not flat or source.kind == "clip":
        return 0
    return cut_axis(spec.plane, source.shape_DHW, source.spacing_mm)


def _parts(spec: ViewSpec, rng: np.random.Generator, source: Source) -> list[dict[str, Any]]:
    """All views, once per part of the body."""
    out: list[dict[str, Any]] = []
    for part in range(spec.partitions):
        views = _views(spec, rng, source, in_part(source.body, part, spec.partitions))
        out += [{**view, "part": part} for view in views]
    return out


def _views(
    spec: ViewSpec, rng: np.random.Generator, source: Source, where: Where
) -> list[dict[str, Any]]:
    """Each view once; ``where`` says where the first one lies, and the others lie near it."""
    out: list[dict[str, Any]] = []
    shown: list[tuple[CropDraw, Crop]] = []
    for view in (kind for kind in spec.views for _ in range(1 if kind.tiles else kind.count)):
        others = where
        if view.tiles:
            block, shown = tiled(view, rng, source, where, spec.min_tissue)
            others = within(block)
        elif not shown or not view.twin:
            shown = [fullest(view, rng, source, where, spec.min_tissue)]
            others = near(shown[0][0], spec.overlap)
        where = where if out else others
        out += [_finish(view, rng, source, *crop) for crop in shown]
    return out


def _finish(
    view: View, rng: np.random.Generator, source: Source, draw: CropDraw, x: Crop
) -> dict[str, Any]:
    flat = len(view.crop) == 2
    out: dict[str, Any] = {
        "tissue": _squeeze(tissue_of(source, x), flat),
        "place": draw.place,
        "position": source.position(draw.centre).astype(np.float32),
    }
    out.update(hidden(rng, view))
    if source.read_labels is not None:
        labels = apply_crop(source.read_labels, draw, source.shape_DHW, np.zeros(1), nearest=True)
        out["label"] = _squeeze(labels, flat)[0]
    if view.segments:
        tissue = np.asarray(tissue_of(source, x).any(0))
        found = supervoxels(x, tissue, source.spacing_mm, view.segments)
        out["segments"] = _squeeze(found[None], flat)[0]
    changed = apply_intensity(x, draw_intensity(rng, view.intensity), source.levels)
    out["x"] = np.ascontiguousarray(_squeeze(changed, flat))
    return out


def _squeeze(x: Array, flat: bool) -> Array:
    return x[:, 0] if flat else x
