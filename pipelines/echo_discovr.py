"""Does cluster distillation see how a heart beats? Ejection fractions of phantoms, features frozen.

Hearts whose ejection fraction is drawn independently of everything that one sees at a glance are
pretrained on without labels. A linear regression on frozen features then predicts the fraction of
hearts that neither pretraining nor regression has seen. One ledger row per run; an interrupted
pipeline goes on where it stopped.

    python -m pipelines.echo_discovr --out runs/echo --jobs 2
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medssl.core.runlog import write_text
from medssl.stages._jobs import run_missing
from pipelines._bench_clip_features import Job
from pipelines._bench_hearts import ARMS, Hearts
from pipelines._bench_hearts_page import page

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "echo_discovr.md"
SEEDS = (0, 1, 2)


def main(
    out: Annotated[Path, typer.Option(help="Where phantoms and runs go.")],
    trained: Annotated[int, typer.Option(help="Phantom hearts that are learnt from.")] = 280,
    tested: Annotated[int, typer.Option(help="Other hearts.")] = 200,
    samples: Annotated[int, typer.Option(help="Clips seen by each pretraining.")] = 3_200,
    jobs: Annotated[int, typer.Option(help="Trainings at a time, one thread each.")] = 1,
    only: Annotated[str, typer.Option(help="Arms, separated by commas; all by default.")] = "",
    report: Annotated[bool, typer.Option(help="Run nothing; write what there is.")] = False,
    results: Annotated[Path, typer.Option(help="Markdown file to write.")] = RESULTS,
) -> None:
    """Run what is missing, then write the table."""
    bench = Hearts(out, trained, tested, samples)
    ledger = out / "ledger.jsonl"
    if not report:
        bench.prepare()
        names = only.split(",") if only else list(ARMS)
        plan = [Job(arm, seed) for seed in SEEDS for arm in names if seed in ARMS[arm].seeds]
        run_missing(ledger, plan, bench.work, jobs)
    write_text(results, page(bench, ledger))
    typer.echo(f"wrote {results}")


if __name__ == "__main__":
    typer.run(main)
