"""From records or labelled cases to the store, and from the store to views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch.utils.data import Dataset, default_collate

from medssl.archive.store import Entry, Store
from medssl.core.errors import BudgetExceededError, ReadError
from medssl.core.seeding import generator
from medssl.core.viewspec import ViewSpec
from medssl.training.data import record_at
from medssl.views.build import Source, build_views

# Records that a worker process prepares before it reports; fewer run in this process.
STORE_CHUNK = 8
# Replacements tried for one sample before the run stops.
_REPLACEMENTS = 5


class ViewDataset(Dataset[dict[str, Any]]):
    """Views by global position; a damaged volume is replaced by the next one and counted."""

    def __init__(self, store: Store, entries: Sequence[Entry], spec: ViewSpec, seed: int) -> None:
        self.store, self.entries, self.spec, self.seed = store, list(entries), spec, seed

    def __getitem__(self, position: int) -> dict[str, Any]:
        place = record_at(self.seed, position, len(self.entries))
        return self._sample(place, generator(self.seed, "view", position))

    def whole_pass(self, batch_size: int) -> Iterator[dict[str, Any]]:
        """Batches with every record once, in order; the same at whatever step, on every rank.

        A damaged record is replaced by the next readable one.
        """
        for first in range(0, len(self.entries), batch_size):
            numbers = range(first, min(first + batch_size, len(self.entries)))
            yield default_collate(
                [self._sample(number, generator(self.seed, "pass", number)) for number in numbers]
            )

    def _sample(self, number: int, rng: np.random.Generator) -> dict[str, Any]:
        state = rng.bit_generator.state
        for attempt in range(_REPLACEMENTS):
            rng.bit_generator.state = state
            record = (number + attempt) % len(self.entries)
            try:
                views = self._views(self.entries[record], rng)
            except ReadError:
                continue
            return {"views": views, "record": record, "replaced": float(attempt > 0)}
        what = f"{_REPLACEMENTS} records in a row could not be read from the store"
        raise BudgetExceededError(what, fix="delete the store folder; it will be rebuilt")

    def _views(self, entry: Entry, rng: np.random.Generator) -> list[dict[str, Any]]:
        source = Source(
            read=partial(self.store.read, entry.key),
            shape_DHW=entry.shape[1:],
            spacing_mm=_spacing(entry),
            air=entry.air,
            fill=entry.fill,
            modality=entry.modality,
            read_labels=partial(self._labels, entry.key) if entry.labelled else None,
            foreground=entry.foreground,
        )
        return build_views(self.spec, rng, source)

    def _labels(self, key: str, start: tuple[int, ...], stop: tuple[int, ...]) -> Any:
        return self.store.read_labels(key, start, stop)[None]


def _spacing(entry: Entry) -> tuple[float, ...]:
    """Of three axes; pixels of unknown size are taken as square, so lengths are in pixels."""
    if entry.spacing_mm is None:
        return 1.0, 1.0, 1.0
    return entry.spacing_mm if len(entry.spacing_mm) == 3 else (1.0, *entry.spacing_mm)
