"""From records or labelled cases to the store, and from the store to views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
from torch.utils.data import Dataset, default_collate

from medssl.archive.store import Entry, Store
from medssl.core.errors import BudgetExceededError, ConfigError, ReadError
from medssl.core.geometry import cut_axis
from medssl.core.seeding import generator
from medssl.core.viewspec import ViewSpec
from medssl.encoders._base import Encoder
from medssl.training.data import record_at
from medssl.views.build import Source, build_views

# Largest automatic crop edge of a volume and of a picture.
MAX_AUTO_CROP, MAX_AUTO_CROP_PX = 96, 224
# Steps that a crop may grow to fit the encoder.
_LARGER = 8
# Replacements tried for one sample before the run stops.
_REPLACEMENTS = 5


class ViewDataset(Dataset[dict[str, Any]]):
    """Views by global position; a damaged volume is replaced by the next one and counted.

    ``targets`` are the classes of the entries, where whole records have one.
    """

    def __init__(
        self,
        store: Store,
        entries: Sequence[Entry],
        spec: ViewSpec,
        seed: int,
        targets: Sequence[int] | None = None,
    ) -> None:
        self.store, self.entries, self.spec, self.seed = store, list(entries), spec, seed
        self.targets = targets

    def __getitem__(self, position: int) -> dict[str, Any]:
        place = record_at(self.seed, position, len(self.entries))
        return self._sample(place, generator(self.seed, "view", position))

    def whole_pass(self, batch_size: int) -> Iterator[dict[str, Any]]:
        """Batches with every record once, in order; the same at whatever step, on every rank.

        A damaged record is replaced by the next readable one.
        """
        for first in range(0, len(self.entries), batch_size):
            numbers = range(first, min(first + batch_size, len(self.entries)))
            yield default_collate([self.in_pass(number) for number in numbers])

    def in_pass(self, number: int) -> dict[str, Any]:
        """A record as :meth:`whole_pass` gives it."""
        return self._sample(number, generator(self.seed, "pass", number))

    def window_hu(self, entry: Entry) -> tuple[float, float] | None:
        """HU that were stored as 0 and 1; ``None`` = the values are no HU."""
        rule = self.store.contract.rule(entry.modality)
        return (rule.low, rule.high) if rule.kind == "window" else None

    def _sample(self, number: int, rng: np.random.Generator) -> dict[str, Any]:
        state = rng.bit_generator.state
        for attempt in range(_REPLACEMENTS):
            rng.bit_generator.state = state
            record = (number + attempt) % len(self.entries)
            try:
                views = self._views(self.entries[record], rng)
            except ReadError:
                continue
            target = {} if self.targets is None else {"target": self.targets[record]}
            return {"views": views, "record": record, "replaced": float(attempt > 0), **target}
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
            window_hu=self.window_hu(entry),
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


class Shaped(Protocol):
    """What decides a crop: a stored record, or one that will be."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, D, H, W); D = 1 for a picture."""

    @property
    def spacing_mm(self) -> tuple[float, ...] | None:
        """(D, H, W), or (H, W) of a picture; ``None`` = unknown."""


def auto_crop(entries: Sequence[Shaped], encoder: Encoder) -> tuple[int, ...]:
    """The median record rounded up to what the encoder takes, at most ``MAX_AUTO_CROP`` voxels.

    For an image encoder (H, W) of pictures and slices, at most ``MAX_AUTO_CROP_PX`` pixels.
    """
    flat = len(encoder.token_size) == 2
    shapes = [_slice_shape(entry) if flat else entry.shape[1:] for entry in entries]
    largest = MAX_AUTO_CROP_PX if flat else MAX_AUTO_CROP
    sides = []
    for axis, multiple in enumerate(encoder.size_multiple):
        median = sorted(shape[axis] for shape in shapes)[len(shapes) // 2]
        cap = max(largest // multiple, 1) * multiple
        sides.append(min(-(-median // multiple) * multiple, cap))
    return _accepted(tuple(sides), encoder)


def _accepted(crop: tuple[int, ...], encoder: Encoder) -> tuple[int, ...]:
    """The crop, or a larger one where the encoder needs it: small pictures are padded."""
    for more in range(_LARGER):
        larger = tuple(s + more * m for s, m in zip(crop, encoder.size_multiple, strict=True))
        try:
            encoder.check_size(larger)
        except ConfigError:
            continue
        return larger
    return crop


def _slice_shape(entry: Shaped) -> tuple[int, ...]:
    cut = cut_axis("acquired", entry.shape[1:], entry.spacing_mm)
    return tuple(side for axis, side in enumerate(entry.shape[1:]) if axis != cut)
