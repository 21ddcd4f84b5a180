"""Three sets with a measure of frozen features each: what to pretrain on, and how to score."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

import medssl
from medssl.archive.labelled import load_labelled, read_case
from medssl.core.geometry import Geometry
from medssl.core.preprocess import Contract, prepare, prepare_labels
from medssl.core.seeding import generator
from medssl.encoders._base import Encoder
from medssl.evaluation.dense import DenseProbe
from medssl.evaluation.knn import knn_predict
from medssl.evaluation.segmentation import dice
from pipelines._bench_frozen import embed, pad_to
from pipelines._msd import link_cases, read_split, runs_of_numbers

Array = npt.NDArray[Any]


def write_pictures(pictures: Iterable[Any], folder: Path) -> Path:
    """Arrays as numbered PNG files; those that are there stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        file = folder / f"{number:05d}.png"
        if not file.exists():
            Image.fromarray(picture).save(file)
    return folder


@dataclass(frozen=True)
class Score:
    """One value per test case; groups are resampled together."""

    values: list[float]
    groups: list[str]


class Set(Protocol):
    """A data set of the table."""

    @property
    def name(self) -> str: ...
    @property
    def data(self) -> Path: ...
    @property
    def measure(self) -> str: ...
    @property
    def modality(self) -> str: ...
    @property
    def channels(self) -> int: ...
    @property
    def size(self) -> tuple[int, ...]: ...

    def train_folder(self, out: Path) -> Path:
        """Folder of the training images, without labels."""

    def score(self, encoder: Encoder, seed: int) -> Score:
        """Score frozen features; ``seed`` draws the labelled cases."""


@dataclass(frozen=True)
class Hippocampus:
    """MR crops: Dice of a linear voxel classifier, five labelled volumes."""

    data: Path
    labelled: int = 5
    tested: int | None = None
    name: str = "hippocampus"
    measure: str = "Dice (mean of 2 labels) of a linear probe on all levels, 5 labelled volumes"
    modality: str = "MR"
    channels: int = 1
    size: tuple[int, ...] = (32, 48, 32)

    def train_folder(self, out: Path) -> Path:
        train, _ = read_split(self.data)
        return link_cases(self.data, out, train) / "imagesTr"

    @cached_property
    def _volumes(self) -> dict[str, tuple[Tensor, Array]]:
        labelled = load_labelled(self.data)
        contract = Contract()
        volumes = {}
        for case in labelled.cases:
            array, geometry, label = read_case(case, labelled)
            assert label is not None
            x = prepare(array, geometry, "MR", contract).array.astype(np.float32)
            volumes[case.name] = (
                torch.from_numpy(x),
                prepare_labels(label.labels_DHW, geometry, contract),
            )
        return volumes

    def score(self, encoder: Encoder, seed: int) -> Score:
        train, test = read_split(self.data)
        test = test[: self.tested]
        runs = runs_of_numbers(train)
        rng = generator(seed, "labelled cases")
        starts = [sorted(runs)[i] for i in rng.permutation(len(runs))[: self.labelled]]
        probe = DenseProbe(encoder, 3)
        padded = {name: _padded(*self._volumes[name], encoder) for name in (*starts, *test)}
        probe.fit([padded[n][0] for n in starts], [padded[n][1] for n in starts], seed)
        groups = {case: run for run, cases in runs_of_numbers(test).items() for case in cases}
        values = []
        for name in test:
            x, label = padded[name]
            found = probe.predict(x)
            values.append(float(np.mean([dice(found == k, label == k) for k in (1, 2)])))
        return Score(values, [groups[name] for name in test])


