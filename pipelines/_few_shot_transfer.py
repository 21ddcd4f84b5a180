"""Encoders that saw one procedure with labels, and a head from k videos of another one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import medssl
from medssl.stages._compare_job import Job
from medssl.stages._jobs import run_missing
from pipelines._label_curve import run_jobs
from pipelines._objective_arms import RANDOM, Pretraining
from pipelines._surgical_phase import PhaseArms

MASKED, SOURCE, CURRICULUM = "mae", "source", "curriculum"
ARMS = (MASKED, SOURCE, CURRICULUM)
# The source's network over time is not used further.
_FEWEST = 1


@dataclass(frozen=True)
class TransferArms(PhaseArms):
    """Random weights, masked pretraining, then labels of ``source``, without and with a curriculum.

    Attributes:
        source: the labelled procedure, laid out as ``data``, the other one.
        turn: options of the training on the labelled procedure.
    """

    source: Path = Path()
    turn: Mapping[str, Any] = field(default_factory=dict)

    def init(self, job: Job) -> Path | None:
        if job.arm.endswith(RANDOM):
            return None
        return self.pretrain_run(job.arm, job.seed)

    def recipe(self, job: Job) -> dict[str, Any]:
        """Encoders of other arms are those of ``init``; steps are those of the head."""
        own = super().recipe(job) if job.arm.endswith(RANDOM) else {}
        return {**own, "task.temporal_steps": job.steps}

    def see_source(self, job: Pretraining) -> dict[str, Any]:
        """Learn the labelled procedure from the masked pretraining; returns the ledger's row."""
        backbone = job.arm.split(":")[0]
        out = self.pretrain_run(job.arm, job.seed)
        shutil.rmtree(out, ignore_errors=True)  # what a killed run left
        target = self.data / "videos" / "train"
        run = medssl.finetune(
            config=self.finetune,
            task=self.task,
            data=self.source / "videos",
            labels=self.source / "labels",
            unlabelled=target if job.arm.endswith(CURRICULUM) else None,
            out=out,
            store=self.out / "store",
            init=self.pretrain_run(f"{backbone}:{MASKED}", job.seed),
            seed=job.seed,
            quiet=True,
            **{"task.freeze_encoder": False, "task.temporal_steps": _FEWEST, **self.turn},
        )
        shutil.rmtree(run.out / "checkpoints")
        facts = json.loads((run.out / "run.json").read_text(encoding="utf-8"))
        return {key: facts[key] for key in ("train_videos", "unlabelled_videos")}

    def run(
        self, labels: Sequence[int], seeds: Sequence[int], steps: Sequence[int], jobs: int
    ) -> None:
        """Each stage for all arms and seeds before the next one."""
        for arms, ledger, work in (
            ((MASKED,), "pretrained", self.learn),
            ((SOURCE, CURRICULUM), "source", self.see_source),
        ):
            plan = [Pretraining(f"{b}:{a}", s) for s in seeds for b in self.backbones for a in arms]
            run_missing(self.out / f"{ledger}.jsonl", plan, work, jobs)
        names = self.names()
        run_jobs(
            self,
            [Job(a, n, s, k) for k in steps for n in labels for s in seeds for a in names],
            jobs,
        )


def procedures(folder: Path, videos: int) -> tuple[Path, Path]:
    """Phantom operations of two procedures, ``videos`` of each: the first, and the second."""
    for name in ("first", "second"):
        if not (folder / name / "run.json").is_file():
            medssl.phantom(
                out=folder / name, kind="surgery", procedure=name, patients=videos, overwrite=True
            )
    return folder / "first", folder / "second"


def link_training(folders: Sequence[Path], out: Path) -> Path:
    """Links to the training videos of several procedures, in one folder."""
    for folder in folders:
        for video in sorted((folder / "videos" / "train").iterdir()):
            link = out / f"{folder.name}_{video.name}"
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(video.resolve())
    return out
