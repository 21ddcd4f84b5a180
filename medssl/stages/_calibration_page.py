"""Reliability of probabilities, risk and coverage: a page beside ``metrics.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medssl import __version__
from medssl.pages import chart, page

_IDEAL = chart.Series(name="calibrated", x=[0, 1], y=[0, 1], dashed=True)
# Lines that can be told apart in one chart.
_MOST = chart.COLOURS - 1


def calibration_page(metrics: Mapping[str, Any]) -> str:
    """The page of a metrics file that holds ``calibration`` or ``selective``."""
    return page.page(
        "Calibration",
        "Do probabilities mean what they say, and what is gained by referring doubtful cases?",
        [*reliability(metrics.get("calibration")), selection(metrics.get("selective"))],
        f"medssl {__version__}; bins of equal width, those without a case are left out",
    )


def reliability(found: Mapping[str, Any] | None) -> list[str]:
    """Numbers, and a diagram of all, of each label and of each site."""
    if found is None:
        return []
    tiles = [
        (f"{found['ece']:.3f}", "ECE", "15 bins of equal width"),
        (f"{found['ece_equal_mass']:.3f}", "ECE", "15 bins of equal mass"),
        (f"{found['nll']:.3f}", "NLL", ""),
        (f"{found['brier']:.3f}", "Brier score", ""),
    ]
    labels, sites = found.get("per_label", {}), found.get("per_site", {})
    charts = [
        _diagram("All", {"all": found}),
        *_diagrams("Labels", labels),
        *_diagrams("Sites", sites),
    ]
    rows = [
        (name, round(one["ece"], 4), round(one["ece_equal_mass"], 4))
        for name, one in {**labels, **sites}.items()
    ]
    table = page.table(("label or site", "ECE", "ECE, equal mass"), rows)
    note = "Share of right ones against confidence: below the line, the model is too sure."
    return [
        page.section(
            "Reliability", page.tiles(tiles), page.grid(*charts, wide=True), table, note=note
        )
    ]


def selection(found: Mapping[str, Any] | None) -> str:
    """Risk against coverage."""
    if found is None:
        return ""
    rank = found["rank_correlation"]
    tiles = [
        (f"{found['aurc']:.3f}", "AURC", f"best possible {found['aurc_best']:.3f}"),
        (f"{found['aurc_chance']:.3f}", "mean risk", "of all cases"),
        ("-" if rank is None else f"{rank:.2f}", "rank correlation", "quality and score"),
    ]
    curve = chart.Series(name="kept by quality", x=found["coverage"], y=found["risk"])
    mean = [found["aurc_chance"]] * 2
    chance = chart.Series(name="kept by chance", x=[0, 1], y=mean, dashed=True)
    drawn = chart.lines("Risk and coverage", [curve, chance], "share that is kept", "mean risk")
    return page.section("Selection", page.tiles(tiles), page.grid(drawn, wide=True))


def _diagrams(title: str, found: Mapping[str, Any]) -> list[str]:
    names = list(found)
    parts = [names[k : k + _MOST] for k in range(0, len(names), _MOST)]
    return [_diagram(title, {name: found[name] for name in part}) for part in parts]


def _diagram(title: str, found: Mapping[str, Any]) -> str:
    series = [
        chart.Series(name=name, x=[b[1] for b in one["bins"]], y=[b[2] for b in one["bins"]])
        for name, one in found.items()
    ]
    return chart.lines(title, [_IDEAL, *series], "confidence", "share right")
