"""What a checkpoint from other data is worth here, and what further pretraining adds to it.

A volume transformer learns from phantoms (mae); that run then meets the hippocampus: as it came,
through adapters (glare), with all weights (mae), and held near those (self_distill). Scored: a
linear probe of voxels.

    python -m pipelines.bench_further --data DATA/hippocampus --out runs/further
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import medssl
from medssl.core.seeding import seed_everything
from medssl.encoders._adapter import PREFIX
from medssl.encoders._base import Encoder, build_encoder
from pipelines._bench import RESULTS, write_table
from pipelines._bench_arms import INTERVALS, encoder_of, index_all, scored_rows
from pipelines._bench_sets import Hippocampus
from pipelines._short_run import short_run

ENCODER, ADAPTER, PATIENTS = "vit3d-xs", 8, 48
STEPS = {"phantoms": 300, "hippocampus": 150}
BATCH = 8
RANDOM, CAME = "random weights", "mae on phantoms, as it came"
ADAPTED, WHOLE, NEAR = "then glare, adapters alone", "then mae", "then self_distill, near those"
NOTE = (
    "Hippocampus MR, Dice (mean of 2 labels) of a linear probe on all levels, 5 labelled volumes, "
    "54 tested. {encoder}; mae on MR phantoms of {patients} torsos ({phantoms} steps of {batch} "
    "crops), then {hippocampus} steps on 130 hippocampus volumes; adapters hold {share:.1f} % of "
    "the encoder's weights, all others stay as they came. {seeds} seeds. "
)


def runs(one: Hippocampus, out: Path, seed: int, smoke: bool) -> dict[str, Path]:
    """A finished pretraining per arm; what is there is not run again."""
    steps = dict.fromkeys(STEPS, 2) if smoke else STEPS
    told: dict[str, Any] = {
        "store": out / "store", "seed": seed, "batch_size": BATCH, "crop": one.size,
        "encoder": ENCODER,
    }  # fmt: skip

    def run(name: str, objective: str, data: str, **more: Any) -> Path:
        place = out / f"{name}_{seed}"
        if not (place / "run.json").is_file():
            catalog = out / f"catalog_{data}"
            short_run(objective, steps=steps[data], data=catalog, out=place, **told, **more)
        return place

    came = run("came", "mae", "phantoms")
    here: dict[str, Any] = {"data": "hippocampus", "init": came}
    adapted = run("glare", "glare", **{**here, "encoder.adapter": ADAPTER})
    whole = run("mae", "mae", **here)
    near = run("self_distill", "self_distill", **{**here, "objective.teacher": str(whole)})
    return {CAME: came, ADAPTED: adapted, WHOLE: whole, NEAR: near}


def encoders(one: Hippocampus, out: Path, seed: int, smoke: bool) -> dict[str, Encoder]:
    """An encoder per arm."""
    found = {arm: encoder_of(run) for arm, run in runs(one, out, seed, smoke).items()}
    seed_everything(seed)
    return {RANDOM: build_encoder(ENCODER, {}, 1), **found}


def main(
    data: Annotated[Path, typer.Option(help="Folder of the Decathlon's hippocampus set.")],
    out: Annotated[Path, typer.Option(help="Where the runs go.")],
    seeds: int = 3,
    smoke: Annotated[bool, typer.Option(help="Two steps each: shows that it runs.")] = False,
    results: Annotated[Path, typer.Option(help="Folder of the table.")] = RESULTS,
) -> None:
    """Train what is missing, score, and write the table."""
    one = Hippocampus(data, tested=4 if smoke else None)
    patients = 4 if smoke else PATIENTS
    index_all(out / "catalog_hippocampus", one.train_folder(out / "volumes"), "MR")
    if not (out / "phantom").is_dir():
        medssl.phantom(out=out / "phantom", patients=patients, labelled="MR")
    torsos = out / "phantom" / "labelled" / "imagesTr"
    index_all(out / "catalog_phantoms", torsos, "MR")
    rows = scored_rows(one, lambda seed: encoders(one, out, seed, smoke), seeds, [RANDOM, CAME])
    head = ["arm", "Dice", "against random weights", "against as it came"]
    note = NOTE.format(
        encoder=ENCODER, patients=len(list(torsos.iterdir())), batch=BATCH, seeds=seeds,
        share=_adapted(encoder_of(out / "glare_0")), **STEPS,
    )  # fmt: skip
    title = "A checkpoint from other data"
    write_table("further", title, head, rows, note + INTERVALS, results, "bench_further")


def _adapted(encoder: Encoder) -> float:
    """Weights in adapters, in percent of all."""
    sizes = {name: weight.numel() for name, weight in encoder.named_parameters()}
    return 100 * sum(n for name, n in sizes.items() if PREFIX in name) / sum(sizes.values())


if __name__ == "__main__":
    typer.run(main)
