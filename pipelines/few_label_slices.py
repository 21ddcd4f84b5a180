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

from pipelines._cases import cases_of
from pipelines._label_curve import Curve, write_curve

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
    labels, seeds, steps = ((1,), (0, 1), 2) if smoke else (LABELS, SEEDS, STEPS)
    patients, tested = (12, 2) if smoke else (PATIENTS, None)
    cases = cases_of(data, out / "phantom", patients=patients, tested=tested)
    cases.link(out)
    curve = Curve(
        out=out,
        data=cases.folder,
        pretrain="few_label_slices",
        finetune="few_label_slices",
        pool=cases.pool,
        groups=cases.groups,
        pretrain_overrides={"steps": 2} if smoke else {},
        remark="Phantoms: geometric organs, not patients." if data is None else "",
    )
    write_curve(curve, results, labels, seeds, (steps,), jobs)


if __name__ == "__main__":
    typer.run(main)
