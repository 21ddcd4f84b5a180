"""Pneumonia or not on lung ultrasound clips: frozen features, whole groups of patients left out.

Pretraining sees the clips of other contributors (``lung_ultrasound``), without labels. The clips
of one hospital (``lung_ultrasound_nc``) are tested, each by what is fitted on the other groups.
One ledger row per run; an interrupted pipeline goes on where it stopped.

    python -m pipelines.lung_ultrasound --data DATA --out runs/lung --jobs 2
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medssl.core.runlog import write_text
from medssl.stages._jobs import run_missing
from pipelines._bench_clip_features import Job
from pipelines._bench_lung import ARMS, Lung
from pipelines._bench_lung_page import page

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "lung_ultrasound.md"
SEEDS = (0, 1, 2)


def main(
    data: Annotated[Path, typer.Option(help="Folder of the two sets.")],
    out: Annotated[Path, typer.Option(help="Where the runs go.")],
    samples: Annotated[int, typer.Option(help="Clips seen by each pretraining.")] = 800,
    jobs: Annotated[int, typer.Option(help="Trainings at a time, one thread each.")] = 1,
    report: Annotated[bool, typer.Option(help="Run nothing; write what there is.")] = False,
    results: Annotated[Path, typer.Option(help="Markdown file to write.")] = RESULTS,
) -> None:
    """Run what is missing, then write the table."""
    bench, ledger = Lung(data, out, samples), out / "ledger.jsonl"
    if not report:
        bench.prepare()
        run_missing(ledger, [Job(arm, s) for s in SEEDS for arm in ARMS], bench.work, jobs)
    write_text(results, page(bench, ledger))
    typer.echo(f"wrote {results}")


if __name__ == "__main__":
    typer.run(main)
