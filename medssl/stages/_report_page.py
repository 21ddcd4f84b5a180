"""The page of ``medssl report``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from medssl import __version__
from medssl.inference.preview import COLOURS
from medssl.pages import chart
from medssl.pages import page as html
from medssl.pages.viewer import SCRIPT, Stack, legend, viewers
from medssl.stages._calibration_page import reliability, selection
from medssl.stages._report_facts import CASES, Facts, measures_of
from medssl.stages._report_map import Map

# Drawn as curves of their own; everything else that is logged stands together by its first word.
_HEALTH = ("rankme", "lidar", "feature_std", "teacher_entropy", "mean_entropy", "prototype_usage")
_NOT_DRAWN = ("health/", "grad_norm", "lr", "skipped_steps", "data_wait_pct", "peak_memory_mb",
              "samples_per_s", "replaced")  # fmt: skip
_LEVELS: Mapping[str, html.Level] = {"healthy": "good", "shrinking": "warn", "collapsed": "bad"}


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What is on the page beside the run's own numbers.

    Attributes:
        not_drawn: why there are no drawings.
        archive: numbers of records, by column of the catalog and value.
    """

    drawn: Sequence[html.Picture] = ()
    not_drawn: str = ""
    stacks: Sequence[Stack] = ()
    ribbons: Sequence[html.Picture] = field(default_factory=list)
    map: Map | None = None
    archive: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def as_page(facts: Facts, shown: Shown) -> str:
    """The whole HTML page."""
    what = "Pretraining" if facts.stage == "pretrain" else "Fine-tuning"
    sections = [
        html.section("Verdict", html.verdicts([*_verdicts(facts), *_shortcut(shown.map)])),
        html.section("At a glance", html.tiles(_tiles(facts))),
        html.section("Results", *_results(facts), note=_RESULT_NOTE),
        *_trust(facts),
        html.section("Predicted scans", _legend(facts), viewers(shown.stacks), note=_SCAN_NOTE),
        html.section("Predicted videos", html.gallery(shown.ribbons, strips=True)),
        html.section("What it draws of hidden parts", html.gallery(shown.drawn, strips=True),
                     _why(shown), note=_DRAWN_NOTE),
        html.section("What the archive holds", html.grid(*_archive(shown)), note=_ARCHIVE_NOTE),
        html.section("Map of embeddings", *_map(shown.map), note=_map_note(shown.map)),
        html.section("Health", html.grid(*_health(facts), wide=True), note=_HEALTH_NOTE),
        html.section("Training", html.grid(*_curves(facts), wide=True)),
        html.section("What was left out", html.bars("records, by reason",
                                                    list(facts.excluded.items()))),
        html.section("Card and provenance", html.table(["what", "value"], _card(facts)),
                     html.folded("all options", html.lines(_yaml(facts))), note=_CARD_NOTE),
    ]  # fmt: skip
    script = SCRIPT if shown.stacks else ""
    footer = f"medssl {__version__}. No path, no file name and no patient is on this page."
    return html.page(f"{what} report", _subtitle(facts), sections, footer, script)


_RESULT_NOTE = (
    "Means with 95 % intervals from resampled patients; n is what was averaged. No interval where "
    "there is a single patient."
)
_SCAN_NOTE = (
    "Where evaluate compared them, from the worst case to the best. In the plane of acquisition, "
    "head or front up, the patient's right on the left."
)
_DRAWN_NOTE = (
    "Middle slices of random crops. Encoders with tokens draw contrast only: each hidden patch has "
    "its own mean and spread put back."
)
_ARCHIVE_NOTE = "Numbers of records of the catalog given; the run may have used a part of them."
_HEALTH_NOTE = "Of a fixed set of samples. See docs/health.md for what they mean."
_CARD_NOTE = "Hashes tell whether another model or another set of records is the same."


def _subtitle(facts: Facts) -> str:
    card, run = facts.card, facts.run
    name = str(card.encoder.name if card else _name(facts.options.get("encoder")))
    what = str((card and (card.head or card.objective)) or _name(facts.options.get("objective")))
    parts = [f"{what} on {name}"]
    parts += [f"started {run['started']}"] if "started" in run else ["not finished"]
    return " · ".join(parts)


