"""The arms of :mod:`pipelines.echo_discovr`: pretrain, freeze, predict the ejection fraction."""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.archive.phantom_echo import write_hearts
from medssl.encoders._base import Encoder
from medssl.evaluation.linear import ridge_regression
from pipelines._bench_clip_features import (
    GREY,
    RANDOM,
    Job,
    Looks,
    features,
    grey_statistics,
    index_ultrasound,
    pretrained_encoder,
    random_encoder,
)

MEAN = "mean of training hearts"


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


@dataclass(frozen=True)
class Hearts:
    """Phantom hearts and what is learnt from them.

    Attributes:
        out: folder of phantoms and runs.
        trained: hearts that are pretrained on and regressed.
        tested: other hearts.
        samples: clips that a pretraining sees.
    """

    out: Path
    trained: int
    tested: int
    samples: int

    def prepare(self) -> None:
        """Write the phantoms, index those that are trained on, cut the clips of all."""
        for part, (seed, count) in self._parts.items():
            folder = self.out / part
            if not (folder / "hearts.csv").is_file():
                write_hearts(folder, hearts=count, seed=seed)
            if not (self.out / f"{part}.npy").is_file():
                clips = Looks().all([folder / "videos" / row["video"] for row in self._rows(part)])
                np.save(self.out / f"{part}.npy", np.rint(255 * clips).astype(np.uint8))
        index_ultrasound(self.out / "train" / "videos", self.out / "catalog")

    @property
    def _parts(self) -> dict[str, tuple[int, int]]:
        """Seed and number of the hearts of each part."""
        return {"train": (0, self.trained), "test": (1, self.tested)}

    def _rows(self, part: str) -> list[dict[str, str]]:
        with (self.out / part / "hearts.csv").open(encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def truth(self, part: str) -> npt.NDArray[np.float64]:
        """(N,) ejection fractions."""
        return np.array([float(row["ejection_fraction"]) for row in self._rows(part)])

    def work(self, job: Job) -> dict[str, Any]:
        """Pretrain and predict; returns the ledger's row, with the error of each test heart."""
        start_s = time.process_time()
        x_ND, query_MD = self._features(job)
        known, truth = self.truth("train"), self.truth("test")
        if job.arm == MEAN:
            found, l2 = np.full(len(truth), known.mean()), 0.0
        else:
            fit = ridge_regression(x_ND, known)
            found, l2 = np.clip(fit.predict(query_MD), 0, 1), fit.l2
        return {
            "samples": self.samples if ARMS[job.arm].objective else 0,
            "cpu_s": round(time.process_time() - start_s, 1),
            "l2": l2,
            "predicted": np.round(found, 4).tolist(),
            "values": np.round(np.abs(found - truth), 4).tolist(),
        }

    def _features(self, job: Job) -> list[npt.NDArray[Any]]:
        """Of the hearts that are trained on, and of those that are tested."""
        clips = [np.load(self.out / f"{part}.npy") for part in self._parts]
        parts = [x_NKCTHW.astype(np.float32) / np.float32(255) for x_NKCTHW in clips]
        if job.arm in {GREY, MEAN}:
            return [grey_statistics(x_NKCTHW) for x_NKCTHW in parts]
        encoder = self._encoder(job)
        return [features(encoder, x_NKCTHW) for x_NKCTHW in parts]

    def _encoder(self, job: Job) -> Encoder:
        arm = ARMS[job.arm]
        if arm.objective is None:
            return random_encoder(job.seed)
        return pretrained_encoder(
            arm.objective,
            arm.options,
            self.out / "runs" / f"{job.arm.replace(' ', '_')}_{job.seed}",
            catalog=self.out / "catalog",
            samples=self.samples,
            seed=job.seed,
        )
