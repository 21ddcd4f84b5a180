"""Charts as inline SVG: lines with bands, bars and points, in the colours of the page's style."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

# Width and height of a chart, and the room for the axes' numbers, in the chart's own pixels.
_SIZE_PX = (460.0, 240.0)
_MARGIN_PX = (52.0, 10.0, 12.0, 34.0)
COLOURS = 8


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line or group of points.

    Attributes:
        low, high: ends of the band around a line; none are drawn without them.
        dashed: for a reference, such as chance or the ideal.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    dashed: bool = False


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start_px: float
    end_px: float
    log: bool

    def px(self, value: float) -> float:
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start_px + (at - low) / (high - low) * (self.end_px - self.start_px)


def lines(
    title: str, series: Sequence[Series], x_name: str, y_name: str, *, log_x: bool = False
) -> str:
    """Lines over an axis; values that are not finite leave a gap.

    >>> one = Series(name="loss", x=[1, 2, 3], y=[1.0, float("nan"), 0.5])
    >>> lines("Loss", [one], "step", "loss").count("<polyline")
    0
    >>> lines("Loss", [Series(name="loss", x=[1, 2], y=[1.0, 0.5])], "s", "l").count("<polyline")
    1
    """

    def drawn(one: Series, colour: str, x: _Axis, y: _Axis) -> str:
        parts = []
        if one.low is not None and one.high is not None:
            there = [(a, b) for a, b in zip(one.x, one.high, strict=True) if math.isfinite(b)]
            back = [(a, b) for a, b in zip(one.x, one.low, strict=True) if math.isfinite(b)]
            parts.append(
                f'<polygon class="band {colour}" points="{_path(there + back[::-1], x, y)}"/>'
            )
        dash = " dash" if one.dashed else ""
        for run in _unbroken(one):
            if len(run) > 1:
                points = _path(run, x, y)
                parts.append(f'<polyline class="line {colour}{dash}" points="{points}"/>')
            if len(one.x) <= _FEW_POINTS or len(run) == 1:
                parts += [_dot(a, b, colour, x, y, 2.6) for a, b in run]
        return "".join(parts)

    return _chart(title, series, (x_name, y_name), drawn, log_x)


def points(title: str, series: Sequence[Series], x_name: str, y_name: str) -> str:
    """A scatter plot, one colour per series."""

    def drawn(one: Series, colour: str, x: _Axis, y: _Axis) -> str:
        pairs = (pair for run in _unbroken(one) for pair in run)
        return "".join(_dot(a, b, colour, x, y, 2.2) for a, b in pairs)

    return _chart(title, series, (x_name, y_name), drawn, False)


# Lines of so few points show each of them.
_FEW_POINTS = 24


def _chart(
    title: str,
    series: Sequence[Series],
    names: tuple[str, str],
    drawn: Callable[[Series, str, _Axis, _Axis], str],
    log_x: bool,
) -> str:
    kept = [one for one in series if _unbroken(one)]
    if not kept:
        return ""
    x, y = _axes(kept, log_x)
    body = [*_grid(x, y, names)]
    colours = [f"s{k % COLOURS}" for k in range(len(kept))]
    body += [drawn(one, colour, x, y) for one, colour in zip(kept, colours, strict=True)]
    width, height = _SIZE_PX
    legend = "".join(
        f'<span><i class="{colour}"></i>{escape(one.name)}</span>'
        for one, colour in zip(kept, colours, strict=True)
    )
    shown = f'<div class="legend">{legend}</div>' if len(kept) > 1 else ""
    return (
        f'<div class="card chart"><h3>{escape(title)}</h3>'
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"{''.join(body)}</svg>{shown}</div>"
    )


def _axes(series: Sequence[Series], log_x: bool) -> tuple[_Axis, _Axis]:
    pairs = [pair for one in series for run in _unbroken(one) for pair in run]
    ends = [b for one in series for side in (one.low, one.high) for b in side or ()]
    tall = [b for _, b in pairs] + [b for b in ends if math.isfinite(b)]
    left, right, top, bottom = _MARGIN_PX
    width, height = _SIZE_PX
    low_x, high_x = _widened([a for a, _ in pairs], 0.0 if log_x else 0.02)
    if log_x and low_x <= 0:
        raise ValueError(f"a logarithmic axis with a value of {low_x}")
    low_y, high_y = _widened(tall, 0.06)
    return (
        _Axis(low_x, high_x, left, width - right, log_x),
        _Axis(low_y, high_y, height - bottom, top, False),
    )


def _widened(values: Sequence[float], share: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        room = abs(low) / 2 or 0.5
        return low - room, high + room
    room = share * (high - low)
    return low - room, high + room


def _grid(x: _Axis, y: _Axis, names: tuple[str, str]) -> list[str]:
    def text(at: str, kind: str, shown: str) -> str:
        return f'<text {at} class="{kind}">{escape(shown)}</text>'

    out = []
    for value in _ticks(y.low, y.high):
        at, ends = y.px(value), f'x1="{x.start_px:.1f}" x2="{x.end_px:.1f}"'
        out.append(f'<line class="rule" {ends} y1="{at:.1f}" y2="{at:.1f}"/>')
        out.append(text(f'x="{x.start_px - 6:.1f}" y="{at + 4:.1f}"', "end", f"{value:g}"))
    below = f'y="{y.start_px + 14:.1f}"'
    marks = _decades(x.low, x.high) if x.log else _ticks(x.low, x.high)
    out += [text(f'x="{x.px(value):.1f}" {below}', "mid", f"{value:g}") for value in marks]
    height = _SIZE_PX[1]
    middle = f'x="{(x.start_px + x.end_px) / 2:.1f}" y="{height - 4:.1f}"'
    turned = f'x="{-height / 2 + 10:.1f}" y="11" transform="rotate(-90)"'
    out += [text(middle, "mid", names[0]), text(turned, "mid", names[1])]
    return out


def _ticks(low: float, high: float) -> list[float]:
    """Some round values between both ends.

    >>> _ticks(0.0, 1.0)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 of every power of ten between both ends."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    values = [m * 10.0**p for p in range(first, last + 1) for m in (1, 2, 5)]
    return [v for v in values if low * 0.999 <= v <= high * 1.001]


def _unbroken(one: Series) -> list[list[tuple[float, float]]]:
    runs: list[list[tuple[float, float]]] = [[]]
    for a, b in zip(one.x, one.y, strict=True):
        if math.isfinite(a) and math.isfinite(b):
            runs[-1].append((a, b))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _path(pairs: Sequence[tuple[float, float]], x: _Axis, y: _Axis) -> str:
    return " ".join(f"{x.px(a):.1f},{y.px(b):.1f}" for a, b in pairs)


def _dot(a: float, b: float, colour: str, x: _Axis, y: _Axis, radius_px: float) -> str:
    return f'<circle class="{colour}" cx="{x.px(a):.1f}" cy="{y.px(b):.1f}" r="{radius_px}"/>'
