"""Several objectives, and random weights of the same architecture, fine-tuned alike."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import medssl
from medssl.stages._compare_job import Job
from medssl.stages._jobs import read_rows, run_missing
from pipelines._label_curve import Curve, run_jobs
from pipelines._short_run import short_run

RANDOM = "random"


@dataclass(frozen=True)
class Backbone:
    """An architecture with its recipes.

    Attributes:
        encoder: options of the encoder, ``name`` among them.
        crop: of pretraining and fine-tuning.
        finetune: what its fine-tuning changes in the common recipe.
        objectives: those that it is pretrained with; ``name@set`` on another set of images.
    """

    encoder: dict[str, Any]
    crop: tuple[int, ...]
    finetune: dict[str, Any]
    objectives: tuple[str, ...]

    @property
    def options(self) -> dict[str, Any]:
        """The encoder as keywords of a stage."""
        rest = {f"encoder.{key}": value for key, value in self.encoder.items() if key != "name"}
        return {"encoder": self.encoder["name"], **rest, "crop": list(self.crop)}


class Pretraining(NamedTuple):
    """One pretraining: arm, seed."""

    arm: str
    seed: int


@dataclass(frozen=True)
class Arms(Curve):
    """The label curve with an arm per backbone and objective, named ``backbone:objective``."""

    backbones: dict[str, Backbone] = field(default_factory=dict)
    samples: int = 1_600
    batch_size: int = 16
    smoke: bool = False

    def names(self) -> list[str]:
        """Random weights of each backbone first."""
        return [
            f"{name}:{objective}"
            for name, backbone in self.backbones.items()
            for objective in (RANDOM, *backbone.objectives)
        ]

    def pretrain_run(self, arm: str, seed: int) -> Path:
        """Folder of a pretraining."""
        return self.out / "pretrained" / f"{arm.replace(':', '_')}_seed{seed}"

    def init(self, job: Job) -> Path | None:
        return None if job.arm.endswith(RANDOM) else self.pretrain_run(job.arm, job.seed)

    def recipe(self, job: Job) -> dict[str, Any]:
        backbone = self.backbones[job.arm.split(":")[0]]
        return {**backbone.options, **backbone.finetune}

    def learn(self, job: Pretraining) -> dict[str, Any]:
        """Pretrain on the training images; returns the ledger's row."""
        name, objective = job.arm.split(":")
        objective, _, images = objective.partition("@")
        run = short_run(
            objective,
            steps=2 if self.smoke else self.samples // self.batch_size,
            batch_size=self.batch_size,
            data=self.catalog(images),
            out=self.pretrain_run(job.arm, job.seed),
            store=self.out / "store_pretrain",
            seed=job.seed,
            **{**self.backbones[name].options, **self.pretrain_overrides},
        )
        facts = json.loads((run.out / "run.json").read_text(encoding="utf-8"))
        return {"samples": self.samples, "records": facts["records"]}

    def catalog(self, images: str = "") -> Path:
        """Of the training images, or of another set."""
        return self.out / f"catalog_{images}" if images else self.out / "catalog"

    def index(self, folder: Path, images: str = "", **options: Any) -> None:
        """Write the catalog of these images."""
        if not self.catalog(images).is_dir():
            split = {"train": 1.0, "val": 0.0, "test": 0.0}
            medssl.index(archive=folder, out=self.catalog(images), split=split, **options)

    def run(
        self, labels: Sequence[int], seeds: Sequence[int], steps: Sequence[int], jobs: int
    ) -> None:
        """Pretrain and fine-tune what is missing."""
        names = self.names()
        wanted = [Pretraining(a, s) for s in seeds for a in names if not a.endswith(RANDOM)]
        run_missing(self.out / "pretrained.jsonl", wanted, self.learn, jobs)
        plan = [Job(a, n, s, k) for k in steps for n in labels for s in seeds for a in names]
        run_jobs(self, plan, jobs)

    def table(self, labels: Sequence[int], seeds: Sequence[int], steps: Sequence[int]) -> list[str]:
        """One row per arm, label count and number of steps, of what has been run."""
        rows = read_rows(self.out / "ledger.jsonl")
        done = {tuple(row[key] for key in Job._fields) for row in rows}
        scores = " | ".join(f"{name} | against random weights" for name in self.measures.values())
        lines = [f"| labelled | steps | backbone | objective | {scores} | minutes |"]
        lines.append("|---" * (5 + 2 * len(self.measures)) + "|")
        for n in labels:
            for k in steps:
                whole = [a for a in self.names() if all(Job(a, n, s, k) in done for s in seeds)]
                lines += [self._row(arm, n, seeds, k) for arm in whole]
        return lines

    def _row(self, arm: str, n: int, seeds: Sequence[int], steps: int) -> str:
        name, objective = arm.split(":")
        base = f"{name}:{RANDOM}"
        ours, theirs = (
            [self.metrics(Job(one, n, seed, steps)) for seed in seeds] for one in (arm, base)
        )
        cells = []
        for measure in self.measures:
            gain = "" if arm == base else self.difference(ours, theirs, measure)
            cells += [self.mean(ours, measure), gain]
        tuned = [path.parent / "finetune" for path in ours]
        taught = [] if arm == base else [self.pretrain_run(arm, seed) for seed in seeds]
        minutes = " + ".join(_minutes(runs) for runs in (taught, tuned) if runs)
        return f"| {n} | {steps} | {name} | {objective} | {' | '.join(cells)} | {minutes} |"


def _minutes(runs: Sequence[Path]) -> str:
    """Wall time of one run: the middle one, which a busy machine disturbs least."""
    told = (json.loads((run / "run.json").read_text(encoding="utf-8")) for run in runs)
    return f"{median(one['wall_s'] for one in told) / 60:.1f}"
