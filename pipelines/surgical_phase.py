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
from pipelines._objective_arms import Backbone
from pipelines._surgical_phase import PhaseArms, link_tested, operations, write_frames

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "surgical_phase.md"
VIDEOS, LABELS, SEEDS, STEPS = 64, (5, 10, 40), (0, 1), 150
OBJECTIVE, PICTURES = "moco", "polyps"
ENCODER = {"name": "timm/resnet10t", "output_stride": 16}
PRETRAIN = {"channels": 3, "size_px": 48, "lr": 1.0e-3, "precision": "32-true"}
_METHOD = (
    "**Phantoms only**: drawn instruments on drawn tissue. No video with phase labels and an open "
    "licence is at hand, so this table says nothing of real operations. "
    "Written by `python -m pipelines.surgical_phase`; medssl {version}. {train} videos to train "
    "on; {n} test videos of about a minute, by which nothing was chosen: the recipe was chosen by "
    "the validation videos, and the last checkpoint counts. `{objective}` has seen frames of all "
    "training videos (one per second) without labels, `{objective}@{pictures}` colonoscopy "
    "pictures, {samples:,} samples each, with the shipped options but for the teacher's momentum "
    "(0.97). Every arm then learns from the same labelled videos (12.5, 25 and 100 % of "
    "them) for the same number of steps, `configs/finetune/surgical_phase.yaml`. Means over test "
    "videos at one frame per second, plain variant ([phases](../phases.md)), seeds {seeds}. 95 % "
    "intervals: seeds and videos resampled together, 10,000 draws; differences are paired by seed "
    "and video. Rows whose runs are not all there are left out."
)


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
    objectives = (OBJECTIVE, f"{OBJECTIVE}@{PICTURES}") if pictures else (OBJECTIVE,)
    arms = PhaseArms(
        out=out,
        data=data,
        pretrain="",
        finetune="surgical_phase",
        pool={},
        groups={name: name for name in tested},
        pretrain_overrides=PRETRAIN,
        task="phase",
        measures={"f1": "F1", "jaccard": "Jaccard", "accuracy": "accuracy"},
        backbones={"resnet10t": Backbone(ENCODER, (48, 64), {}, objectives)},
        samples=4_800,
        batch_size=32,
        smoke=smoke,
    )
    if not report:
        arms.index(write_frames(data / "videos" / "train", out / "frames"), modality="ES")
        if pictures:
            folder = Polyps(pictures).train_folder(out / PICTURES)
            arms.index(folder, PICTURES, modality="ES")
        arms.run(labels, seeds, [steps], jobs)
    method = _METHOD.format(
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
