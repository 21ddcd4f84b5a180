"""How far do five labelled volumes go, against all of them trained until nothing is gained?

The number of steps is doubled until the validation Dice of all labelled volumes stops rising; all
arms then take this many steps of the same recipe.

    python -m pipelines.label_efficiency --data DATA/hippocampus --out runs/efficiency --jobs 2
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medssl.core.runlog import write_text
from medssl.stages._compare_job import Job
from pipelines._efficiency_curve import PRETRAINED, SCRATCH, SELF_TRAINED, EfficiencyCurve
from pipelines._efficiency_page import page
from pipelines._label_curve import run_jobs
from pipelines._msd import groups_of, link_cases, read_split, runs_of_numbers
from pipelines._options import Data, Jobs, Out, Results

LABELS, SEEDS, STEPS = 5, (0, 1, 2), (500, 1000, 2000, 4000, 8000)
RESULTS = Path(__file__).parents[1] / "docs" / "results" / "label_efficiency.md"


def main(
    data: Data,
    out: Out,
    jobs: Jobs = 1,
    smoke: Annotated[bool, typer.Option(help="Two steps: shows that it runs.")] = False,
    results: Results = RESULTS,
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
        groups=groups_of(test),
        pretrain_overrides={"steps": 2} if smoke else {},
        train=train,
    )
    link_cases(data, out / "train", train)
    link_cases(data, out / "test", test)
    steps, chosen = curve.plateau((2, 4) if smoke else STEPS)
    curve.pretrained()
    everything = [Job(SCRATCH, len(train), seed, steps) for seed in seeds]
    few = [Job(arm, labels, seed, steps) for seed in seeds for arm in (PRETRAINED, SCRATCH)]
    run_jobs(curve, [*few, *everything], jobs)
    run_jobs(curve, [Job(SELF_TRAINED, labels, seed, steps) for seed in seeds], jobs)
    write_text(results, page(curve, labels, seeds, steps, chosen))
    typer.echo(f"wrote {results}")


if __name__ == "__main__":
    typer.run(main)
