"""Order of samples as a pure function of (seed, position): resume and ranks see the same.

Position g = step * global_batch + i. Each pass over the records is a fresh permutation.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from medssl.core.seeding import generator


def record_at(seed: int, position: int, records: int) -> int:
    """Index of the record at a global position.

    >>> sorted(record_at(0, g, 5) for g in range(5))
    [0, 1, 2, 3, 4]
    """
    epoch, place = divmod(position, records)
    return int(_permutation(seed, epoch, records)[place])


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, records: int) -> npt.NDArray[np.int64]:
    return generator(seed, "order", epoch).permutation(records)


class StepSampler(Sampler[list[int]]):
    """Batches of global positions for one rank: micro-batches of steps ``start`` to ``steps``."""

    def __init__(
        self, start: int, steps: int, batch_size: int, accumulate: int, rank: int, world: int
    ) -> None:
        self.start, self.steps = start, steps
        self.batch_size, self.accumulate = batch_size, accumulate
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return (self.steps - self.start) * self.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        micro = self.batch_size // self.accumulate
        share = micro // self.world
        for step in range(self.start, self.steps):
            for part in range(self.accumulate):
                first = step * self.batch_size + part * micro + self.rank * share
                yield list(range(first, first + share))


def loader(
    dataset: Dataset[dict[str, Any]], sampler: StepSampler, *, workers: int, pin: bool
) -> DataLoader[dict[str, Any]]:
    """Batches in the sampler's order; workers are spawned, so no lock is shared over a fork."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        pin_memory=pin,
        persistent_workers=False,
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=_start_worker if workers else None,
        prefetch_factor=4 if workers else None,
    )


def _start_worker(_worker: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
