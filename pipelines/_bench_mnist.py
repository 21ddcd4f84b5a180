"""MedMNIST's protocol on frozen features: few labels, foreign data, other sets.

Official ``.npz`` files hold ``<part>_images`` (N, 28, 28) or (N, 28, 28, 3) and ``<part>_labels``
(N, 1) of train, val and test; ours also ``<part>_groups`` (N,), the patients.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import softmax
from torch import Tensor

import medssl
from medssl.core.errors import UsageError
from medssl.core.geometry import Geometry
from medssl.core.preprocess import Contract, prepare
from medssl.core.seeding import generator, seed_everything
from medssl.encoders._base import Encoder, build_encoder
from medssl.evaluation.anomaly import normal_knn_scores
from medssl.evaluation.classification import auroc, balanced_accuracy
from medssl.evaluation.linear import Probe, linear_probe, macro_auroc
from medssl.evaluation.ood import (
    energy_scores,
    fpr_at_tpr,
    mahalanobis_scores,
    max_softmax_scores,
)
from medssl.stages._features import PIXELS as PIXEL_GRID
from medssl.stages._features import Frozen
from pipelines._bench_frozen import embed
from pipelines._bench_sets import write_pictures
from pipelines._short_run import short_run

Array = npt.NDArray[Any]
RANDOM, PIXELS = "random", "pixels"
SHARES = (0.01, 0.1, 1.0)
SIZE_PX = 32
ENCODER = {"name": "timm/resnet18", "output_stride": 8, "token_size": 8}
# They are slices of the same patients.
SAME_PATIENTS = ("organamnist", "organcmnist", "organsmnist")


class Job(NamedTuple):
    """One pretraining on one set, and all that is measured of it."""

    set: str
    arm: str
    seed: int


@dataclass(frozen=True)
class Mnist:
    """One of the sets."""

    path: Path

    @property
    def name(self) -> str:
        """As MedMNIST calls it."""
        return self.path.stem

    @cached_property
    def _content(self) -> Any:
        return np.load(self.path)

    def images(self, part: str, channels: int) -> Array:
        """(N, C, H, W) uint8; colour becomes luminance, grey is copied."""
        x = self._content[f"{part}_images"]
        x_NCHW = x[:, None] if x.ndim == 3 else np.moveaxis(x, -1, 1)
        if x_NCHW.shape[1] == channels:
            return np.asarray(x_NCHW)
        if channels == 3:
            return np.repeat(x_NCHW, 3, axis=1)
        grey = np.tensordot(x_NCHW.astype(np.float64), [0.299, 0.587, 0.114], axes=(1, 0))
        return np.rint(grey)[:, None].astype(np.uint8)

    @property
    def channels(self) -> int:
        """1, or 3 of colour pictures."""
        return 1 if self._content["train_images"].ndim == 3 else 3

    def labels(self, part: str) -> Array:
        """(N,) classes.

        Raises:
            UsageError: several labels a picture.
        """
        labels = self._content[f"{part}_labels"]
        if labels.ndim == 2 and labels.shape[1] > 1:
            fix = "ChestMNIST is left out, as in the benchmark"
            raise UsageError("pictures with several labels", where=str(self.path), fix=fix)
        return np.asarray(labels.ravel().astype(np.int64))

    def groups(self, part: str) -> list[str]:
        """Patient of each picture where that is known; else equal pictures are one."""
        if f"{part}_groups" in self._content:
            return [str(one) for one in self._content[f"{part}_groups"]]
        return [one.tobytes().hex() for one in self._content[f"{part}_images"]]

    def without_copies(self, part: str, other: str) -> Array:
        """Places in ``part`` of pictures that are not in ``other``."""
        known = set(self.groups(other))
        return np.array([k for k, one in enumerate(self.groups(part)) if one not in known])

    def write_train(self, folder: Path) -> Path:
        """The training pictures as files."""
        return write_pictures(self._content["train_images"], folder)


def subset(labels_N: Array, share: float, seed: int) -> Array:
    """Places of a share of each class, at least one; of a larger share the smaller is a part.

    >>> subset(np.array([0, 0, 0, 0, 1]), 0.25, 0).shape
    (2,)
    """
    chosen = []
    for k in np.unique(labels_N):
        own = np.flatnonzero(labels_N == k)
        order = own[generator(seed, "labels", int(k)).permutation(len(own))]
        chosen.append(order[: max(1, round(share * len(own)))])
    return np.sort(np.concatenate(chosen))


@dataclass(frozen=True, eq=False)
class Features:
    """Frozen vectors of the parts of a set, and what is known of them."""

    x: dict[str, Array]
    y: dict[str, Array]

    def probe(self, rows: Array) -> Probe:
        """Linear probe on these training pictures; its penalty is chosen on ``val``."""
        train = (self.x["train"][rows], self.y["train"][rows])
        return linear_probe(train, (self.x["val"], self.y["val"]))

    @cached_property
    def whole(self) -> Probe:
        """The probe of all labels."""
        return self.probe(np.arange(len(self.y["train"])))

    def scores(self, rows: Array) -> dict[str, Any]:
        """Of the test pictures, once."""
        found = self.whole if len(rows) == len(self.y["train"]) else self.probe(rows)
        logits_NK, truth = found.scores(self.x["test"]), self.y["test"]
        right = logits_NK.argmax(1) == truth
        return {
            "acc": float(right.mean()),
            "auc": macro_auroc(truth, softmax(logits_NK, axis=1)),
            "balanced": balanced_accuracy(truth, logits_NK.argmax(1), logits_NK.shape[1]),
            "l2": found.l2,
            "labelled": len(rows),
            "right": "".join("1" if one else "0" for one in right),
        }

    def foreign(self, other: Array) -> dict[str, dict[str, float]]:
        """AUROC and FPR at 95 % TPR of telling the test pictures of another set apart."""
        train, labels, own = self.x["train"], self.y["train"], self.x["test"]
        probe = self.whole
        scores = {
            "mahalanobis": [mahalanobis_scores(train, labels, x) for x in (own, other)],
            "knn": [normal_knn_scores(train, x) for x in (own, other)],
            "max softmax": [max_softmax_scores(probe.scores(x)) for x in (own, other)],
            "energy": [energy_scores(probe.scores(x)) for x in (own, other)],
        }
        is_other = np.arange(len(own) + len(other)) >= len(own)
        return {
            name: {
                "auroc": auroc(is_other, np.concatenate(found)),
                "fpr95": fpr_at_tpr(found[0], found[1]),
            }
            for name, found in scores.items()
        }


@dataclass(frozen=True)
class Bench:
    """The sets, and how they are pretrained on."""

    paths: tuple[Path, ...]
    out: Path
    samples: int
    batch_size: int = 32

    def work(self, job: Job) -> dict[str, Any]:
        """Pretrain and measure; returns the ledger's row."""
        own = next(one for one in self._sets if one.name == job.set)
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        encoder = self._encoder(job, own)
        pretrain_s = time.process_time() - start_cpu_s
        found = features(encoder, own, own.channels)
        labels = found.y["train"]
        few = {str(share): found.scores(subset(labels, share, job.seed)) for share in SHARES}
        others = [one for one in self._sets if one.name != own.name]
        foreign, moved = {}, {}
        for one in others:
            theirs = features(encoder, one, own.channels)
            foreign[one.name] = found.foreign(theirs.x["test"])
            rows = np.arange(len(theirs.y["train"]))
            moved[one.name] = theirs.scores(rows)
        pretrained = job.arm not in {RANDOM, PIXELS}
        return {
            "samples": self.samples if pretrained else 0,
            "cpu_s": round(pretrain_s, 1),
            "wall_s": round(time.perf_counter() - start_s, 1),
            "shares": few,
            "foreign": foreign,
            "moved": moved,
        }

    @property
    def _sets(self) -> list[Mnist]:
        return [Mnist(path) for path in self.paths]

    def _encoder(self, job: Job, own: Mnist) -> Encoder | None:
        if job.arm == PIXELS:
            return None
        if job.arm == RANDOM:
            seed_everything(job.seed)
            options = {key: value for key, value in ENCODER.items() if key != "name"}
            return build_encoder(str(ENCODER["name"]), options, own.channels)
        run = short_run(
            job.arm,
            steps=max(2, self.samples // self.batch_size),
            batch_size=self.batch_size,
            data=self.out / "catalogs" / own.name,
            out=self.out / "runs" / f"{own.name}_{job.arm}_seed{job.seed}",
            store=self.out / "store",
            encoder=ENCODER["name"],
            channels=own.channels,
            crop=[SIZE_PX, SIZE_PX],
            size_px=SIZE_PX,
            seed=job.seed,
            **{f"encoder.{key}": value for key, value in ENCODER.items() if key != "name"},
        )
        return Frozen.of_run(run.out)[0].encoder

    def index(self) -> None:
        """Catalogs of the training pictures."""
        for one in self._sets:
            catalog = self.out / "catalogs" / one.name
            if not catalog.is_dir():
                pictures = one.write_train(self.out / "pictures" / one.name)
                split = {"train": 1.0, "val": 0.0, "test": 0.0}
                medssl.index(archive=pictures, out=catalog, split=split, quiet=True)


def features(encoder: Encoder | None, one: Mnist, channels: int) -> Features:
    """Of a set with so many channels; val without pictures that are trained on. None = pixels."""
    x, y = {}, {}
    for part in ("train", "val", "test"):
        rows = np.arange(len(one.labels(part)))
        if part == "val":
            rows = one.without_copies("val", "train")
        x_NCHW = prepared(one.images(part, channels)[rows])
        x[part] = _pixels(x_NCHW) if encoder is None else embed(encoder, x_NCHW)
        y[part] = one.labels(part)[rows]
    return Features(x, y)


def _pixels(x_NCHW: Tensor) -> Array:
    """Grey levels of a smaller picture, as in the other tables."""
    small = torch.nn.functional.adaptive_avg_pool2d(x_NCHW, PIXEL_GRID["image"][1:])
    return np.asarray(small.flatten(1).numpy())


def prepared(x_NCHW: Array) -> Tensor:
    """As the store has them, so that the encoder sees what it was trained on."""
    contract = Contract(size_px=SIZE_PX)
    geometry = Geometry(kind="image")
    found = [prepare(x, geometry, "unknown", contract).array[:, 0] for x in x_NCHW]
    return torch.from_numpy(np.stack(found).astype(np.float32))


def plan(names: Sequence[str], objectives: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """Seed by seed; pixels have nothing to draw, but the labels are drawn anew."""
    arms = (PIXELS, RANDOM, *objectives)
    return [Job(name, arm, seed) for seed in seeds for name in names for arm in arms]
