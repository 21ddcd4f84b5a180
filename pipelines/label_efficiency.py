"""How far do five labelled volumes go, against all of them trained until nothing is gained?

The number of steps is doubled until the validation Dice of all labelled volumes stops rising; all
arms then take this many steps of the same recipe.

    python -m pipelines.label_efficiency --data DATA/hippocampus --out runs/efficiency --jobs 2
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

import medssl
from medssl.core.runlog import write_text
from medssl.evaluation.bootstrap import Interval
from medssl.stages._compare_job import Job
from medssl.stages._jobs import read_rows
from medssl.stages._paired import mean_score, score_difference
from pipelines._efficiency_curve import PRETRAINED, SCRATCH, SELF_TRAINED, EfficiencyCurve
from pipelines._label_curve import run_jobs
from pipelines._msd import link_cases, read_split, runs_of_numbers

LABELS, SEEDS, STEPS, RISE = 5, (0, 1, 2), (500, 1000, 2000, 4000, 8000), 0.002
GOAL = 0.97
RESULTS = Path(__file__).parents[1] / "docs" / "results" / "label_efficiency.md"


def main(
    data: Annotated[Path, typer.Option(help="Folder with dataset.json and split.json.")],
    out: Annotated[Path, typer.Option(help="Where the runs go.")],
    jobs: Annotated[int, typer.Option(help="Trainings at a time, one thread each.")] = 1,
    smoke: Annotated[bool, typer.Option(help="Two steps: shows that it runs.")] = False,
    results: Annotated[Path, typer.Option(help="Markdown file to write.")] = RESULTS,
) -> None:
    """Run what is missing, then write the page."""
    train, test = read_split(data)
    train, test = (train[:12], test[:2]) if smoke else (train, test)
    labels, seeds = (2, (0,)) if smoke else (LABELS, SEEDS)
    curve = EfficiencyCurve(
        out=out,
        data=data,
        pretrain="mri_hippocampus",
        finetune="mri_hippocampus",
        pool=runs_of_numbers(train),
        groups={case: group for group, cases in runs_of_numbers(test).items() for case in cases},
        pretrain_overrides={"steps": 2} if smoke else {},
        train=train,
    )
    link_cases(data, out / "train", train)
    link_cases(data, out / "test", test)
    steps, chosen = curve.plateau((2, 4) if smoke else STEPS, RISE)
    curve.pretrained()
    everything = [Job(SCRATCH, len(train), seed, steps) for seed in seeds]
    few = [Job(arm, labels, seed, steps) for seed in seeds for arm in (PRETRAINED, SCRATCH)]
    run_jobs(curve, [*few, *everything], jobs)
    run_jobs(curve, [Job(SELF_TRAINED, labels, seed, steps) for seed in seeds], jobs)
    write_text(results, page(curve, labels, seeds, steps, chosen))
    typer.echo(f"wrote {results}")


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


def _share(difference: Interval, plateau: float) -> str:
    """Of the plateau; the interval is that of the paired difference."""
    low, mean, high = (
        100 * (1 + one / plateau) for one in (difference.low, difference.mean, difference.high)
    )
    return f"{mean:.1f} % ({low:.1f} to {high:.1f})"


def _minutes(curve: EfficiencyCurve, arm: str, labels: int) -> str:
    rows = read_rows(curve.out / "ledger.jsonl")
    took = [row["wall_s"] / 60 for row in rows if (row["arm"], row["labels"]) == (arm, labels)]
    return f"{min(took):.0f} to {max(took):.0f}"


if __name__ == "__main__":
    typer.run(main)
