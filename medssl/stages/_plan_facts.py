"""What a plan is made from: a catalog as a few numbers, and the machine. No pixel is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from medssl.core.clips import frame_shape
from medssl.core.geometry import Reorientation, spacing_of
from medssl.core.preprocess import Contract, picture_shape, target_shape
from medssl.core.sample import Record
from medssl.stages._machine import cpu_has_bf16, machine

# Shares of the sorted values that stand for the smallest and the largest: outliers do not decide.
_LOW, _HIGH = 10, 90


class Grid(NamedTuple):
    """A record as the store will hold it."""

    shape: tuple[int, ...]
    """(C, D, H, W); D = 1 for a picture; (C, T, H, W) of a clip."""
    spacing_mm: tuple[float, ...] | None

    @property
    def values(self) -> int:
        return int(np.prod(self.shape))


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The fingerprint of the records of the commoner kind.

    Attributes:
        kind: volumes, or pictures or clips where there are more of those.
        counts: records by kind.
        channels: of most records; ``mixed`` = others have another number.
        shape: median, (D, H, W) in RAS+ order, D = 1 for pictures; (T, H, W) of clips.
        spacing_mm: median (D, H, W) of volumes.
        spread: along the axis where it differs most, large to small spacing (90th to 10th
            percentile).
        thickness: largest to smallest spacing of a volume, median.
        slices: voxels across the largest spacing, median.
        side_px: shorter side of a picture or frame: small, median, large.
    """

    kind: Literal["volume", "image", "clip"]
    counts: dict[str, int]
    patients: int
    modalities: dict[str, int]
    channels: int
    mixed: bool
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...] | None
    spread: float
    thickness: float
    slices: int
    side_px: tuple[int, int, int]

    @property
    def records(self) -> int:
        return self.counts[self.kind]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the training may use; ``gpu_bytes`` is 0 without a GPU."""

    cpus: int
    memory_bytes: int
    disk_bytes: int | None
    bf16: bool
    gpu: str = ""
    gpu_bytes: int = 0

    @property
    def device_bytes(self) -> int:
        """Memory that a step has to fit in."""
        return self.gpu_bytes or self.memory_bytes


def this_machine(folder: Path) -> Machine:
    """Of this process; the disk is that of ``folder``."""
    found = machine(folder)
    rest: dict[str, Any] = {"bf16": cpu_has_bf16()}
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        rest = {"gpu": card.name, "gpu_bytes": card.total_memory, "bf16": bf16}
    return Machine(
        cpus=found["cpus"],
        memory_bytes=found["memory_bytes"],
        disk_bytes=found["disk_free_bytes"],
        **rest,
    )


def candidates(records: Sequence[Record], splits: Sequence[str]) -> list[Record]:
    """Records that some encoder can learn from."""
    return [
        one
        for one in records
        if one.role == "image"
        and one.split in splits
        and (one.kind != "volume" or one.affine is not None)
        and (one.kind != "clip" or one.duration_s is not None)
    ]


def fingerprint(records: Sequence[Record]) -> Facts:
    """The facts of candidates, of which there is at least one."""
    counts = Counter(one.kind for one in records)
    kinds: tuple[Literal["volume", "image", "clip"], ...] = ("volume", "image", "clip")
    kind = max(kinds, key=lambda name: counts[name])
    own = [one for one in records if one.kind == kind]
    channels = Counter(one.shape[0] for one in own)
    grids = [prepared_grid(one, Contract()) for one in own]
    shapes = np.array([grid.shape[1:] for grid in grids])
    sides = np.percentile(shapes[:, 1:].min(1), [_LOW, 50, _HIGH])
    spacings = np.array([g.spacing_mm for g in grids]) if kind == "volume" else np.ones((1, 3))
    low, high = np.percentile(spacings, [_LOW, _HIGH], axis=0)
    across = spacings.argmax(1)
    return Facts(
        kind=kind,
        counts={name: n for name, n in counts.items() if n},
        patients=len({one.patient_id for one in own}),
        modalities=dict(Counter(one.modality for one in own).most_common()),
        channels=channels.most_common(1)[0][0],
        mixed=len(channels) > 1,
        shape=_whole(np.median(shapes, axis=0)),
        spacing_mm=tuple(np.median(spacings, axis=0).tolist()) if kind == "volume" else None,
        spread=float((high / low).max()),
        thickness=float(np.median(spacings.max(1) / spacings.min(1))),
        slices=int(np.median(np.take_along_axis(shapes, across[:, None], 1))),
        side_px=(round(sides[0]), round(sides[1]), round(sides[2])),
    )


def prepared_grid(record: Record, contract: Contract) -> Grid:
    """The grid that :func:`medssl.core.preprocess.prepare` gives a record, from its header."""
    channels = record.shape[0]
    if record.kind == "clip":
        frames, *shape = record.shape[1:]
        if contract.fps is not None and record.duration_s is not None:
            frames = min(frames, round(record.duration_s * contract.fps) + 1)
        small_HW = frame_shape((shape[0], shape[1]), contract.short_side_px)
        return Grid((contract.picture_channels or channels, frames, *small_HW), None)
    if record.kind == "image":
        if contract.picture_channels:
            channels = contract.picture_channels
        old_HW = (record.shape[1], record.shape[2])
        new_HW = picture_shape(old_HW, record.spacing_mm, contract)
        return Grid((channels, 1, *new_HW), record.spacing_mm)
    affine = np.array(record.affine).reshape(4, 4)
    turn = Reorientation.to_ras(affine)
    turned = tuple(record.shape[1:][axis] for axis in turn.order)
    spacing_mm = spacing_of(turn.affine(affine, record.shape[1:]))
    new = target_shape(turned, spacing_mm, contract.spacing_mm)
    return Grid((channels, *new), contract.spacing_mm or spacing_mm)


def _whole(values: Any) -> tuple[int, ...]:
    return tuple(round(value) for value in values.tolist())