@dataclass(frozen=True)
class Polyps:
    """Colonoscopy pictures: Dice of a linear pixel classifier, ten labelled pictures."""

    data: Path
    labelled: int = 10
    name: str = "polyps"
    measure: str = "Dice of a linear probe on all levels, 10 labelled pictures"
    modality: str = "ES"
    channels: int = 3
    size: tuple[int, ...] = (64, 64)

    def train_folder(self, out: Path) -> Path:
        train, _ = self.split
        out.mkdir(parents=True, exist_ok=True)
        for name in (name for names in train.values() for name in names):
            link = out / name
            if not link.exists():
                link.symlink_to((self.data / "images" / name).resolve())
        return out

    @cached_property
    def split(self) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Training and test pictures by group of look-alikes; a quarter of groups is tested."""
        groups = lookalikes(self.data / "images")
        names = sorted(groups)
        test = {names[i] for i in generator(0, "polyps").permutation(len(names))[::4]}
        parts = ({n: groups[n] for n in names if n not in test}, {n: groups[n] for n in test})
        return parts[0], dict(sorted(parts[1].items()))

    def _read(self, name: str) -> tuple[Tensor, Array]:
        image = medssl.read(self.data / "images" / name)
        mask_HW = np.asarray(Image.open(self.data / "masks" / name).convert("L")) > 127
        contract = Contract(size_px=self.size[0])
        x = prepare(image.array, image.geometry, self.modality, contract).array[:, 0]
        mask = prepare_labels(mask_HW[None].astype(np.uint8), image.geometry, contract)
        return torch.from_numpy(x.astype(np.float32)), mask[0]

    @cached_property
    def _pictures(self) -> dict[str, tuple[Tensor, Array]]:
        train, test = self.split
        return {
            name: self._read(name) for part in (train, test) for g in part.values() for name in g
        }

    def score(self, encoder: Encoder, seed: int) -> Score:
        train, test = self.split
        rng = generator(seed, "labelled cases")
        chosen = [sorted(train)[i] for i in rng.permutation(len(train))[: self.labelled]]
        probe = DenseProbe(encoder, 2)
        pairs = [_padded(*self._pictures[name], encoder) for name in chosen]
        probe.fit([x for x, _ in pairs], [mask for _, mask in pairs], seed)
        values, groups = [], []
        for group, names in test.items():
            for name in names:
                x, mask = _padded(*self._pictures[name], encoder)
                values.append(dice(probe.predict(x) == 1, mask == 1))
                groups.append(group)
        return Score(values, groups)


@dataclass(frozen=True)
class Pneumonia:
    """Chest radiographs of 28 x 28 pixels: AUROC of the nearest neighbours."""

    data: Path
    name: str = "pneumoniamnist"
    measure: str = "AUROC of 20 nearest neighbours among all training images"
    modality: str = "CR"
    channels: int = 1
    size: tuple[int, ...] = (32, 32)

    @cached_property
    def _arrays(self) -> Any:
        return np.load(self.data / "data" / "pneumoniamnist.npz")

    def train_folder(self, out: Path) -> Path:
        return write_pictures(self._arrays["train_images"], out)

    def _prepared(self, part: str) -> Tensor:
        contract = Contract(size_px=self.size[0])
        prepared = [
            prepare(x[None], Geometry(kind="image"), self.modality, contract).array[:, 0]
            for x in self._arrays[f"{part}_images"]
        ]
        return torch.from_numpy(np.stack(prepared).astype(np.float32))

    def score(self, encoder: Encoder, seed: int) -> Score:  # noqa: ARG002 - all labels are used
        bank, query = (embed(encoder, self._prepared(part)) for part in ("train", "test"))
        labels, truth = (self._arrays[f"{part}_labels"].ravel() for part in ("train", "test"))
        sick = knn_predict(bank, labels, query, k=20, temperature=0.07)[:, 1]
        return Score(auroc_components(sick, truth), [str(i) for i in range(len(truth))])


def auroc_components(scores: Array, truth: Array) -> list[float]:
    """One value per case whose mean is the AUROC and whose spread gives its variance.

    Source: DeLong et al. 1988: the components V10 and V01, scaled to one sum over all cases.
    """
    higher = (scores[:, None] > scores) + 0.5 * (scores[:, None] == scores)
    below_N = higher[:, truth == 0].mean(1)  # for a sick case: healthy ones below it
    above_N = 1 - higher[:, truth == 1].mean(1)  # for a healthy case: sick ones above it
    value_N = np.where(truth == 1, below_N, above_N)
    auroc = float(value_N[truth == 1].mean())
    share_N = np.where(truth == 1, (truth == 1).mean(), (truth == 0).mean())
    return list((auroc + (value_N - auroc) / share_N).astype(float))


def lookalikes(folder: Path) -> dict[str, list[str]]:
    """Pictures by group: 16 x 16 grey thumbnails that correlate above 0.95 stay together."""
    names = sorted(path.name for path in folder.glob("*.jpg"))
    small = [np.asarray(Image.open(folder / n).convert("L").resize((16, 16), _AREA)) for n in names]
    close = np.corrcoef(np.stack(small).reshape(len(names), -1).astype(float)) > 0.95
    first = list(range(len(names)))
    for i, j in np.argwhere(np.triu(close, 1)):
        old, new = first[j], first[i]
        first = [new if f == old else f for f in first]
    groups: dict[str, list[str]] = {}
    for name, f in zip(names, first, strict=True):
        groups.setdefault(names[f], []).append(name)
    return groups


def sets(data: Path) -> Iterator[Set]:
    """Those of the sets that lie below ``data``."""
    found: tuple[Set, ...] = (
        Hippocampus(data / "hippocampus"),
        Polyps(data / "polyps"),
        Pneumonia(data / "pneumoniamnist"),
    )
    yield from (one for one in found if one.data.is_dir())


def _padded(x: Tensor, label: Array, encoder: Encoder) -> tuple[Tensor, Array]:
    y = pad_to(torch.from_numpy(label.astype(np.float32))[None], encoder.size_multiple)
    return pad_to(x, encoder.size_multiple), y[0].numpy().astype(np.uint8)


_AREA = Image.Resampling.BOX
