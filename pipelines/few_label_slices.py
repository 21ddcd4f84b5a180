"""Does contrast of body parts help to segment slices from 1, 2 and 8 labelled volumes?

The protocol of Chaitanya et al. 2020: an image encoder learns from slices of all training volumes
without labels (``local_global``), then from all slices of a few labelled ones; compared with the
same fine-tuning from random weights. On phantoms by default, which have a heart, lungs and organs.
Interrupted runs go on where they stopped.

    python -m pipelines.few_label_slices --out runs/few_label_slices --jobs 2
    python -m pipelines.few_label_slices --data DATA/hippocampus --out runs/few_label_hippocampus
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import medssl
from medssl.core.runlog import write_text
from pipelines._label_curve import Curve, Job, run_jobs
from pipelines._msd import link_cases, read_split, runs_of_numbers

LABELS, SEEDS, STEPS = (1, 2, 8), (0, 1, 2), 300
# Two phantoms for each labelled one; a third of the labelled ones are tested on.
PATIENTS = 48
RESULTS = Path(__file__).parents[1] / "docs" / "results" / "few_label_slices.md"


def main(
    out: Annotated[Path, typer.Option(help="Where the runs go.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder with dataset.json and split.json; else phantoms.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Trainings at a time, one thread each.")] = 1,
    smoke: Annotated[bool, typer.Option(help="Two steps: shows that it runs.")] = False,
    results: Annotated[Path, typer.Option(help="Markdown file to write.")] = RESULTS,
) -> None:
    """Run what is missing, then write the table."""
    if data is None:
        pool, test = phantoms(out / "phantom", 12 if smoke else PATIENTS)
    else:
        train, tested = read_split(data)
        pool, test = runs_of_numbers(train), runs_of_numbers(tested)
    folder = data or out / "phantom" / "labelled"
    labels, seeds, steps = ((1,), (0, 1), 2) if smoke else (LABELS, SEEDS, STEPS)
    test = dict(list(test.items())[:2]) if smoke else test
    link_cases(folder, out / "train", [case for cases in pool.values() for case in cases])
    link_cases(folder, out / "test", [case for cases in test.values() for case in cases])
    curve = Curve(
        out=out,
        data=folder,
        pretrain="few_label_slices",
        finetune="few_label_slices",
        pool=pool,
        groups={case: group for group, cases in test.items() for case in cases},
        pretrain_overrides={"steps": 2} if smoke else {},
        remark="Phantoms: geometric organs, not patients." if data is None else "",
    )
    curve.pretrained()
    plan = [Job(a, n, s, steps) for n in labels for s in seeds for a in ("scratch", "pretrained")]
    run_jobs(curve, plan, jobs)
    write_text(results, curve.report(labels, seeds, (steps,)))
    typer.echo(f"wrote {results}")


def phantoms(folder: Path, patients: int) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Labelled phantoms, each its own group, to train on and to test on."""
    if not (folder / "run.json").is_file():
        medssl.phantom(out=folder, patients=patients, overwrite=True)
    images = (folder / "labelled" / "imagesTr").glob("*.nii.gz")
    cases = sorted(path.name.removesuffix(".nii.gz") for path in images)
    first = len(cases) // 3
    return {case: [case] for case in cases[first:]}, {case: [case] for case in cases[:first]}


if __name__ == "__main__":
    typer.run(main)
