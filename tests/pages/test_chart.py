"""Charts: what is drawn lies where the values say."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from medssl.pages.chart import Series, lines, points


def svg_of(chart: str) -> ElementTree.Element:
    return ElementTree.fromstring(re.search(r"<svg.*</svg>", chart, re.S)[0])  # type: ignore[index]


def test_dots_keep_the_proportions_of_their_values() -> None:
    drawn = svg_of(points("p", [Series(name="a", x=[0, 1, 4], y=[0, 2, 8])], "x", "y"))
    at = [(float(c.get("cx", "")), float(c.get("cy", ""))) for c in drawn.iter("circle")]
    (x0, y0), (x1, y1), (x2, y2) = at
    assert (x1 - x0) / (x2 - x0) == pytest.approx(0.25, abs=0.01)
    assert (y1 - y0) / (y2 - y0) == pytest.approx(0.25, abs=0.01)
    assert y2 < y0  # upwards


def test_a_logarithmic_axis_puts_decades_at_equal_distance() -> None:
    one = Series(name="a", x=[1, 10, 100], y=[0, 1, 2])
    drawn = svg_of(lines("p", [one], "labels", "Dice", log_x=True))
    x = [float(c.get("cx", "")) for c in drawn.iter("circle")]
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)
    with pytest.raises(ValueError, match="logarithmic"):
        lines("p", [Series(name="a", x=[0, 1], y=[0, 1])], "x", "y", log_x=True)


def test_gaps_bands_and_nothing_at_all() -> None:
    gap = Series(
        name="a", x=range(4), y=[0, 1, math.nan, 3], low=[0] * 4, high=[math.nan] + [2] * 3
    )
    drawn = svg_of(lines("p", [gap], "x", "y"))
    assert len(list(drawn.iter("polyline"))) == 1 and len(list(drawn.iter("polygon"))) == 1
    assert "nan" not in ElementTree.tostring(drawn).decode()
    assert lines("p", [Series(name="a", x=[1], y=[math.nan])], "x", "y") == ""


def test_a_constant_is_drawn_and_names_are_escaped() -> None:
    chart = lines("<b>", [Series(name="<i>", x=[1, 2], y=[3, 3])] * 2, "x", "y")
    assert "<b>" not in chart and "&lt;i&gt;" in chart
    assert len(list(svg_of(chart).iter("polyline"))) == 2
