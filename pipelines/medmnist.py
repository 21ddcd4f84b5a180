"""What does pretraining give on MedMNIST, with 1, 10 and 100 % of the labels?

Takes official ``.npz`` files by path, and slices of the hippocampus in the same form. One row of
``ledger.jsonl`` per pretraining; an interrupted run goes on where it stopped. The labelled pictures
of each seed are written to ``subsets.json``.

    python -m pipelines.medmnist --set DATA/pneumoniamnist.npz --slices DATA/hippocampus --out RUNS
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from medssl.core.runlog import write_text
from medssl.stages._jobs import read_rows, run_missing
from pipelines._bench_mnist import SHARES, Bench, Mnist, plan, subset
from pipelines._bench_mnist_page import page
from pipelines._bench_slices import write_slices

OBJECTIVES, SEEDS, SAMPLES = ("simclr", "barlow", "byol", "moco", "dino"), 3, 6_400
RESULTS = Path(__file__).parents[1] / "docs" / "results" / "medmnist.md"


def main(
    sets: Annotated[list[Path], typer.Option("--set", help="An .npz file; several times.")],
    out: Annotated[Path, typer.Option(help="Where the runs go.")],
    slices: Annotated[Path | None, typer.Option(help="Hippocampus folder, cut to slices.")] = None,
    objective: Annotated[list[str] | None, typer.Option(help="Several times.")] = None,
    seeds: Annotated[int, typer.Option(help="Seeds of each arm.")] = SEEDS,
    samples: Annotated[int, typer.Option(help="Seen in each pretraining.")] = SAMPLES,
    jobs: Annotated[int, typer.Option(help="Pretrainings at a time, one thread each.")] = 1,
    results: Annotated[Path, typer.Option(help="Markdown file to write.")] = RESULTS,
) -> None:
    """Run what is missing, then write the page."""
    out.mkdir(parents=True, exist_ok=True)
    paths = [*sets, *([write_slices(slices, out / "hippocampusslices.npz")] if slices else [])]
    bench = Bench(tuple(paths), out, samples)
    bench.index()
    found = [Mnist(path) for path in paths]
    chosen = {
        one.name: {
            f"{share:.0%} seed {seed}": subset(one.labels("train"), share, seed).tolist()
            for share in SHARES[:-1]
            for seed in range(seeds)
        }
        for one in found
    }
    write_text(out / "subsets.json", json.dumps(chosen) + "\n")
    wanted = plan([one.name for one in found], objective or OBJECTIVES, range(seeds))
    ledger = out / "ledger.jsonl"
    run_missing(ledger, wanted, bench.work, jobs)
    done = {tuple(job) for job in wanted}
    rows = [
        row for row in read_rows(ledger) if tuple(row[k] for k in ("set", "arm", "seed")) in done
    ]
    write_text(results, page(found, rows))
    typer.echo(f"wrote {results}")


if __name__ == "__main__":
    typer.run(main)
