"""Views of clips: which frames, by time and never across a cut, and all of them cut alike.

The shot and the first frame of a first view are drawn evenly over the time at which it could
start. Its other frames are those nearest to every ``stride_ms`` from there on. Views after the
first one share ``overlap`` of their time with it, or all of its time where that is less.

Two clips of one study show one time each since their first frames (:func:`draw_together`): files
do not tell which moments of two recordings are the same phase of the beat.
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
    slack_s = _slack(source.times_s, shots, span_s)
    pick, place = rng.random(2)
    if slack_s.max() < -_ROUNDING * stride_s:
        return _all_of_a_shot(source.times_s, shots[int(slack_s.argmax())], count, stride_s, clip)
    number = _picked(_weight(slack_s, stride_s), pick)
    low = float(source.times_s[shots[number, 0]])
    high = low + max(float(slack_s[number]), 0.0)
    if first is not None and overlap:
        low, high = _sharing(first, span_s, overlap, (low, high))
    start_s = low + place * (high - low)
    return _moment(source.times_s, shots[number], start_s, stride_s, count)


def draw_together(
    rng: np.random.Generator, clips: tuple[Source, Source], count: int, clip: ClipSpec
) -> tuple[tuple[Moment, Moment], float] | None:
    """``count`` frames of each of two clips, at the same times since their first frames.

    The start is drawn evenly over the time at which both could start. Where they show no common
    time that is long enough, the longest is taken by the policy ``short``.

    Returns:
        The moments, and the share of the view's time (at the stride drawn) that both clips show;
        ``None``: they show none together, or too little and ``short`` refuses.
    """
    stride_s = rng.uniform(*clip.stride_ms) / 1000
    span_s = (count - 1) * stride_s
    low_s, high_s, shots = _common(*clips)
    if not len(low_s):
        return None
    slack_s = high_s - low_s - span_s
    pick, place = rng.random(2)
    share = 1.0
    if slack_s.max() < -_ROUNDING * stride_s:
        if clip.short == "refuse":
            return None
        number = int(slack_s.argmax())
        share = float(1 + slack_s[number] / span_s)
        own_s = clips[0].times_s
        assert own_s is not None
        inside = (own_s >= low_s[number]) & (own_s <= high_s[number])
        stride_s = _shorter(stride_s, own_s[inside], count, clip)
    else:
        number = _picked(_weight(slack_s, stride_s), pick)
    start_s = float(low_s[number] + place * max(slack_s[number], 0.0))
    here, there = (
        _moment(one.times_s, shot[number], start_s, stride_s, count, float(high_s[number]))
        for one, shot in zip(clips, shots, strict=True)
        if one.times_s is not None
    )
    return (here, there), share


def spread_moments(
    times_s: npt.NDArray[np.float64], shots: Numbers, count: int, clip: ClipSpec, most: int
) -> list[Numbers]:
    """Frames of views that stand for a whole clip: (T,) numbers of each, at the middle stride.

    The time at which :func:`draw_moment` lets a view start is cut into equal parts, and a view
    starts in the middle of each. There are as many as it takes to show each frame once, at least
    one and no more than ``most``.

    Raises:
        ReadError: ``clip_too_short``, as in :func:`draw_moment`.
    """
    stride_s = sum(clip.stride_ms) / 2000
    span_s = (count - 1) * stride_s
    slack_s = _slack(times_s, shots, span_s)
    if slack_s.max() < -_ROUNDING * stride_s:
        return [
            _all_of_a_shot(times_s, shots[int(slack_s.argmax())], count, stride_s, clip).numbers
        ]
    weight = _weight(slack_s, stride_s)
    ends = weight.cumsum()
    shown = np.where(weight > 0, 1 + slack_s / (span_s + stride_s), 0.0).sum()
    views = int(np.clip(np.ceil(shown - _ROUNDING), 1, most))
    found = []
    for at in (np.arange(views) + 0.5) / views * ends[-1]:
        number = int(np.searchsorted(ends, at, side="right"))
        share = 1 - (ends[number] - at) / weight[number]
        start_s = times_s[shots[number, 0]] + share * max(slack_s[number], 0.0)
        [first] = _nearest(times_s, shots[number], np.array([start_s]))
        found.append(_moment(times_s, shots[number], times_s[first], stride_s, count).numbers)
    return found


def clip_views(
    spec: ViewSpec, rng: np.random.Generator, source: Source, at: Moment | None = None
) -> list[dict[str, Any]]:
    """All views of a clip, in the order of the spec; the first one shows ``at``, if it is given.

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
        if first is None and at is not None:
            moment = at
        elif first is None or not view.twin:
            moment = draw_moment(rng, source, view.crop[0], spec.clip, first, spec.overlap)
        if first is None or not view.twin:
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


