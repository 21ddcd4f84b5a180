"""The table of :mod:`pipelines.bench_representations`, from its ledger alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import medssl
from medssl.core.runlog import write_text
from medssl.evaluation.bootstrap import Interval, bootstrap_difference, bootstrap_mean
from medssl.stages._jobs import read_rows

RANDOM = "random"
Rows = list[dict[str, Any]]
_METHOD = (
    "Written by `python -m pipelines.bench_representations --data DATA --out RUNS --jobs 2`; "
    "medssl {version}. Each objective is pretrained on the training images of a set at an equal "
    "number of samples seen, with its shipped options, but for teachers' momentum (0.97, as runs "
    "have 100 to 300 steps) and the encoder, crop and batch of the set. The encoder is frozen and "
    "compared with random weights of the same architecture, evaluated in the same way. 95 % "
    "intervals: test cases (in groups that may share a subject) are drawn 10,000 times, and where "
    "there are several seeds, these deviate by Student's t; differences are paired by seed and "
    "case. Test images are not pretrained on."
)


def report(
    ledger: Path, measures: Mapping[str, str], objectives: Sequence[str], path: Path
) -> None:
    """Write the page; objectives without a row are named."""
    rows = read_rows(ledger)
    lines = ["# Representations", "", _METHOD.format(version=medssl.__version__), ""]
    for name, measure in measures.items():
        mine = [row for row in rows if row["set"] == name]
        if mine:
            lines += _section(name, measure, mine, objectives)
    write_text(path, "\n".join(lines))


def _section(name: str, measure: str, rows: Rows, objectives: Sequence[str]) -> list[str]:
    by_arm: dict[tuple[str, str], dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        by_arm[row["objective"], row["encoder"]][row["seed"]] = row
    samples = max(row["samples"] for row in rows)
    lines = [
        f"## {name}",
        "",
        (
            f"{measure}; {len(rows[0]['values'])} test cases in "
            f"{len(set(rows[0]['groups']))} groups; {samples:,} samples seen."
        ),
        "",
        "| objective | encoder | seeds | score | random weights | difference | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    table = []
    for (objective, encoder), runs in by_arm.items():
        if objective == RANDOM:
            continue
        random = by_arm[RANDOM, encoder]
        seeds = sorted(runs.keys() & random.keys())
        ours, theirs = ([arm[s]["values"] for s in seeds] for arm in (runs, random))
        groups = rows[0]["groups"]
        gain = bootstrap_difference(ours, theirs, groups)
        score = bootstrap_mean(np.mean(ours, axis=0), groups)
        base = float(np.mean(theirs))
        cpu_s = round(np.mean([runs[s]["cpu_s"] for s in seeds]))
        cells = [
            objective,
            encoder,
            len(seeds),
            _cell(score),
            f"{base:.3f}",
            _cell(gain, "+"),
            cpu_s,
        ]
        table.append((gain.mean, f"| {' | '.join(map(str, cells))} |"))
    rest = [o for o in sorted(objectives) if o not in {row["objective"] for row in rows}]
    missing = [f"Not run yet: {', '.join(rest)}.", ""] if rest else []
    return [*lines, *(line for _, line in sorted(table, reverse=True)), "", *missing]


def _cell(interval: Interval, sign: str = "") -> str:
    return f"{interval.mean:{sign}.3f} ({interval.low:{sign}.3f} to {interval.high:{sign}.3f})"
