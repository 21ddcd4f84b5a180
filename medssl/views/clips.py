"""Views of clips: which frames, by time and never across a cut, and all of them cut alike.

The shot and the first frame of a first view are drawn evenly over the time at which it could
start. Its other frames are those nearest to every ``stride_ms`` from there on. Views after the
first one share ``overlap`` of their time with it, or all of its time where that is less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError
from medssl.core.viewspec import ClipSpec, View, ViewSpec
from medssl.views.crops import Where, anywhere, fullest, near, tissue_of
from medssl.views.hidden import hidden
from medssl.views.intensity import Crop, apply_intensity, draw_intensity
from medssl.views.source import Source
from medssl.views.spatial import CropDraw
from medssl.views.stack import side_by_side

Numbers = npt.NDArray[np.int64]
# Strides may be off by so much of themselves: times in files are rounded.
_ROUNDING = 1e-3


@dataclass(frozen=True, eq=False)
class Moment:
    """The frames of one view.

    Attributes:
        shot: first frame of the shot they are of, and the one behind its last.
        start_s, span_s: time of the first frame, and from there to the last one.
        numbers: (T,) of the record; those that are held come again.
    """

    shot: tuple[int, int]
    start_s: float
    span_s: float
    numbers: Numbers


def draw_moment(
    rng: np.random.Generator,
    source: Source,
    count: int,
    clip: ClipSpec,
    first: Moment | None = None,
    overlap: float = 0.0,
) -> Moment:
    """``count`` frames of one shot; near those of the ``first`` view, if there is one.

    Raises:
        ReadError: ``clip_too_short``: no shot is long enough, and ``short`` refuses.
    """
    assert source.times_s is not None and source.shots is not None
    stride_s = rng.uniform(*clip.stride_ms) / 1000
    span_s = (count - 1) * stride_s
    shots = source.shots if first is None else np.array([first.shot])
    starts_s, ends_s = source.times_s[shots[:, 0]], source.times_s[shots[:, 1] - 1]
    slack_s = ends_s - starts_s - span_s
    pick, place = rng.random(2)
    if slack_s.max() < -_ROUNDING * stride_s:
        number = int(slack_s.argmax())
        stride_s = _shorter(stride_s, source.times_s[slice(*shots[number])], count, clip)
        span_s = min((count - 1) * stride_s, float(ends_s[number] - starts_s[number]))
        low = high = float(starts_s[number])
    else:
        # A shot that just fits can start at one time: it counts as one stride of time.
        weight = np.where(slack_s < -_ROUNDING * stride_s, 0.0, np.maximum(slack_s, stride_s))
        number = int(np.searchsorted(weight.cumsum() / weight.sum(), pick, side="right"))
        low, high = float(starts_s[number]), float(starts_s[number] + max(slack_s[number], 0.0))
        if first is not None and overlap:
            low, high = _sharing(first, span_s, overlap, (low, high))
    start_s = low + place * (high - low)
    wanted_s = start_s + np.minimum(np.arange(count) * stride_s, span_s)
    shot = (int(shots[number, 0]), int(shots[number, 1]))
    return Moment(shot, start_s, span_s, _nearest(source.times_s, shot, wanted_s))


def clip_views(spec: ViewSpec, rng: np.random.Generator, source: Source) -> list[dict[str, Any]]:
    """All views of a clip, in the order of the spec.

    Raises:
        ReadError: ``times_unknown``, ``clip_too_short``.
    """
    assert spec.clip is not None
    if source.times_s is None:
        raise ReadError("times_unknown", "the clip does not say when its frames were shown")
    first: Moment | None = None
    where: Where = anywhere
    out: list[dict[str, Any]] = []
    for view in (kind for kind in spec.views for _ in range(kind.count)):
        if first is None or not view.twin:
            moment = draw_moment(rng, source, view.crop[0], spec.clip, first, spec.overlap)
            flat = view.model_copy(update={"crop": view.crop[1:]})
            frames = side_by_side(source, moment.numbers.tolist())
            draw, x = fullest(flat, rng, frames, where, spec.min_tissue)
        if first is None:
            first, where = moment, near(draw, spec.overlap)
        out.append(_finish(view, rng, source, moment, draw, x))
    return out


def _finish(
    view: View, rng: np.random.Generator, source: Source, moment: Moment, draw: CropDraw, x: Crop
) -> dict[str, Any]:
    assert source.times_s is not None
    x_CTHW = x.reshape(len(source.fill), len(moment.numbers), *view.crop[1:])
    first, last = int(moment.numbers[0]), int(moment.numbers[-1])
    place = draw.place
    place[0] = [(last - first) / max(len(moment.numbers) - 1, 1), 0, 0, first]
    middle = np.array([(first + last) / 2, *draw.centre[1:]])
    changed = apply_intensity(x_CTHW, draw_intensity(rng, view.intensity), source.levels)
    return {
        "x": np.ascontiguousarray(changed),
        "tissue": tissue_of(source, x_CTHW),
        "place": place,
        "position": source.position(middle).astype(np.float32),
        "time_s": source.times_s[moment.numbers].astype(np.float32),
        **hidden(rng, view),
    }


def _shorter(
    stride_s: float, times_s: npt.NDArray[np.float64], count: int, clip: ClipSpec
) -> float:
    """The stride in a shot that is too short for the one drawn."""
    if clip.short == "refuse":
        raise ReadError("clip_too_short", "no shot of the clip is as long as a view")
    if clip.short == "hold" or len(times_s) < 2:
        return stride_s
    fitting_s = float(times_s[-1] - times_s[0]) / (count - 1)
    return min(stride_s, max(fitting_s, float(np.diff(times_s).min())))


def _sharing(
    first: Moment, span_s: float, overlap: float, ends: tuple[float, float]
) -> tuple[float, float]:
    """Earliest and latest start of a view that shares so much time with the first one."""
    shared_s = min(overlap * span_s, first.span_s)
    low = first.start_s + shared_s - span_s
    high = first.start_s + first.span_s - shared_s
    return max(low, ends[0]), min(high, ends[1])


def _nearest(
    times_s: npt.NDArray[np.float64], shot: tuple[int, int], wanted_s: npt.NDArray[np.float64]
) -> Numbers:
    """Frames of a shot nearest to these times."""
    own_s = times_s[shot[0] : shot[1]]
    after = np.clip(np.searchsorted(own_s, wanted_s), 1, max(len(own_s) - 1, 1))
    after = np.minimum(after, len(own_s) - 1)
    before = np.maximum(after - 1, 0)
    sooner = wanted_s - own_s[before] <= own_s[after] - wanted_s
    return np.asarray(shot[0] + np.where(sooner, before, after), dtype=np.int64)
