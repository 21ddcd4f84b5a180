"""The page of the label efficiency benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import medssl
from medssl.stages._compare_job import Job
from medssl.stages._jobs import read_rows
from medssl.stages._paired import mean_score, score_difference
from pipelines._efficiency_curve import PRETRAINED, RISE, SCRATCH, SELF_TRAINED, EfficiencyCurve

GOAL = 0.97


def page(
    curve: EfficiencyCurve,
    labels: int,
    seeds: Sequence[int],
    steps: int,
    chosen: dict[int, float],
) -> str:
    """The results as Markdown."""

    def runs(arm: str, n: int) -> list[Path]:
        return [curve.metrics(Job(arm, n, seed, steps)) for seed in seeds]

    best = runs(SCRATCH, len(curve.train))
    plateau = mean_score(best, curve.groups, "dice")
    header = "| labelled | weights | Dice | of the plateau | against random weights | minutes |"
    lines = [header, "|---|---|---|---|---|---|"]
    arms = [(SCRATCH, labels), (PRETRAINED, labels), (SELF_TRAINED, labels)]
    for arm, n in [*arms, (SCRATCH, len(curve.train))]:
        own, base = runs(arm, n), runs(SCRATCH, n)
        gain = "" if arm == SCRATCH else curve.difference(own, base)
        share = _share(score_difference(own, best, curve.groups, "dice"), plateau.mean)
        lines.append(
            f"| {n} | {arm} | {curve.mean(own)} | {share if own != best else ''} | {gain} "
            f"| {_minutes(curve, arm, n)} |"
        )
    tried = ", ".join(f"{k} steps: {dice:.4f}" for k, dice in chosen.items())
    method = (
        f"Written by `python -m pipelines.label_efficiency`; medssl {medssl.__version__}. Goal: "
        f"{GOAL:.0%} of the Dice of all {len(curve.train)} labelled volumes. Steps chosen: {steps},"
        f" after which the next gained less than {RISE} on validation ({tried}; four fifths of the "
        "volumes, seed 0). All arms have this recipe, `mri_hippocampus`, and number of steps; the "
        f"last checkpoint counts. Test Dice, mean of both labels, {len(curve.groups)} volumes in "
        f"{len(set(curve.groups.values()))} groups, {len(seeds)} seeds. 95 % intervals: groups "
        "drawn 10,000 times, Student's t over seeds; differences are paired by seed and volume. "
        "Pretrained: `mae` on the images of all training volumes. Self-trained: what the "
        "pretrained arm predicts on the training volumes without a label is learnt from as well, "
        "from the pretrained weights again. Minutes: of one fine-tuning and its test, one thread."
    )
    return "\n".join(["# Results: label efficiency", "", method, "", *lines, ""])


def _share(difference: Any, plateau: float) -> str:
    """Of the plateau; the interval is that of the paired difference."""
    low, mean, high = (
        100 * (1 + one / plateau) for one in (difference.low, difference.mean, difference.high)
    )
    return f"{mean:.1f} % ({low:.1f} to {high:.1f})"


def _minutes(curve: EfficiencyCurve, arm: str, labels: int) -> str:
    rows = read_rows(curve.out / "ledger.jsonl")
    took = [row["wall_s"] / 60 for row in rows if (row["arm"], row["labels"]) == (arm, labels)]
    return f"{min(took):.0f} to {max(took):.0f}"
