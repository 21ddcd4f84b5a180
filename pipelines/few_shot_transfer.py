"""Do labels of one operation help to name the phases of another from one, three and five videos?

Phantom operations of two procedures that share no phase. An encoder of frames is pretrained with
masks on the training videos of both; then it learns the phases of the first, without the second in
sight, or turning to its videos without their labels (`unlabelled`, after CDFSL-V). A head over
time on the frozen encoder learns from k labelled videos of the second procedure. Interrupted runs
go on where they stopped.

    python -m pipelines.few_shot_transfer --out runs/transfer
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import medssl
from medssl.core.runlog import write_text
from pipelines._few_shot_transfer import ARMS, TransferArms, link_training, procedures
from pipelines._objective_arms import Backbone
from pipelines._surgical_phase import link_tested

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "few_shot_transfer.md"
VIDEOS, SHOTS, SEEDS, STEPS = 32, (1, 3, 5), (0, 1, 2), 400
ENCODER = {"name": "timm/test_vit3", "patch_size": 8}
PRETRAIN = {"channels": 3, "fps": 5.0, "size_px": 48, "lr": 1.0e-3, "precision": "32-true"}
TURN = {"steps": 300, "batch_size": 16, "lr": 3.0e-4, "warmup": 30}
SMALL = {"steps": 2, "batch_size": 2, "warmup": 0}
_METHOD = (
    "**Phantoms only**: two drawn procedures that share no phase; this table says nothing of real "
    "operations. Written by `python -m pipelines.few_shot_transfer`; medssl {version}. "
    "{train} training videos of each procedure, {n} test videos of the second. `mae` has seen "
    "frames of both without labels; `source` then learnt the phases of the first, and `curriculum` "
    "did so while it turned to the videos of the second without their labels. The encoder is "
    "frozen; a network over time learns from whole videos of the second procedure (first column), "
    "the same ones in every arm. Means over test videos, one frame per second, plain variant "
    "([phases](../phases.md)), seeds {seeds}; 95 % intervals as in "
    "[surgical phases](surgical_phase.md). Rows whose runs are not all there are left out."
)


def main(
    out: Annotated[Path, typer.Option(help="Where the runs go.")],
    jobs: Annotated[int, typer.Option(help="Trainings at a time, one thread each.")] = 1,
    smoke: Annotated[bool, typer.Option(help="Two steps each: shows that it runs.")] = False,
    results: Annotated[Path, typer.Option(help="Markdown file to write.")] = RESULTS,
) -> None:
    """Run what is missing, then write the table."""
    shots, seeds, steps = ((1,), (0,), 2) if smoke else (SHOTS, SEEDS, STEPS)
    source, target = procedures(out / "phantom", 8 if smoke else VIDEOS)
    videos = {p.name: sorted(f.stem for f in p.iterdir()) for p in (target / "videos").iterdir()}
    tested = videos["test"][: 1 if smoke else None]
    link_tested(target, out / "test", tested)
    arms = TransferArms(
        out=out, data=target, source=source, pretrain="", finetune="few_shot_transfer", pool={},
        groups={name: name for name in tested}, pretrain_overrides=PRETRAIN, task="phase",
        measures={"f1": "F1", "accuracy": "accuracy"}, turn=SMALL if smoke else TURN,
        backbones={"vit": Backbone(ENCODER, (48, 64), {}, ARMS)}, samples=19_200, batch_size=64,
        smoke=smoke,
    )  # fmt: skip
    arms.index(link_training((source, target), out / "both"))
    arms.run(shots, seeds, [steps], jobs)
    method = _METHOD.format(
        version=medssl.__version__, train=len(videos["train"]), n=len(tested),
        seeds=", ".join(map(str, seeds)),
    )  # fmt: skip
    table = arms.table(shots, seeds, [steps])
    write_text(results, "\n".join(["# Results: few-shot transfer", "", method, "", *table, ""]))
    typer.echo(f"wrote {results}")


if __name__ == "__main__":
    typer.run(main)
