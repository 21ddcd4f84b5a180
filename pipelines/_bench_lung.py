"""The arms of :mod:`pipelines.lung_ultrasound`, and how a group is judged by the others.

N clips, D features, G groups.
"""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.evaluation.anomaly import normal_density_scores, normal_knn_scores
from medssl.evaluation.knn import knn_predict
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

Array = npt.NDArray[Any]
ARMS = (GREY, RANDOM, "discovr", "videomae")
_NEIGHBOURS = 5
_LOOKS = Looks(clips=5)


@dataclass(frozen=True)
class Lung:
    """Clips to pretrain on, and clips with a label and a group.

    Attributes:
        data: folder of ``lung_ultrasound`` and ``lung_ultrasound_nc``.
        out: folder of the runs.
        samples: clips that a pretraining sees.
    """

    data: Path
    out: Path
    samples: int

    @cached_property
    def rows(self) -> list[dict[str, str]]:
        """The tested clips: ``file``, ``label``, ``group``."""
        with (self.data / "lung_ultrasound_nc" / "labels.csv").open(encoding="utf-8") as file:
            return list(csv.DictReader(file))

    @property
    def sick(self) -> npt.NDArray[np.int64]:
        """(N,) 1 = pneumonia."""
        return np.array([int(row["label"] != "regular") for row in self.rows])

    @property
    def groups(self) -> npt.NDArray[np.str_]:
        """(N,) group of each clip."""
        return np.array([row["group"] for row in self.rows])

    def prepare(self) -> None:
        """Index what is pretrained on, cut the clips that are tested."""
        index_ultrasound(self.data / "lung_ultrasound" / "videos", self.out / "catalog")
        if not self._clip_file.is_file():
            videos = self.data / "lung_ultrasound_nc" / "videos"
            clips = _LOOKS.all([videos / row["file"] for row in self.rows])
            np.save(self._clip_file, np.rint(255 * clips).astype(np.uint8))

    @property
    def _clip_file(self) -> Path:
        return self.out / "clips.npy"

    def work(self, job: Job) -> dict[str, Any]:
        """Pretrain and judge every clip; returns the ledger's row."""
        start_s = time.process_time()
        x_ND = self._features(job)
        judged = judge(x_ND, self.sick, self.groups)
        return {
            "samples": self.samples if job.arm not in {GREY, RANDOM} else 0,
            "cpu_s": round(time.process_time() - start_s, 1),
            **{name: np.round(values, 4).tolist() for name, values in judged.items()},
        }

    def _features(self, job: Job) -> Array:
        x_NKCTHW = np.load(self._clip_file).astype(np.float32) / np.float32(255)
        if job.arm == GREY:
            return grey_statistics(x_NKCTHW)
        if job.arm == RANDOM:
            return features(random_encoder(job.seed), x_NKCTHW)
        encoder = pretrained_encoder(
            job.arm,
            {},
            self.out / "runs" / f"{job.arm}_{job.seed}",
            catalog=self.out / "catalog",
            samples=self.samples,
            seed=job.seed,
        )
        return features(encoder, x_NKCTHW)


def judge(x_ND: Array, sick_N: Array, groups_N: Array) -> dict[str, Array]:
    """Score of each clip, by clips of other groups only; above 0 is called sick.

    ``linear`` is a ridge regression on the classes, ``knn`` the vote of the nearest clips, both
    less the share of sick clips that they were fitted on, so that neither class is favoured.
    ``normal_knn`` and ``normal_density`` are distances to regular clips; they have no threshold.
    """
    names = ("linear", "knn", "normal_knn", "normal_density")
    scores = {name: np.zeros(len(x_ND)) for name in names}
    for group in np.unique(groups_N):
        out_N = groups_N == group
        bank, query, sick = x_ND[~out_N], x_ND[out_N], sick_N[~out_N]
        mean_D, spread_D = bank.mean(0), np.maximum(bank.std(0), 1e-6)
        near, far = (bank - mean_D) / spread_D, (query - mean_D) / spread_D
        scores["linear"][out_N] = ridge_regression(bank, sick).predict(query) - sick.mean()
        votes = knn_predict(near, sick, far, _NEIGHBOURS, float("inf"))[:, 1]
        scores["knn"][out_N] = votes - sick.mean()
        normals = near[sick == 0]
        scores["normal_knn"][out_N] = normal_knn_scores(normals, far, _NEIGHBOURS)
        scores["normal_density"][out_N] = normal_density_scores(normals, far)
    return scores
