"""Does pretraining on colonoscopy pictures help to outline polyps from 10, 50 and all masks?

Pretrains an image encoder on the training pictures without masks, fine-tunes with and without it
on the same labelled pictures, tests on held-out pictures, and writes the table. Pictures that look
alike are on one side. Interrupted runs go on where they stopped.

    python -m pipelines.polyps --data DATA/polyps --out runs/polyps --objective simclr
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines._bench_sets import Polyps
from pipelines._label_curve import write_curve
from pipelines._picture_curve import PictureCurve, link_pictures

LABELS, SEEDS, STEPS = (10, 50), (0, 1), 100
RESULTS = Path(__file__).parents[1] / "docs" / "results" / "polyps.md"


def main(
    data: Annotated[Path, typer.Option(help="Folder with images and masks.")],
    out: Annotated[Path, typer.Option(help="Where the runs go; one folder per objective.")],
    objective: Annotated[str, typer.Option(help="Objective of the pretraining.")] = "simclr",
    jobs: Annotated[int, typer.Option(help="Trainings at a time, one thread each.")] = 1,
    smoke: Annotated[bool, typer.Option(help="Two steps: shows that it runs.")] = False,
    results: Annotated[Path, typer.Option(help="Markdown file to write.")] = RESULTS,
) -> None:
    """Run what is missing, then write the table."""
    train, test = Polyps(data).split
    pictures = [name for names in train.values() for name in names]
    labels = (2,) if smoke else (*LABELS, len(pictures))
    seeds, steps = ((0, 1), 2) if smoke else (SEEDS, STEPS)
    tested = dict(list(test.items())[:2]) if smoke else test
    link_pictures(data, out / "train", "images", pictures)
    names = [name for group in tested.values() for name in group]
    for part, folder in (("images", "imagesTr"), ("masks", "labelsTr")):
        link_pictures(data, out / "test" / folder, part, names)
    curve = PictureCurve(
        out=out,
        data=data,
        pretrain="polyps",
        finetune="polyps",
        pool=train,
        groups={Path(name).stem: group for group, found in tested.items() for name in found},
        pretrain_overrides={"objective": objective, **({"steps": 2} if smoke else {})},
        remark=f"Pretraining: {objective}, {len(pictures)} pictures, recipe in `configs/`.",
        modality="ES",
    )
    write_curve(curve, results, labels, seeds, (steps,), jobs)


if __name__ == "__main__":
    typer.run(main)
