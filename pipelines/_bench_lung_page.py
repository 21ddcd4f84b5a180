"""The page of :mod:`pipelines.lung_ultrasound`, from its ledger alone.

N clips, R draws.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

import medssl
from medssl.evaluation.bootstrap import LEVEL_PERCENT, group_draws
from medssl.evaluation.classification import weighted_scores
from medssl.stages._jobs import read_rows
from pipelines._bench_clip_features import CROP, ENCODER, RANDOM
from pipelines._bench_lung import ARMS, Lung

Array = npt.NDArray[np.float64]
Measure = Literal["balanced accuracy", "AUROC"]
# Score, measure, title. Distances to normals have no threshold, so they have no accuracy.
COLUMNS: tuple[tuple[str, Measure, str], ...] = (
    ("linear", "balanced accuracy", "linear"),
    ("knn", "balanced accuracy", "kNN"),
    ("linear", "AUROC", "linear, AUROC"),
    ("normal_knn", "AUROC", "kNN to normals only, AUROC"),
    ("normal_density", "AUROC", "density of normals only, AUROC"),
)
_METHOD = (
    "Written by `python -m pipelines.lung_ultrasound`; medssl {version}. Bacterial pneumonia "
    "({sick}) against regular ({well}) on the clips of one hospital (`lung_ultrasound_nc`), in "
    "{groups} groups that were guessed from file names; each group is judged by what was fitted "
    "on the other groups, and all clips are pooled. Objectives ({encoder}, clips of {crop}) are "
    "pretrained on the {others} clips of other contributors (`lung_ultrasound`) without labels, "
    "{samples:,} clips seen by each, shipped options but for teachers' momentum 0.97 and "
    "discovr's learning rate, 7e-4: no tested clip was seen. Frozen features: the mean token of "
    "each time step, its mean and spread over time, of five clips per video; grey statistics: "
    "mean, spread and five percentiles of each frame, in the same way. Linear: ridge, penalty by "
    "leave-one-out; kNN: 5 clips; both without regard to how frequent a class is. Normals only: "
    "fitted on regular clips alone. 95 % intervals: groups are resampled, 10,000 draws, of the "
    "mean over seeds; draws without one of the classes are left out."
)
_LIMITS = (
    "{clips} clips in {groups} groups of one hospital are few: intervals are wide, and nothing "
    "here says how well pneumonia is found elsewhere. Four groups hold pneumonia only, so that a "
    "group's look and its label go together; that is why whole groups are left out."
)


def page(bench: Lung, ledger: Path) -> str:
    """Markdown of all arms that have a row."""
    rows: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in read_rows(ledger):
        rows[row["arm"]][row["seed"]] = row
    sick = bench.sick
    facts = {
        "version": medssl.__version__,
        "clips": len(sick),
        "sick": int(sick.sum()),
        "well": int((1 - sick).sum()),
        "groups": len(set(bench.groups)),
        "encoder": ENCODER,
        "crop": " x ".join(map(str, CROP)),
        "others": len(list((bench.data / "lung_ultrasound" / "videos").iterdir())),
        "samples": bench.samples,
    }
    lines = ["# Results: lung ultrasound", "", _METHOD.format(**facts), ""]
    lines += [_LIMITS.format(**facts), "", "## Scores", ""]
    titles = [title for *_, title in COLUMNS]
    lines += [f"| arm | seeds | {' | '.join(titles)} |", "|---" * (len(titles) + 2) + "|"]
    for arm in ARMS:
        if rows[arm]:
            cells = [_cell(_drawn(bench, rows[arm], *column[:2])) for column in COLUMNS]
            lines += [f"| {arm} | {len(rows[arm])} | {' | '.join(cells)} |"]
    lines += ["", "## Against random weights", ""]
    lines += [f"| arm | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    for arm in ARMS:
        if arm != RANDOM and rows[arm] and rows[RANDOM]:
            gains = [
                _drawn(bench, rows[arm], *column[:2]) - _drawn(bench, rows[RANDOM], *column[:2])
                for column in COLUMNS
            ]
            lines += [f"| {arm} | {' | '.join(_cell(gain, '+') for gain in gains)} |"]
    return "\n".join([*lines, ""])


def _drawn(bench: Lung, runs: dict[int, dict[str, Any]], name: str, measure: Measure) -> Array:
    """(1 + R,) the measure, mean over seeds, of all clips first, then of draws of groups."""
    weight_RN = np.concatenate([np.ones((1, len(bench.sick))), *group_draws(bench.groups)])
    values = []
    for _, row in sorted(runs.items()):
        score_N = np.array(row[name])
        both = np.stack([-score_N, score_N], axis=1)
        scores = weighted_scores(bench.sick, (score_N > 0).astype(np.int64), both, weight_RN)
        values += [scores.recall_RK.mean(1) if measure != "AUROC" else scores.auroc_RK[:, 1]]
    return np.asarray(np.mean(values, axis=0))


def _cell(value_R: Array, sign: str = "") -> str:
    low, high = np.nanpercentile(value_R[1:], LEVEL_PERCENT)
    return f"{value_R[0]:{sign}.2f} ({low:{sign}.2f} to {high:{sign}.2f})"
