"""The page of :mod:`pipelines.echo_discovr`, from its ledger alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import medssl
from medssl.evaluation.bootstrap import Interval, bootstrap_difference
from medssl.stages._jobs import read_rows
from pipelines._bench_clip_features import BATCH, CROP, ENCODER, GREY, RANDOM
from pipelines._bench_hearts import ARMS, Hearts

Runs = dict[int, dict[str, Any]]
_METHOD = (
    "Written by `python -m pipelines.echo_discovr`; medssl {version}. Phantom hearts whose "
    "ejection fraction is drawn between 15 and 75 %, independently of size, depth, place, gain, "
    "grey values, speckle, heart rate, phase and frame rate (`medssl phantom --kind echo`). "
    "{trained} hearts are pretrained on without labels ({encoder}, clips of {crop}, {samples:,} "
    "clips in batches of {batch} for every objective, shipped options but for teachers' momentum "
    "0.97 and discovr's learning rate, 7e-4); then the encoder is frozen. The mean token of each "
    "time step, its mean and spread over time (as for grey values: mean, spread and five "
    "percentiles of each frame), over three clips of a heart, go into a ridge regression on the "
    "same hearts (penalty by leave-one-out), which predicts the fraction of {tested} other hearts. "
    "Mean absolute error in percent points of ejection fraction, R² over the test hearts. 95 % "
    "intervals: hearts drawn 10,000 times, Student's t over seeds, differences paired by seed and "
    "heart; below 0 is better. Of an arm with one seed the interval is over hearts alone, and says "
    "nothing of how much trainings differ. These are phantoms: they show that motion is learnt "
    "where the truth is known, not how well a clinic's hearts are measured."
)
_CHOICES = (
    "What was chosen before: learning rate, readout, batch and number of clips on earlier trials, "
    "the last of which (1,600 clips in batches of 16, two seeds, 120 other test hearts that are "
    "not used here) gave discovr -1.4 (-3.1 to +0.3) and videomae -2.0 (-3.3 to -0.7) against "
    "random weights. With tokens averaged over time as well, no arm knows more than grey values "
    "do (videomae 12.3, discovr 13.4, random weights 12.9, on training hearts); with the spread "
    "over time of every token apart, random weights reach 4.7, for the phantom's motion shows in "
    "any features that are compared place by place."
)


def page(bench: Hearts, ledger: Path) -> str:
    """Markdown of all arms that have a row."""
    runs: dict[str, Runs] = {name: {} for name in ARMS}
    for row in read_rows(ledger):
        runs[row["arm"]][row["seed"]] = row
    facts = _METHOD.format(
        version=medssl.__version__,
        trained=bench.trained,
        tested=bench.tested,
        encoder=ENCODER,
        crop=" x ".join(map(str, CROP)),
        samples=bench.samples,
        batch=BATCH,
    )
    others = (RANDOM, GREY, "videomae", "discovr")
    titles = ["arm", "seeds", "error, %", "R²", *(f"against {name}" for name in others), "CPU s"]
    lines = ["# Results: ejection fraction of phantom hearts", "", facts, ""]
    lines += [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    truth = bench.truth("test")
    for name, mine in runs.items():
        if mine:
            cells = [name, len(mine), _error(mine), f"{_r2(mine, truth):.2f}"]
            cells += [_against(name, mine, other, runs[other]) for other in others]
            cells += [round(float(np.mean([row["cpu_s"] for row in mine.values()])))]
            lines += [f"| {' | '.join(map(str, cells))} |"]
    return "\n".join([*lines, "", _CHOICES, ""])


def _values(runs: Runs, seeds: list[int]) -> list[list[float]]:
    """Errors by seed; what has one seed only counts for all."""
    return [(runs[s] if s in runs else runs[min(runs)])["values"] for s in seeds]


def _error(runs: Runs) -> str:
    seeds = sorted(runs)
    values = np.array(_values(runs, seeds))
    return _cell(bootstrap_difference(values, np.zeros_like(values), range(values.shape[1])))


def _against(name: str, mine: Runs, other: str, theirs: Runs) -> str:
    if name == other or not theirs:
        return ""
    single = 1 in {len(mine), len(theirs)}
    seeds = sorted(mine.keys() | theirs if single else mine.keys() & theirs)
    a, b = _values(mine, seeds), _values(theirs, seeds)
    return _cell(bootstrap_difference(a, b, range(len(a[0]))), "+") if seeds else ""


def _r2(runs: Runs, truth: Any) -> float:
    spread = np.mean((truth - truth.mean()) ** 2)
    errors = [np.mean((np.array(row["predicted"]) - truth) ** 2) for row in runs.values()]
    return float(1 - np.mean(errors) / spread)


def _cell(interval: Interval, sign: str = "") -> str:
    values = (100 * v for v in (interval.mean, interval.low, interval.high))
    mean, low, high = (f"{v:{sign}.2f}" for v in values)
    return f"{mean} ({low} to {high})"
