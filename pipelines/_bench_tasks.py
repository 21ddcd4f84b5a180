"""Objectives on synthetic records, for pipelines that time or check them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import default_collate

from medssl.core.registry import OBJECTIVES
from medssl.core.seeding import generator, seed_everything
from medssl.core.task import Batch
from medssl.core.taskmodule import TaskModule
from medssl.core.viewspec import Setting, ViewSpec
from medssl.encoders._base import build_encoder
from medssl.views.matching import BodyMatcher
from medssl.views.sample import build_sample
from medssl.views.source import Source

# Voxels around the crop from which views are cut.
_MARGIN = 8
# Of a volume whose slices an image encoder sees.
_SLICES = 16


@dataclass(frozen=True)
class Case:
    """An encoder, its options, the size of a view and samples per batch."""

    encoder: str
    crop: tuple[int, ...]
    batch: int
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.encoder}, {self.batch} x {'x'.join(map(str, self.crop))}"


def make_task(objective: str, case: Case) -> TaskModule:
    """The objective with its defaults, ready for its first step.

    Raises:
        ConfigError: the objective refuses the encoder.
    """
    seed_everything(0)
    module, _ = OBJECTIVES.module(objective)
    encoder = build_encoder(case.encoder, dict(case.options), 1)
    setting = Setting(crop=case.crop, records=4 * case.batch, kind=encoder.kind)
    task: TaskModule = module.Objective(encoder, module.Config(), setting)
    if task.prepare_at(0):
        task.prepare(partial(_passes, task, case))
    return task


def make_batch(task: Any, case: Case, first: int = 0) -> dict[str, Any]:
    """The views that the task asks for, of records ``first`` onward: smooth noise with air."""
    spec: ViewSpec = task.views()
    records = _Records(case, flat=not (spec.partitions or spec.stack), clip=spec.clip is not None)
    matcher = BodyMatcher(spec, records)
    samples = [
        build_sample(spec, generator(0, "view", n), records, n, matcher)
        for n in range(first, first + case.batch)
    ]
    batch: dict[str, Any] = default_collate(samples)
    return batch


def moved(batch: Any, device: str) -> Any:
    """A batch with its tensors on a device."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: moved(value, device) for key, value in batch.items()}
    return [moved(value, device) for value in batch]


def train_step(task: TaskModule, batch: Batch) -> None:
    """Forward, backward and what the objective does after an update; no optimiser."""
    torch.autograd.backward(task.step(batch).loss)
    task.before_update(0.5)
    task.zero_grad(set_to_none=True)
    task.after_update(0.5)


def _passes(task: TaskModule, case: Case) -> Iterator[Batch]:
    for first in range(0, 4 * case.batch, case.batch):
        yield make_batch(task, case, first)


@dataclass(frozen=True)
class _Records:
    """Records of a case: of two patients in turn, slices of volumes where they are not ``flat``."""

    case: Case
    flat: bool
    clip: bool

    @property
    def patients(self) -> npt.NDArray[np.int64]:
        return np.arange(4 * self.case.batch) % 2

    @property
    def pictures(self) -> npt.NDArray[np.bool_]:
        return np.full(4 * self.case.batch, self.flat and len(self.case.crop) == 2)

    @property
    def clips(self) -> npt.NDArray[np.bool_]:
        return np.full(4 * self.case.batch, self.clip)

    @property
    def studies(self) -> npt.NDArray[np.int64]:
        return np.arange(4 * self.case.batch)

    def source(self, record: int) -> Source:
        shape = tuple(side + _MARGIN for side in self.case.crop)
        if len(shape) == 2:
            shape = (1 if self.flat else _SLICES, *shape)
        return _record(record, shape, clip=self.clip)


def _record(number: int, shape: tuple[int, ...], *, clip: bool) -> Source:
    rng = generator(number, "record")
    coarse = rng.standard_normal([side // 4 + 1 for side in shape]).astype(np.float32)
    x = coarse
    for axis, side in enumerate(shape):
        x = np.repeat(x, 4, axis).take(range(side), axis)
    x = np.where(x > -1.5, x + 0.1 * rng.standard_normal(shape), -2).astype(np.float32)[None]

    def read(start: tuple[int, ...], stop: tuple[int, ...]) -> Any:
        d, h, w = (slice(a, b) for a, b in zip(start, stop, strict=True))
        return x[:, d, h, w]

    frames = shape[0]
    time: dict[str, Any] = {"times_s": np.arange(frames) / 25, "shots": np.array([[0, frames]])}
    return Source(
        read=read, shape_DHW=shape, spacing_mm=(1.0, 1.0, 1.0), air=(-1.9,), fill=(-2.0,),
        modality="MR", **({"kind": "clip", **time} if clip else {}),
    )  # fmt: skip
