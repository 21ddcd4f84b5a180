"""Does pretraining on unlabelled frames help to name phases with 5, 10 and 40 labelled videos?

Phantom operations, because no video with phase labels and an open licence is at hand. An encoder of
frames is pretrained on the training videos without their labels, and on colonoscopy pictures where
they are given; then both stages of the phase model learn from it and from random weights, on the
same labelled videos. Interrupted runs go on where they stopped.

    python -m pipelines.surgical_phase --out runs/phases --pictures DATA/polyps
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import medssl
from medssl.core.runlog import write_text
from pipelines._bench_sets import Polyps
from pipelines._surgical_phase import (
    METHOD,
    OBJECTIVE,
    PICTURES,
    arms_of,
    link_tested,
    operations,
    write_frames,
)

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "surgical_phase.md"
VIDEOS, LABELS, SEEDS, STEPS = 64, (5, 10, 40), (0, 1, 2), 150


def main(
    out: Annotated[Path, typer.Option(help="Where the runs go.")],
    pictures: Annotated[
        Path | None, typer.Option(help="Pictures to pretrain on too: a folder of images and masks.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Trainings at a time, one thread each.")] = 1,
    smoke: Annotated[bool, typer.Option(help="Two steps each: shows that it runs.")] = False,
    report: Annotated[bool, typer.Option(help="Run nothing; write what there is.")] = False,
    results: Annotated[Path, typer.Option(help="Markdown file to write.")] = RESULTS,
) -> None:
    """Run what is missing, then write the table."""
    labels, seeds, steps = ((2,), (0,), 2) if smoke else (LABELS, SEEDS, STEPS)
    data = operations(out / "phantom", 8 if smoke else VIDEOS)
    videos = {p.name: sorted(f.stem for f in p.iterdir()) for p in (data / "videos").iterdir()}
    tested = videos["test"][: 1 if smoke else None]
    link_tested(data, out / "test", tested)
    arms = arms_of(out, data, tested, smoke=smoke, pictures=pictures is not None)
    if not report:
        arms.index(write_frames(data / "videos" / "train", out / "frames"), modality="ES")
        if pictures:
            folder = Polyps(pictures).train_folder(out / PICTURES)
            arms.index(folder, PICTURES, modality="ES")
        arms.run(labels, seeds, [steps], jobs)
    method = METHOD.format(
        version=medssl.__version__,
        train=len(videos["train"]),
        n=len(tested),
        objective=OBJECTIVE,
        pictures=PICTURES,
        samples=arms.samples,
        seeds=", ".join(map(str, seeds)),
    )
    page = ["# Results: surgical phases", "", method, "", *arms.table(labels, seeds, [steps]), ""]
    write_text(results, "\n".join(page))
    typer.echo(f"wrote {results}")


if __name__ == "__main__":
    typer.run(main)
