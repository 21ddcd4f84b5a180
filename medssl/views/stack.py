"""Stacks of slices for image encoders: what a sequence model reads of a volume.

All views of a sample take slices of one grid: every ``step``-th slice. So slices that two views
share are the same slices, not neighbours. The step is drawn so that a stack spans half to all of
the cut axis (neighbouring slices say almost the same), and the views after the first are moved
along the grid: the first one shows at least ``overlap`` of their slices. A volume with fewer slices
than the stack is taken whole, a picture is one slice. Each slice is cut, and changed in its grey
values, by itself: nothing is mixed across the cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.masks import draw_mask
from medssl.core.viewspec import View, ViewSpec
from medssl.views.crops import Where, anywhere, fullest, near, tissue_of
from medssl.views.intensity import Crop, apply_intensity, draw_intensity
from medssl.views.source import Source
from medssl.views.spatial import CropDraw, Read, apply_crop

# From the first to the last slice of a stack, as a share of all slices.
SPAN = (0.5, 1.0)
# Axis of the slices in what a view holds.
_SLICES = {"x": 1, "tissue": 1, "inside": 0, "offset_mm": 0, "mask": 0, "label": 0}

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Slices:
    """Slices ``start``, ``start + step`` ... of the cut axis, ``count`` of them."""

    start: int
    step: int
    count: int

    @property
    def numbers(self) -> list[int]:
        return [self.start + self.step * k for k in range(self.count)]

    @property
    def span(self) -> int:
        """Slices from the first to the last one."""
        return self.step * (self.count - 1) + 1

    @property
    def middle(self) -> float:
        return self.start + (self.span - 1) / 2


def draw_slices(rng: np.random.Generator, depth: int, stack: int) -> Slices:
    """Of a first view: evenly over a random share of ``depth`` slices, at a random place."""
    step = max(int((rng.uniform(*SPAN) * depth - 1) / (stack - 1)), 1)
    drawn = Slices(0, step, min(stack, depth))
    return replace(drawn, start=int(rng.integers(depth - drawn.span + 1)))


def moved(rng: np.random.Generator, first: Slices, depth: int, overlap: float) -> Slices:
    """Of another view: moved along the grid; the first one has at least ``overlap`` of them."""
    most = first.count - math.ceil(overlap * first.count - 1e-9)
    down = min(most, first.start // first.step)
    up = min(most, (depth - first.start - first.span) // first.step)
    return replace(first, start=first.start + first.step * int(rng.integers(-down, up + 1)))


def stack_views(spec: ViewSpec, rng: np.random.Generator, source: Source) -> list[dict[str, Any]]:
    """All views of a sample, each of ``spec.stack`` slices across the first axis of the source."""
    assert spec.stack is not None
    depth = source.shape_DHW[0]
    where: Where = anywhere
    slices = first = draw_slices(rng, depth, spec.stack)
    out: list[dict[str, Any]] = []
    for view in (kind for kind in spec.views for _ in range(kind.count)):
        if out:
            slices = moved(rng, first, depth, spec.overlap)
        draw, x = fullest(view, rng, side_by_side(source, slices.numbers), where, spec.min_tissue)
        where = where if out else near(draw, spec.overlap)
        made = _finish(view, rng, source, slices, draw, x)
        out.append({name: _filled(name, value, spec.stack, source) for name, value in made.items()})
    return out


def side_by_side(source: Source, numbers: list[int]) -> Source:
    """A picture whose channels are the slices (each with its own): they are cut alike, not mixed.

    Order: all slices of the first channel, then of the second.
    """
    labels = source.read_labels
    return replace(
        source,
        read=_channels(source.read, numbers),
        shape_DHW=(1, *source.shape_DHW[1:]),
        air=tuple(np.repeat(source.air, len(numbers))),
        fill=tuple(np.repeat(source.fill, len(numbers))),
        read_labels=None if labels is None else _channels(labels, numbers),
    )


def _channels(read: Read, numbers: list[int]) -> Read:
    def box(start: tuple[int, ...], stop: tuple[int, ...]) -> Array:
        one_each = [read((n, *start[1:]), (n + 1, *stop[1:])) for n in numbers]
        x_CSHW = np.concatenate(one_each, axis=1)
        return x_CSHW.reshape(-1, 1, *x_CSHW.shape[2:])

    return box


def _finish(
    view: View, rng: np.random.Generator, source: Source, slices: Slices, draw: CropDraw, x: Crop
) -> dict[str, Any]:
    """A view of the slices that there are."""
    x_CSHW = x.reshape(-1, slices.count, *view.crop)
    place = draw.place
    place[0] = [slices.step, 0, 0, slices.start]
    along = np.arange(slices.count) - (slices.count - 1) / 2
    out = {
        "x": _changed(view, rng, source, x_CSHW),
        "tissue": tissue_of(source, x_CSHW),
        "place": place,
        "position": source.position(np.array([slices.middle, *draw.centre[1:]])).astype(np.float32),
        "inside": np.ones(slices.count, dtype=bool),
        "offset_mm": (along * slices.step * source.spacing_mm[0]).astype(np.float32),
    }
    if view.mask is not None:
        out["mask"] = draw_mask(rng, view.mask, (slices.count, 1, 1))
    if source.read_labels is not None:
        flat = side_by_side(source, slices.numbers)
        assert flat.read_labels is not None
        none = np.zeros(slices.count)
        labels = apply_crop(flat.read_labels, draw, flat.shape_DHW, none, nearest=True)
        out["label"] = labels[:, 0]
    return out


def _changed(view: View, rng: np.random.Generator, source: Source, x_CSHW: Crop) -> Crop:
    """Grey values changed by one draw; each slice has its own noise."""
    draw = draw_intensity(rng, view.intensity)
    changed = [
        apply_intensity(x_CSHW[:, [k]], replace(draw, seed=draw.seed + k), source.levels)
        for k in range(x_CSHW.shape[1])
    ]
    return np.concatenate(changed, axis=1)


def _filled(name: str, value: Array, stack: int, source: Source) -> Array:
    """With as many slices as the stack has: the value outside the record in ``x``, 0 in others."""
    if name not in _SLICES:
        return value
    axis = _SLICES[name]
    sides = [(0, 0)] * value.ndim
    sides[axis] = (0, stack - value.shape[axis])
    out = np.pad(value, sides)
    if name == "x":
        out[:, value.shape[axis] :] = np.array(source.fill)[:, None, None, None]
    return out