def _name(component: Any) -> str:
    return str(component.get("name", "?") if isinstance(component, Mapping) else component or "?")


def _verdicts(facts: Facts) -> list[tuple[html.Level, str]]:
    lines: list[tuple[html.Level, str]] = []
    if facts.health:
        last = facts.health[-1]
        text = f"{last['state']} at step {last['step']:,}: {last['why']}"
        advice = f"; try: {last['try']}" if last.get("try") else ""
        lines.append((_LEVELS.get(str(last["state"]), "warn"), text + advice))
    warned = str(facts.run.get("shortcut", ""))
    lines += [("warn", warned)] if warned else []
    if not facts.run:
        lines.append(("warn", "the run is not finished: this is how far it has come"))
    if facts.options.get("allow_test"):
        text = "test patients were learnt from: results on them are transductive"
        lines.append(("bad", text))
    if facts.stage == "finetune" and not facts.run.get("val_cases", 1):
        lines.append(("warn", "no validation case: the last step counts, the best is not known"))
    skipped = facts.run.get("skipped_steps", 0)
    lines += [("warn", f"{skipped:,} steps skipped for values that are not finite")] * bool(skipped)
    return lines


def _tiles(facts: Facts) -> list[tuple[str, str, str]]:
    run = facts.run
    steps = facts.options.get("steps")
    found = [
        (run.get("records", run.get("train_cases")), "records learnt from", ""),
        (facts.samples_seen or None, "samples seen", f"of {steps:,} steps" if steps else ""),
        (run.get("parameters"), "parameters of the encoder", ""),
        (run.get("peak_memory_mb"), "MB at most", ""),
    ]
    took = [(_duration(run["wall_s"]), "from start to end", "")] if "wall_s" in run else []
    return took + [
        (f"{value:,.0f}", name, remark)
        for value, name, remark in found
        if isinstance(value, int | float)
    ]


def _duration(seconds: float) -> str:
    """``228 s``, ``12.5 min``, ``3.2 h``."""
    if seconds < 300:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7_200 else f"{seconds / 3600:.1f} h"


def _results(facts: Facts) -> list[str]:
    blocks = []
    for number, found in enumerate(facts.results, start=1):
        name = f"Results {number}"
        rows = measures_of(found)
        header = ["measure", "mean", "95 % interval", "n"]
        whole = [[measure, *_values(one)] for measure, label, one in rows if not label]
        parts = [[measure, label, *_values(one)] for measure, label, one in rows if label]
        by_label = html.table(["measure", "label", *header[1:]], parts)
        blocks += [html.table(header, whole, title=name), html.folded("by label", by_label)]
        blocks.append(html.grid(_cases(name, found), wide=True))
    return blocks


def _trust(facts: Facts) -> list[str]:
    """Calibration and refusal, where evaluate found probabilities and predicted qualities."""
    blocks: list[str] = []
    for found in facts.results:
        blocks += [*reliability(found.get("calibration")), selection(found.get("selective"))]
    return blocks


def _values(one: Mapping[str, Any]) -> list[html.Cell]:
    return [f"{one['mean']:.4g}", _interval(one), str(one.get("n", ""))]


def _interval(one: Mapping[str, Any]) -> str:
    if one.get("low") is None or one.get("high") is None:
        return "none"
    return f"{one['low']:.4g} to {one['high']:.4g}"


def _cases(name: str, found: Mapping[str, Any]) -> str:
    """Dice of every case, sorted, per label."""
    by_label: dict[str, list[float]] = {}
    for row in found.get(CASES, []):
        if isinstance(row, Mapping) and isinstance(row.get("dice"), int | float):
            by_label.setdefault(str(row.get("label", "")), []).append(float(row["dice"]))
    series = [
        chart.Series(name=label, x=_percents(len(values)), y=sorted(values))
        for label, values in by_label.items()
        if len(values) > 1
    ]
    return chart.lines(f"{name}: every case, worst first", series, "share of cases, %", "Dice")


def _percents(n: int) -> list[float]:
    return [100 * (k + 0.5) / n for k in range(n)]


