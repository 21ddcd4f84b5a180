"""What slices teach a volume encoder: an own image encoder, distilled supervoxel by supervoxel.

An image encoder learns from slices (simclr); its frozen features are distilled into a volume
encoder. The control has a teacher with random weights. Scored: a linear probe of voxels.

    python -m pipelines.bench_supervoxel --data DATA --out runs/supervoxel
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import medssl
from medssl.core.seeding import seed_everything
from medssl.encoders._base import Encoder, build_encoder
from medssl.encoders.card import build_from_card, load_card, part_of
from medssl.evaluation.bootstrap import bootstrap_difference, bootstrap_mean
from pipelines._bench import RESULTS, write_table
from pipelines._bench_sets import Hippocampus
from pipelines._short_run import short_run

TEACHER = {"encoder": "timm/test_resnet", "encoder.token_size": 8, "encoder.output_stride": 8}
STUDENT, STEPS = "resenc-xs", 60
LEARNT, UNTRAINED = "supervoxel, teacher pretrained on slices", "supervoxel, teacher at random"
RANDOM = "random weights"
NOTE = (
    "Hippocampus MR, Dice (mean of 2 labels) of a linear probe, 5 labelled volumes. "
    "{steps} steps of 8 crops; teacher: simclr, {slow} steps of 32 slices; {seeds} seeds; "
    "95 % bootstrap intervals, paired."
)


def encoders(one: Hippocampus, out: Path, seed: int, smoke: bool) -> dict[str, Encoder]:
    """A volume encoder per arm."""
    steps = 2 if smoke else STEPS
    told: dict[str, Any] = {"data": out / "catalog", "channels": 1, "seed": seed}
    slices = {**told, **TEACHER, "store": out / "store", "batch_size": 32, "crop": one.size[1:]}
    volumes = {**told, "encoder": STUDENT, "store": out / "store", "batch_size": 8}
    found: dict[str, Encoder] = {}
    for arm, learnt in ((LEARNT, 2 * steps), (UNTRAINED, 1)):
        name = arm.rpartition(" ")[2]
        rate = {} if learnt > 1 else {"lr": 0.0}
        place = out / f"teacher_{name}_{seed}"
        teacher = short_run("simclr", steps=learnt, out=place, **slices, **rate)
        more = {"objective.teacher": str(teacher.out), "objective.segments": 60, "lr": 1e-3}
        run = short_run(
            "supervoxel", steps=steps, out=out / f"student_{name}_{seed}", crop=one.size,
            **volumes, **more,
        )  # fmt: skip
        card, weights = load_card(run.out)
        found[arm] = build_from_card(card)
        found[arm].load_state_dict(part_of(weights, "encoder"), strict=True)
    seed_everything(seed)
    return {**found, RANDOM: build_encoder(STUDENT, {}, 1)}


def main(
    data: Annotated[Path, typer.Option(help="Folder of the Decathlon's hippocampus set.")],
    out: Annotated[Path, typer.Option(help="Where the runs go.")],
    seeds: int = 2,
    smoke: Annotated[bool, typer.Option(help="Two steps each: shows that it runs.")] = False,
    results: Annotated[Path, typer.Option(help="Folder of the table.")] = RESULTS,
) -> None:
    """Train, score, and write the table."""
    one = Hippocampus(data)
    split = {"train": 1.0, "val": 0.0, "test": 0.0}
    folder = one.train_folder(out / "volumes")
    if not (out / "catalog").is_dir():
        medssl.index(archive=folder, out=out / "catalog", split=split, modality="MR")
    scores: dict[str, list[list[float]]] = {}
    for seed in range(seeds):
        for arm, encoder in encoders(one, out, seed, smoke).items():
            scores.setdefault(arm, []).append((score := one.score(encoder, seed)).values)
    rows = []
    for arm, values in scores.items():
        base = np.array(scores[RANDOM])
        gain = bootstrap_difference(np.array(values), base, score.groups)
        mean = bootstrap_mean(np.mean(values, axis=0), score.groups)
        rows.append([arm, str(mean), "" if arm == RANDOM else str(gain)])
    head = ["arm", "Dice", "against random weights"]
    note = NOTE.format(steps=STEPS, slow=2 * STEPS, seeds=seeds)
    write_table(Path(__file__).stem, "Slices teach volumes", head, rows, note, results)


if __name__ == "__main__":
    typer.run(main)
