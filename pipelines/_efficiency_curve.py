"""Arms of the label efficiency benchmark; one of them learns from its own guesses."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import medssl
from medssl.stages._compare_job import Job
from pipelines._label_curve import Curve
from pipelines._msd import link_cases

SCRATCH, PRETRAINED, SELF_TRAINED = "random", "pretrained", "pretrained, then self-trained"
# What twice the steps have to gain in validation Dice to go on.
RISE = 0.002


@dataclass(frozen=True)
class EfficiencyCurve(Curve):
    """The label curve up to all training cases, which have no seed of their own."""

    train: list[str] = field(default_factory=list)
    """All training cases."""

    def labelled(self, labels: int, seed: int) -> Path:
        if labels < len(self.train):
            return super().labelled(labels, seed)
        return link_cases(self.data, self.labelled_folder(labels, seed), self.train)

    def init(self, job: Job) -> Path | None:
        return None if job.arm == SCRATCH else self.out / "pretrain"

    def labels_of(self, job: Job) -> dict[str, Any]:
        told = super().labels_of(job)
        return {**told, "data": self.guessed(job)} if job.arm == SELF_TRAINED else told

    def guessed(self, job: Job) -> Path:
        """All training cases; those without a label take what the pretrained arm predicts.

        Noisy student without its larger networks (Xie et al. 2020, arXiv 1911.04252): one round,
        hard labels.
        """
        teacher = self.out / job._replace(arm=PRETRAINED).name / "finetune"
        folder = self.out / "guessed" / f"{job.labels}_{job.seed}_{job.steps}"
        found = folder.with_name(f"{folder.name}_predictions")
        medssl.predict(
            input=self.out / "train" / "imagesTr", out=found, checkpoint=teacher, overwrite=True
        )
        link_cases(self.data, folder, self.train)
        known = self.labelled_folder(job.labels, job.seed) / "labelsTr"
        for case in self.train:
            name = f"{case}.nii.gz"
            if not (known / name).exists():
                (folder / "labelsTr" / name).unlink()
                (folder / "labelsTr" / name).symlink_to(found / f"{case}_seg.nii.gz")
        return folder

    def validated(self, steps: int, seed: int) -> float:
        """Validation Dice of a training on four fifths of the cases, for the choice of steps."""
        run = self.out / "chosen" / f"{steps}_{seed}"
        if not (run / "run.json").is_file():
            data = self.labelled(len(self.train), seed)
            medssl.finetune(
                task="segmentation", config=self.finetune, data=data, out=run,
                store=self.out / "store", steps=steps, seed=seed, val_fraction=0.2,
                check_every=steps, quiet=True, overwrite=True,
            )  # fmt: skip
        return float(json.loads((run / "run.json").read_text(encoding="utf-8"))["best_val_dice"])

    def plateau(self, steps: tuple[int, ...]) -> tuple[int, dict[int, float]]:
        """The first number of steps after which the next one gains less than ``RISE``."""
        found = {steps[0]: self.validated(steps[0], 0)}
        for fewer, more in pairwise(steps):
            found[more] = self.validated(more, 0)
            if found[more] - found[fewer] < RISE:
                return fewer, found
        return steps[-1], found