def _legend(facts: Facts) -> str:
    if facts.card is None or facts.card.head != "segmentation":
        return ""
    shown = [(value, name) for value, name in facts.card.labels.items() if value]
    colours = [COLOURS[(value - 1) % len(COLOURS)].astype(int).tolist() for value, _ in shown]
    return legend([(name, tuple(c)) for (_, name), c in zip(shown, colours, strict=True)])


def _why(shown: Shown) -> str:
    return html.verdicts([("warn", f"none: {shown.not_drawn}")]) if shown.not_drawn else ""


def _archive(shown: Shown) -> list[str]:
    return [
        html.bars(name.replace("_", " "), list(counts.items())[:8])
        for name, counts in shown.archive.items()
    ]


def _shortcut(found: Map | None) -> list[tuple[html.Level, str]]:
    return [("bad", found.shortcut)] if found and found.shortcut else []


def _map(found: Map | None) -> list[str]:
    if found is None:
        return []
    x_name, y_name = (f"direction {k + 1} ({share:.0%})" for k, share in enumerate(found.shares))
    charts = [
        chart.points(f"by {name.replace('_', ' ')}", series, x_name, y_name)
        for name, series in found.labels
    ]
    names = list(dict.fromkeys(label for row in found.read_outs.values() for label in row))
    header = ["features", *(f"{name.replace('_', ' ')}, excess over chance" for name in names)]
    rows: list[list[html.Cell]] = [
        [features, *(f"{row[name]:.2f}" if name in row else "" for name in names)]
        for features, row in found.read_outs.items()
    ]
    read_outs = html.table(header, rows, title="what neighbours of other patients tell")
    sheets = html.folded("neighbours, dense features", html.gallery(found.sheets, strips=True))
    return [html.grid(*charts, wide=True), read_outs, sheets]


def _map_note(found: Map | None) -> str:
    records = 0 if found is None else found.records
    return f"Main directions of {records:,} records, with their share of the spread."


def _health(facts: Facts) -> list[str]:
    charts = []
    for name in _HEALTH:
        pairs = [(line["step"], line[name]) for line in facts.health if name in line]
        series = chart.Series(name=name, x=[a for a, _ in pairs], y=[b for _, b in pairs])
        charts.append(chart.lines(name.replace("_", " "), [series], "step", "") if pairs else "")
    return charts


def _curves(facts: Facts) -> list[str]:
    whole = facts.curves.get("loss")
    drawn = {
        name: pairs
        for name, pairs in facts.curves.items()
        if not name.startswith(_NOT_DRAWN) and (name == "loss" or pairs != whole)
    }
    groups: dict[str, list[str]] = {}
    for name in drawn:
        key = "loss" if name == "loss" or name.endswith("_loss") else name.split("/")[0]
        groups.setdefault(key, []).append(name)
    out = []
    for title, names in groups.items():
        series = [
            chart.Series(name=n, x=[a for a, _ in drawn[n]], y=[b for _, b in drawn[n]])
            for n in names[: chart.COLOURS]
        ]
        out.append(chart.lines(title.replace("_", " "), series, "step", ""))
    return out


def _card(facts: Facts) -> list[list[html.Cell]]:
    card, options = facts.card, facts.options
    rows: list[list[html.Cell]] = []
    if card is not None:
        rows += [
            ["encoder", card.encoder.name],
            ["objective", card.objective or "none: from scratch or another's weights"],
            ["head", card.head or "none"],
            ["input", f"{card.modality}, {', '.join(card.channels)}"],
            ["crop", " x ".join(map(str, card.patch_size))],
            ["licence", card.licence],
            ["weights, SHA-256", f"`{card.weights_sha256}`"],
        ]
        rows += [[f"provenance: {key}", str(value)] for key, value in card.provenance.items()]
    for key in ("records_digest", "contract", "config_hash", "init_weights_sha256"):
        rows += [[key.replace("_", " "), f"`{options[key]}`"]] if key in options else []
    rows += [[name, str(v)] for name, v in facts.run.get("libraries", {}).items()]
    return rows


def _yaml(facts: Facts) -> str:
    options = dict(facts.options)
    if options.get("where"):
        options["where"] = "given, not shown: it may name a patient"
    return yaml.safe_dump(options, sort_keys=False) if options else ""
