"""Do landmarks found in other patients' CT help to segment organs from a few labelled volumes?

Two pretrainings in a row on unlabelled CT: ``anatomy`` learns a dense embedding, which finds the
same landmark in two patients, and ``alice`` learns from these pairs. A segmentation head is
fine-tuned from it, compared with the same from random weights. On phantoms by default, made for a
CPU; on your own data with the shipped recipes, for a GPU. Interrupted runs go on.

    python -m pipelines.ct_anatomy --out runs/ct_anatomy --jobs 2
    python -m pipelines.ct_anatomy --archive CT --data LABELLED --out runs/ours
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines._cases import cases_of
from pipelines._label_curve import write_curve
from pipelines._mined_curve import MinedCurve

LABELS, SEEDS, STEPS, PATIENTS = (1, 2, 4), (0, 1, 2), 300, 24
GPU = {"encoder": "resenc-s", "crop": (64, 64, 64), "spacing_mm": (2.0, 2.0, 2.0)}
CPU = {"encoder": "resenc-xs", "crop": (32, 32, 32), "spacing_mm": (5.0, 5.0, 5.0)}
SHORT = {"steps": 500, "warmup": 50, "batch_size": 4}
MOMENTUM = {"objective.momentum": 0.97}  # the shipped teacher would not move in 500 steps
SMOKE = {"steps": 2, "warmup": 0, "batch_size": 2}
RESULTS = Path(__file__).parents[1] / "docs" / "results" / "ct_anatomy.md"


def main(
    out: Annotated[Path, typer.Option(help="Where the runs go.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder with dataset.json and split.json; else phantoms.")
    ] = None,
    archive: Annotated[
        Path | None, typer.Option(help="Unlabelled CT; else the training images.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Fine-tunings at a time, one thread each.")] = 1,
    smoke: Annotated[bool, typer.Option(help="Two steps: shows that it runs.")] = False,
    results: Annotated[Path, typer.Option(help="Markdown file to write.")] = RESULTS,
) -> None:
    """Run what is missing, then write the table."""
    labels, seeds, steps = ((1,), (0,), 2) if smoke else (LABELS, SEEDS, STEPS)
    patients, tested = (8, 1) if smoke else (PATIENTS, None)
    cases = cases_of(data, out / "phantom", patients=patients, modality="CT", tested=tested)
    cases.link(out)
    curve = MinedCurve(
        out=out, data=cases.folder, pretrain="", finetune="ct_anatomy", pool=cases.pool,
        groups=cases.groups, network=GPU if data and not smoke else CPU,
        pretrain_overrides=SMOKE if smoke else {} if data else SHORT,
        pairs=MOMENTUM if data is None else {},
        archive=archive or (out / "train" if data else out / "phantom" / "archive"),
        remark="" if data else "Phantoms: geometric organs, not patients.",
    )  # fmt: skip
    write_curve(curve, results, labels, seeds, (steps,), jobs)


if __name__ == "__main__":
    typer.run(main)
