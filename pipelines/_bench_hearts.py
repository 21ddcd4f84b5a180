"""The arms of :mod:`pipelines.echo_discovr`: pretrain, freeze, predict the ejection fraction."""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medssl.archive.phantom_echo import write_hearts
from medssl.evaluation.linear import ridge_regression
from pipelines._bench_clip_features import (
    Looks,
    features,
    grey_statistics,
    index_ultrasound,
    pretrained_encoder,
    random_encoder,
)

RANDOM, GREY, MEAN = "random weights", "grey statistics", "mean of training hearts"
# Phantoms and the split between pretraining and test do not change with the seed of a training.
_TESTED = 0.3


@dataclass(frozen=True)
class Arm:
    """An objective with its options; without an objective nothing is trained."""

    objective: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)


ARMS = {
    MEAN: Arm(seeds=(0,)),
    GREY: Arm(seeds=(0,)),
    RANDOM: Arm(),
    "discovr": Arm("discovr"),
    "videomae": Arm("videomae"),
    "discovr without image branch": Arm("discovr", {"objective.image_branch": False}),
    "discovr without cluster distillation": Arm("discovr", {"objective.cluster_weight": 0}),
    "discovr with misaligned tokens": Arm("discovr", {"objective.misaligned": True}),
}


class Job(NamedTuple):
    """One pretraining, or what it is compared with."""

    arm: str
    seed: int


@dataclass(frozen=True)
class Hearts:
    """Phantom hearts and what is learnt from them.

    Attributes:
        out: folder of phantoms and runs.
        hearts: how many there are.
        samples: clips that a pretraining sees.
    """

    out: Path
    hearts: int
    samples: int

    def prepare(self) -> None:
        """Write the phantoms, index those of the training half, cut the clips of all."""
        phantom = self.out / "phantom"
        if not (phantom / "hearts.csv").is_file():
            write_hearts(phantom, hearts=self.hearts)
        archive = self.out / "train"
        archive.mkdir(parents=True, exist_ok=True)
        for name in self.names[: self.trained]:
            link = archive / name
            if not link.exists():
                link.symlink_to((phantom / "videos" / name).resolve())
        index_ultrasound(archive, self.out / "catalog")
        if not self._clip_file.is_file():
            looks = Looks()
            clips = looks.all([phantom / "videos" / name for name in self.names])
            np.save(self._clip_file, np.rint(255 * clips).astype(np.uint8))

    @property
    def trained(self) -> int:
        """Hearts that are pretrained on and regressed; the others are tested."""
        return round((1 - _TESTED) * self.hearts)

    @cached_property
    def _table(self) -> list[dict[str, str]]:
        with (self.out / "phantom" / "hearts.csv").open(encoding="utf-8") as file:
            return list(csv.DictReader(file))[: self.hearts]

    @property
    def names(self) -> list[str]:
        """Files of all hearts."""
        return [row["video"] for row in self._table]

    @property
    def truth(self) -> npt.NDArray[np.float64]:
        """(N,) ejection fractions."""
        return np.array([float(row["ejection_fraction"]) for row in self._table])

    @property
    def _clip_file(self) -> Path:
        return self.out / f"clips{self.hearts}.npy"

    def work(self, job: Job) -> dict[str, Any]:
        """Pretrain and predict; returns the ledger's row, with the error of each test heart."""
        start_s = time.process_time()
        x_ND = self._features(job)
        train = slice(None, self.trained)
        truth = self.truth
        if job.arm == MEAN:
            found, l2 = np.full(len(truth), truth[train].mean()), 0.0
        else:
            fit = ridge_regression(x_ND[train], truth[train])
            found, l2 = np.clip(fit.predict(x_ND), 0, 1), fit.l2
        error = np.abs(found - truth)[self.trained :]
        return {
            "samples": self.samples if ARMS[job.arm].objective else 0,
            "cpu_s": round(time.process_time() - start_s, 1),
            "l2": l2,
            "predicted": np.round(found[self.trained :], 4).tolist(),
            "values": np.round(error, 4).tolist(),
        }

    def _features(self, job: Job) -> npt.NDArray[Any]:
        x_NKCTHW = np.load(self._clip_file).astype(np.float32) / np.float32(255)
        arm = ARMS[job.arm]
        if job.arm in {GREY, MEAN}:
            return grey_statistics(x_NKCTHW)
        if arm.objective is None:
            return features(random_encoder(job.seed), x_NKCTHW)
        name = f"{job.arm.replace(' ', '_')}_{job.seed}"
        encoder = pretrained_encoder(
            arm.objective,
            arm.options,
            self.out / "runs" / name,
            catalog=self.out / "catalog",
            samples=self.samples,
            seed=job.seed,
        )
        return features(encoder, x_NKCTHW)