def _slack(
    times_s: npt.NDArray[np.float64], shots: Numbers, span_s: float
) -> npt.NDArray[np.float64]:
    """By how much each shot is longer than a view."""
    return np.asarray(times_s[shots[:, 1] - 1] - times_s[shots[:, 0]] - span_s)


def _weight(slack_s: npt.NDArray[np.float64], stride_s: float) -> npt.NDArray[np.float64]:
    """Time of each shot at which a view can start.

    A shot that just fits can start at one time: it counts as one stride of time.
    """
    return np.where(slack_s < -_ROUNDING * stride_s, 0.0, np.maximum(slack_s, stride_s))


def _picked(weight: npt.NDArray[np.float64], pick: float) -> int:
    """The shot at a share of all the time at which a view can start."""
    return int(np.searchsorted(weight.cumsum() / weight.sum(), pick, side="right"))


def _common(
    one: Source, other: Source
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], tuple[Numbers, Numbers]]:
    """Start and end of each time that both clips show without a cut, and the shots they are of."""
    assert one.shots is not None and other.shots is not None
    ends = [
        (clip.times_s[clip.shots[:, 0]], clip.times_s[clip.shots[:, 1] - 1])
        for clip in (one, other)
        if clip.times_s is not None and clip.shots is not None
    ]
    low_s = np.union1d(ends[0][0], ends[1][0])  # it starts where a shot of either does
    at = [np.maximum(np.searchsorted(start, low_s, side="right") - 1, 0) for start, _ in ends]
    high_s = np.minimum(*(end[n] for (_, end), n in zip(ends, at, strict=True)))
    shown = np.maximum(*(start[n] for (start, _), n in zip(ends, at, strict=True))) <= low_s
    there = shown & (low_s <= high_s)
    return low_s[there], high_s[there], (one.shots[at[0][there]], other.shots[at[1][there]])


def _moment(
    times_s: npt.NDArray[np.float64],
    shot: Numbers,
    start_s: float,
    stride_s: float,
    count: int,
    end_s: float = np.inf,
) -> Moment:
    """Frames at equal distances from ``start_s`` on; that at ``end_s``, or the last, is held."""
    last_s = min(float(times_s[shot[1] - 1]), end_s)
    span_s = min((count - 1) * stride_s, last_s - start_s)
    wanted_s = start_s + np.minimum(np.arange(count) * stride_s, span_s)
    numbers = _nearest(times_s, shot, wanted_s)
    return Moment((int(shot[0]), int(shot[1])), start_s, span_s, numbers)


def _all_of_a_shot(
    times_s: npt.NDArray[np.float64], shot: Numbers, count: int, stride_s: float, clip: ClipSpec
) -> Moment:
    """The view of a shot that is too short for it, by the policy of the spec."""
    stride_s = _shorter(stride_s, times_s[slice(*shot)], count, clip)
    return _moment(times_s, shot, float(times_s[shot[0]]), stride_s, count)


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
    times_s: npt.NDArray[np.float64], shot: Numbers, wanted_s: npt.NDArray[np.float64]
) -> Numbers:
    """Frames of a shot nearest to these times."""
    own_s = times_s[shot[0] : shot[1]]
    after = np.clip(np.searchsorted(own_s, wanted_s), 1, max(len(own_s) - 1, 1))
    after = np.minimum(after, len(own_s) - 1)
    before = np.maximum(after - 1, 0)
    sooner = wanted_s - own_s[before] <= own_s[after] - wanted_s
    return np.asarray(shot[0] + np.where(sooner, before, after), dtype=np.int64)
