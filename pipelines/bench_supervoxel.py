"""What images teach a volume encoder: own image encoders, distilled supervoxel by supervoxel.

An image encoder learns from slices, or from chest radiographs (simclr); its frozen features are
distilled into a volume encoder. The control has a teacher with random weights. Scored: a linear
probe of voxels.

    python -m pipelines.bench_supervoxel --data DATA --out runs/supervoxel
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medssl.core.seeding import seed_everything
from medssl.encoders._base import Encoder, build_encoder
from pipelines._bench import RESULTS, write_table
from pipelines._bench_arms import INTERVALS, encoder_of, index_all, scored_rows
from pipelines._bench_sets import Hippocampus, Pneumonia
from pipelines._short_run import short_run

TEACHER = {"encoder": "timm/test_resnet", "encoder.token_size": 8, "encoder.output_stride": 8}
STUDENT, STEPS = "resenc-xs", 60
SLICES, RADIOGRAPHS, UNTRAINED = (
    f"supervoxel, teacher {taught}"
    for taught in ("pretrained on slices", "pretrained on chest radiographs", "at random")
)
RANDOM = "random weights"
NOTE = (
    "Hippocampus MR, Dice (mean of 2 labels) of a linear probe, 5 labelled volumes. "
    "{steps} steps of 8 crops; teachers: simclr, {slow} steps of 32 pictures, on slices of the "
    "same volumes or on pneumoniamnist; {seeds} seeds. "
)


def encoders(one: Hippocampus, out: Path, seed: int, smoke: bool) -> dict[str, Encoder]:
    """A volume encoder per arm."""
    steps = 2 if smoke else STEPS
    told: dict[str, Any] = {"channels": 1, "seed": seed}
    pictures = {**told, **TEACHER, "store": out / "store", "batch_size": 32}
    volumes = {**told, "encoder": STUDENT, "store": out / "store", "batch_size": 8}
    slices, radiographs = out / "catalog", out / "catalog_radiographs"
    found: dict[str, Encoder] = {}
    for name, arm, data, crop, learnt in (
        ("slices", SLICES, slices, one.size[1:], 2 * steps),
        ("radiographs", RADIOGRAPHS, radiographs, Pneumonia.size, 2 * steps),
        ("random", UNTRAINED, slices, one.size[1:], 1),
    ):
        rate = {} if learnt > 1 else {"lr": 0.0}
        teacher = short_run(
            "simclr", steps=learnt, out=out / f"teacher_{name}_{seed}", data=data, crop=crop,
            **pictures, **rate,
        )  # fmt: skip
        more = {"objective.teacher": str(teacher.out), "objective.segments": 60, "lr": 1e-3}
        run = short_run(
            "supervoxel", steps=steps, out=out / f"student_{name}_{seed}", data=slices,
            crop=one.size, **volumes, **more,
        )  # fmt: skip
        found[arm] = encoder_of(run.out)
    seed_everything(seed)
    return {**found, RANDOM: build_encoder(STUDENT, {}, 1)}


def main(
    data: Annotated[Path, typer.Option(help="With the folders hippocampus and pneumoniamnist.")],
    out: Annotated[Path, typer.Option(help="Where the runs go.")],
    seeds: int = 3,
    smoke: Annotated[bool, typer.Option(help="Two steps each: shows that it runs.")] = False,
    results: Annotated[Path, typer.Option(help="Folder of the table.")] = RESULTS,
) -> None:
    """Train, score, and write the table."""
    one = Hippocampus(data / "hippocampus", tested=4 if smoke else None)
    other = Pneumonia(data / "pneumoniamnist")
    index_all(out / "catalog", one.train_folder(out / "volumes"), "MR")
    index_all(out / "catalog_radiographs", other.train_folder(out / "radiographs"), other.modality)
    rows = scored_rows(one, lambda seed: encoders(one, out, seed, smoke), seeds, [RANDOM])
    head = ["arm", "Dice", "against random weights"]
    note = NOTE.format(steps=STEPS, slow=2 * STEPS, seeds=seeds) + INTERVALS
    write_table("supervoxel", "Slices teach volumes", head, rows, note, results, "bench_supervoxel")


if __name__ == "__main__":
    typer.run(main)
