"""New scans arrive: go on with them from the constant rate, and anneal a copy to give away.

Pretrains on the first archive and goes on with each one that came later; from the last run a
release is annealed. All patients are learnt from, none is held out. Two phantom archives by
default. Call it again with one archive more, and it does what is missing: finished runs stay,
interrupted ones go on where they stopped.

    python -m pipelines.continual --out runs/continual
    python -m pipelines.continual --out runs/ours --scans 2024 --scans 2025-01 --scans 2025-02
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import medssl

PATIENTS, STEPS = 12, 100
SMOKE = {"encoder": "resenc-xs", "crop": (16, 32, 32), "batch_size": 2, "precision": "32-true"}


def main(
    out: Annotated[Path, typer.Option(help="Where catalogs and runs go.")],
    scans: Annotated[
        list[Path] | None, typer.Option(help="Archives in the order they came; else phantoms.")
    ] = None,
    config: Annotated[str, typer.Option(help="Config of the pretraining.")] = "mae",
    steps: Annotated[int, typer.Option(help="On each archive.")] = STEPS,
    smoke: Annotated[bool, typer.Option(help="Four steps each: shows that it runs.")] = False,
) -> None:
    """Run what is missing, then say which run to go on from and which to give away."""
    steps, options = (4, SMOKE) if smoke else (steps, {})
    options |= {"config": config, "schedule": "infinite", "warmup": steps // 20}
    options |= {"cooldown": steps // 4}
    last: Path | None = None
    archives = scans or phantoms(out, 4 if smoke else PATIENTS)
    for number, archive in enumerate(archives, 1):
        catalog = out / f"catalog_{number}"
        medssl.index(archive=archive, out=catalog, split={"train": 1.0, "val": 0.0, "test": 0.0})
        last = trained(out / f"run_{number}", last, data=catalog, steps=number * steps, **options)
    anneal = max(steps // 5, 1)
    end = len(archives) * steps + anneal
    release = trained(
        out / f"release_{len(archives)}", last, data=catalog, steps=end, anneal=anneal, **options
    )
    typer.echo(f"go on from {last}\ngive away {release / 'model'}")


def phantoms(out: Path, patients: int) -> list[Path]:
    """An archive, and one of other patients that came later."""
    folders = [out / f"phantom_{number}" for number in (1, 2)]
    for seed, folder in enumerate(folders):
        if not (folder / "run.json").is_file():
            medssl.phantom(out=folder, patients=patients, seed=seed, overwrite=True)
    return [folder / "archive" for folder in folders]


def trained(out: Path, before: Path | None, **options: Any) -> Path:
    """A finished run that goes on from the one before, made or continued if need be."""
    if not (out / "run.json").is_file():
        medssl.pretrain(out=out, continue_from=before, resume=True, **options)
    return out


if __name__ == "__main__":
    typer.run(main)
