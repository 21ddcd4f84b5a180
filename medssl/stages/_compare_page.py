"""The results of a comparison as a table in Markdown and as one page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medssl import __version__
from medssl.pages import page as blocks
from medssl.pages.chart import Series, lines

_NAMES = {"dice": "Dice", "balanced_accuracy": "balanced accuracy"}
_LEVELS: dict[str, blocks.Level] = {"better": "good", "worse": "bad"}
# Test patients of a class: below, a bootstrap knows little of its recall.
_FEW = 10
_METHOD = (
    "Every arm has the same labelled patients, options and number of steps; the last checkpoint "
    "counts. 95 % intervals are over seeds and test patients; gains are paired by seed and test "
    "case."
)
_COMPUTE = (
    "Samples are steps times batch size, of the pretraining and of one fine-tuning; a pretraining "
    "is counted whole, though several tasks may share it."
)
_HEAD = (
    "labelled", "arm", "score", "gain over random weights", "verdict", "pretraining and test",
    "samples seen", "CPU minutes",
)  # fmt: skip


def as_markdown(results: Mapping[str, Any]) -> str:
    """One table, with what it takes to read it."""
    rows = [_HEAD, *(_cells(row, results) for row in results["rows"])]
    lines_of = [f"| {' | '.join(map(str, one))} |" for one in rows]
    lines_of.insert(1, "|" + "---|" * len(_HEAD))
    return "\n".join([
        f"# {_title(results)}", "", f"{subtitle(results)} {_METHOD}", "", *lines_of, "",
        *(f"- {text}" for _, text in _verdicts(results)), "",
    ])  # fmt: skip


def as_page(results: Mapping[str, Any]) -> str:
    """One file that works without a network."""
    rows = results["rows"]
    name = _NAMES[results["measure"]]
    head = list(_HEAD)
    return blocks.page(
        _title(results),
        subtitle(results),
        [
            blocks.section("Answer", blocks.verdicts(_verdicts(results))),
            blocks.section(
                "At equal steps",
                blocks.grid(
                    lines(f"Test {name}", _curves(results), "labelled patients", name, log_x=True),
                    lines(
                        "Gain over random weights",
                        [_zero(rows), *_gains(results, "gain")],
                        "labelled patients",
                        f"gain in {name}",
                        log_x=True,
                    ),
                    wide=True,
                ),
                note=_METHOD,
            ),
            blocks.section("At equal compute", *_compute(results), note=_COMPUTE),
            blocks.section("Table", blocks.table(head, [_cells(row, results) for row in rows])),
            blocks.section("Arms", blocks.table(_ARM_HEAD, [_arm(a) for a in results["arms"]])),
        ],
        f"medssl {__version__}, plan {results['plan']}",
    )


_ARM_HEAD = ("arm", "encoder", "objective", "weights", "samples", "wall minutes", "CPU minutes",
             "pretraining and test")  # fmt: skip


def _arm(arm: Mapping[str, Any]) -> list[blocks.Cell]:
    return [
        arm["name"],
        arm["encoder"],
        arm["objective"] or ("" if arm["against"] else "none"),
        f"`{arm['weights'][:12]}`" if arm["against"] else "random, one draw per seed",
        f"{arm['samples']:,}",
        _minutes(arm["wall_s"]),
        _minutes(arm["cpu_s"]),
        arm["overlap"],
    ]


def subtitle(results: Mapping[str, Any]) -> str:
    """What was measured on whom."""
    test = results["test"]
    drawn = ", drawn here" if test["drawn"] else ""
    return (
        f"Test {_NAMES[results['measure']]} of {test['cases']} cases of {test['patients']} patients"
        f"{drawn}; {results['seeds']} {'seed' if results['seeds'] == 1 else 'seeds'}; "
        f"{results['trainings']} trainings, {results['wall_s'] / 60:.0f} minutes in all."
    )


def _title(results: Mapping[str, Any]) -> str:
    return f"Is pretraining worth it? {results['task'].capitalize()}"


def _verdicts(results: Mapping[str, Any]) -> list[tuple[blocks.Level, str]]:
    found = [_verdict(row, row["gain"], "equal steps") for row in results["rows"] if row["gain"]]
    found += [
        _verdict(row, row["gain_equal_compute"], "equal compute")
        for row in results["rows"]
        if row["gain_equal_compute"]
    ]
    seen: list[tuple[blocks.Level, str]] = []
    for arm in results["arms"]:
        if arm["overlap"] == "transductive":
            what = f"{arm['name']}: its pretraining has seen {arm['met']} test cases: transductive"
            seen.append(("bad", what))
        elif arm["overlap"] == "unknown":
            what = f"{arm['name']}: what its pretraining has seen is not known; test scans may be"
            seen.append(("warn", f"{what} among it"))
    seen += _of_few(results["classes"])
    if results["seeds"] == 1:
        seen.append(("warn", "one seed: no interval, because the spread of training is not known"))
    return [*found, *seen]


def _of_few(classes: Mapping[str, int]) -> list[tuple[blocks.Level, str]]:
    """Classes of few test patients: each is as much of the score as any other."""
    words = {0: "it does not count", 1: "no interval, because their spread is not known"}
    rough = "intervals are rough, and too narrow where these happen to agree"
    return [
        ("warn", f"class {name}: test patients: {n}; {words.get(n, rough)}")
        for name, n in classes.items()
        if n < _FEW
    ]


def _verdict(row: Mapping[str, Any], gain: Mapping[str, Any], at: str) -> tuple[blocks.Level, str]:
    words = {
        "better": "better than random weights",
        "worse": "worse than random weights",
        "not told apart": "not told apart from random weights",
        "no interval": "no interval",
    }[gain["verdict"]]
    text = f"{row['arm']}, {row['labels']} labelled, {at}: {words}, {_signed(gain)}"
    return _LEVELS.get(gain["verdict"], "warn"), text


def _cells(row: Mapping[str, Any], results: Mapping[str, Any]) -> list[blocks.Cell]:
    arm = _named(results, row["arm"])
    gain = row["gain"]
    return [
        str(row["labels"]),
        row["arm"],
        _interval(row),
        _signed(gain) if gain else "",
        gain["verdict"] if gain else "",
        arm["overlap"] if arm["against"] else "",
        f"{row['samples']:,}",
        _minutes(row["cpu_s"]),
    ]


def _named(results: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(arm for arm in results["arms"] if arm["name"] == name)
    return found


def _curves(results: Mapping[str, Any]) -> list[Series]:
    return [
        _series(arm["name"], [row for row in results["rows"] if row["arm"] == arm["name"]])
        for arm in results["arms"]
        if not arm["like"]
    ]


def _gains(results: Mapping[str, Any], key: str) -> list[Series]:
    found = []
    for arm in results["arms"]:
        rows = [row for row in results["rows"] if row["arm"] == arm["name"] and row[key]]
        if rows:
            values = [{**row[key], "labels": row["labels"]} for row in rows]
            found.append(_series(arm["name"], values))
    return found


def _series(name: str, rows: Sequence[Mapping[str, Any]]) -> Series:
    bands: dict[str, Any] = {}
    if all(row["low"] is not None for row in rows):
        bands = {key: [row[key] for row in rows] for key in ("low", "high")}
    x, y = [row["labels"] for row in rows], [row["mean"] for row in rows]
    return Series(name=name, x=x, y=y, **bands)


def _zero(rows: Sequence[Mapping[str, Any]]) -> Series:
    ends = sorted({row["labels"] for row in rows})
    return Series(name="no gain", x=ends, y=[0.0] * len(ends), dashed=True)


def _compute(results: Mapping[str, Any]) -> list[str]:
    """Score over all samples seen; gains where random weights were trained as long."""
    name = _NAMES[results["measure"]]
    curves = _by_samples(results)
    title = f"Test {name} by samples seen; per arm a line or dot for each label count"
    shown = [lines(title, curves, "samples", name, log_x=True)]
    gains = _gains(results, "gain_equal_compute")
    if not gains:
        hint = "random weights were not trained for as long: give equal_compute=true"
        return [blocks.verdicts([("warn", hint)]), blocks.grid(*shown, wide=True)]
    gains = [_zero(results["rows"]), *gains]
    title = "Gain over random weights trained as long"
    shown.append(lines(title, gains, "labelled patients", f"gain in {name}", log_x=True))
    return [blocks.grid(*shown, wide=True)]


def _by_samples(results: Mapping[str, Any]) -> list[Series]:
    """An arm's label counts stand apart; random weights are joined with those trained longer."""
    found = []
    for arm in results["arms"]:
        if arm["like"]:
            continue
        same = {one["name"] for one in results["arms"] if _is_longer(one, arm, results)}
        x: list[float] = []
        y: list[float] = []
        for labels in results["labels"]:
            rows = [
                row
                for row in results["rows"]
                if row["labels"] == labels and row["arm"] in {arm["name"], *same}
            ]
            rows.sort(key=lambda row: row["samples"])
            x += [*(row["samples"] for row in rows), math.nan]
            y += [*(row["mean"] for row in rows), math.nan]
        found.append(Series(name=arm["name"], x=x, y=y))
    return found


def _is_longer(one: Mapping[str, Any], arm: Mapping[str, Any], results: Mapping[str, Any]) -> bool:
    """Whether an arm is a longer training from the random weights of another."""
    return bool(one["like"]) and _named(results, one["like"])["against"] == arm["name"]


def _interval(row: Mapping[str, Any]) -> str:
    if row["low"] is None:
        return f"{row['mean']:.3f}"
    return f"{row['mean']:.3f} ({row['low']:.3f} to {row['high']:.3f})"


def _signed(gain: Mapping[str, Any]) -> str:
    if gain["low"] is None:
        return f"{gain['mean']:+.3f}"
    return f"{gain['mean']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})"


def _minutes(seconds: float | None) -> str:
    return "" if seconds is None or math.isnan(seconds) else f"{seconds / 60:.1f}"
