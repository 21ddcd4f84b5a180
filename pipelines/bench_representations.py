"""Which objective learns what: frozen features against random weights, equal samples seen.

The ledger beside the page has one row per pretraining; an interrupted run goes on where it stopped.

    python -m pipelines.bench_representations --data DATA --out runs/representations --jobs 2
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

import medssl
from medssl.core.config import Component
from medssl.core.seeding import seed_everything
from medssl.encoders._base import Encoder, build_encoder
from medssl.encoders.card import build_from_card, load_card, part_of
from medssl.stages._jobs import run_missing
from pipelines._bench_report import report
from pipelines._bench_sets import Set, sets
from pipelines._short_run import short_run

RANDOM = "random"
RESULTS = Path(__file__).parents[1] / "docs" / "results" / "representations.md"
# With three seeds, and with one; objectives that know anatomy have a bench of their own.
THRICE = ("mae", "dino", "simclr", "barlow")
ONCE = ("byol", "deepcluster", "ibot", "jepa", "moco", "simmim", "sit", "swav", "vicreg")


@dataclass(frozen=True)
class Budget:
    """How a set is pretrained on: the same for every objective.

    Attributes:
        encoder: convolutional; ``token_encoder`` for objectives that hide patches.
        samples: seen in pretraining.
    """

    encoder: dict[str, Any]
    token_encoder: dict[str, Any]
    samples: int
    batch_size: int


def _vit(patch_px: int) -> dict[str, Any]:
    return {"name": "timm/vit_tiny_patch16_224", "patch_size": patch_px}


def _resnet(stride_px: int, token_px: int) -> dict[str, Any]:
    return {"name": "timm/resnet18", "output_stride": stride_px, "token_size": token_px}


_VIT3D = {"name": "vit3d-xs", "token_size": [8, 8, 8]}
BUDGETS = {
    "hippocampus": Budget({"name": "resenc-xs"}, _VIT3D, 1_600, 16),
    "pneumoniamnist": Budget(_resnet(8, 8), _vit(4), 6_400, 32),
    "polyps": Budget(_resnet(16, 16), _vit(8), 1_600, 8),
}
# Masking patches of a picture is a transformer's task; volumes are masked in blocks.
PATCHES = {"hippocampus": {"jepa"}, "*": {"mae", "simmim", "ibot", "sit", "jepa"}}
# On both encoders: random convolutions score high on small radiographs, and DINO's own encoder is a
# transformer.
BOTH = {"pneumoniamnist": ("dino", "barlow", "simclr")}
# Beside the shipped options: correlations of 1024 features from a batch of 32 are mostly chance.
VARIANTS = {"pneumoniamnist": ("barlow out=128",)}


class Job(NamedTuple):
    """One pretraining, or random weights, on one set; options follow the objective's name."""

    set: str
    encoder: str
    objective: str
    seed: int


def plan(names: list[str]) -> list[Job]:
    """Objectives that have three seeds first."""
    first, rest = [], []
    for seed in range(3):
        for name in names:
            budget = BUDGETS[name]
            encoders = (budget.encoder["name"], budget.token_encoder["name"])
            first += [Job(name, encoder, RANDOM, seed) for encoder in encoders]
            mine = [(o, _encoder(name, o)["name"]) for o in THRICE]
            others = [(o, encoders[1]) for o in BOTH.get(name, ())]
            others += [(o, encoders[0]) for o in VARIANTS.get(name, ())]
            first += [Job(name, e, o, seed) for o, e in dict.fromkeys([*mine, *others])]
    for name in names:
        rest += [Job(name, _encoder(name, o)["name"], o, 0) for o in ONCE]
    return first + rest


def work(job: Job, data: Path, out: Path, smoke: bool) -> dict[str, Any]:
    """Pretrain and score; returns the ledger's row."""
    one = next(found for found in sets(data) if found.name == job.set)
    start_s = time.process_time()
    encoder = _random(one, job) if job.objective == RANDOM else _pretrained(one, job, out, smoke)
    pretrain_s = time.process_time() - start_s
    score = one.score(encoder, job.seed)
    seen = 0 if job.objective == RANDOM else BUDGETS[job.set].samples
    values = [round(value, 4) for value in score.values]
    cpu_s = round(pretrain_s, 1)
    return {"samples": seen, "cpu_s": cpu_s, "values": values, "groups": score.groups}


def _random(one: Set, job: Job) -> Encoder:
    seed_everything(job.seed)
    component = _component(job)
    return build_encoder(component.name, component.options, one.channels)


def _pretrained(one: Set, job: Job, out: Path, smoke: bool) -> Encoder:
    budget = BUDGETS[job.set]
    objective, *options = job.objective.split()
    run = short_run(
        objective,
        steps=2 if smoke else budget.samples // budget.batch_size,
        batch_size=budget.batch_size,
        data=out / "catalogs" / job.set,
        out=out / "_".join((*job[:3], str(job.seed))).replace("/", "_").replace(" ", "_"),
        store=out / "store" / job.set,
        encoder=job.encoder,
        channels=one.channels,
        crop=list(one.size),
        seed=job.seed,
        **({"size_px": one.size[0]} if len(one.size) == 2 else {}),
        **{f"encoder.{key}": value for key, value in _component(job).options.items()},
        **{f"objective.{key}": value for key, value in (word.split("=") for word in options)},
    )
    card, weights = load_card(run.out)
    encoder = build_from_card(card)
    encoder.load_state_dict(part_of(weights, "encoder"), strict=True)
    return encoder


def _component(job: Job) -> Component:
    budget = BUDGETS[job.set]
    [options] = [e for e in (budget.encoder, budget.token_encoder) if e["name"] == job.encoder]
    return Component.model_validate(options)


def _encoder(name: str, objective: str) -> dict[str, Any]:
    patches = PATCHES.get(name, PATCHES["*"])
    budget = BUDGETS[name]
    return budget.token_encoder if objective in patches else budget.encoder


def _index(one: Set, out: Path) -> None:
    catalog = out / "catalogs" / one.name
    if catalog.is_dir():
        return
    folder = one.train_folder(out / "pictures" / one.name)
    split = {"train": 1.0, "val": 0.0, "test": 0.0}
    medssl.index(archive=folder, out=catalog, split=split, modality=one.modality)


def main(
    data: Annotated[Path, typer.Option(help="Folder of the three sets.")],
    out: Annotated[Path, typer.Option(help="Where the runs go.")],
    jobs: Annotated[int, typer.Option(help="Trainings at a time, one thread each.")] = 1,
    smoke: Annotated[bool, typer.Option(help="Two steps each: shows that it runs.")] = False,
    only: Annotated[str, typer.Option(help="One set alone.")] = "",
    results: Annotated[Path, typer.Option(help="Markdown file to write.")] = RESULTS,
) -> None:
    """Run what is missing, then write the table."""
    found = [one for one in sets(data) if only in {"", one.name}]
    for one in found:
        _index(one, out)
    ledger = results.with_suffix(".jsonl")
    jobs_wanted = plan([one.name for one in found])
    run_missing(ledger, jobs_wanted, partial(work, data=data, out=out, smoke=smoke), jobs)
    report(ledger, {one.name: one.measure for one in found}, (*THRICE, *ONCE), results)
    typer.echo(json.dumps({"wrote": str(results)}))


if __name__ == "__main__":
    typer.run(main)
