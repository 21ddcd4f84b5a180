"""From records or labelled cases to the store, and from the store to views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from torch.utils.data import Dataset, default_collate

from medssl.core.errors import BudgetExceededError, ConfigError, ReadError
from medssl.core.geometry import cut_axis
from medssl.core.seeding import generator
from medssl.core.viewspec import ViewSpec
from medssl.encoders._base import Encoder
from medssl.stages._sources import StoredRecords
from medssl.training.data import record_at
from medssl.views.pairs import Matcher
from medssl.views.sample import build_sample

# Largest automatic crop edge of a volume and of a picture.
MAX_AUTO_CROP, MAX_AUTO_CROP_PX = 96, 224
# Of a clip: frames, and the edges of each.
MAX_AUTO_CLIP = (16, 112, 112)
# Steps that a crop may grow to fit the encoder.
_LARGER = 8
# Replacements tried for one sample before the run stops.
_REPLACEMENTS = 5


class ViewDataset(Dataset[dict[str, Any]]):
    """Samples by global position; a damaged volume is replaced by the next one and counted.

    ``targets`` are the classes of the records, where whole ones have one. ``matcher`` finds the
    landmarks of partners of other patients.
    """

    def __init__(
        self,
        records: StoredRecords,
        spec: ViewSpec,
        seed: int,
        *,
        targets: Sequence[int] | None = None,
        matcher: Matcher | None = None,
    ) -> None:
        self.records, self.spec, self.seed = records, spec, seed
        self.targets, self.matcher = targets, matcher

    def __getitem__(self, position: int) -> dict[str, Any]:
        place = record_at(self.seed, position, len(self.records))
        return self.sample(place, generator(self.seed, "view", position))

    def whole_pass(self, batch_size: int) -> Iterator[dict[str, Any]]:
        """Batches with every record once, in order; the same at whatever step, on every rank.

        A damaged record is replaced by the next readable one.
        """
        for first in range(0, len(self.records), batch_size):
            numbers = range(first, min(first + batch_size, len(self.records)))
            yield default_collate([self.in_pass(number) for number in numbers])

    def in_pass(self, number: int) -> dict[str, Any]:
        """A record as :meth:`whole_pass` gives it."""
        return self.sample(number, generator(self.seed, "pass", number))

    def sample(self, number: int, rng: np.random.Generator) -> dict[str, Any]:
        """The sample of a record, or of the next readable one.

        Each of them has draws of its own: what is damaged may have been a partner.

        Raises:
            BudgetExceededError: several in a row are damaged, or their partners are.
        """
        for attempt in range(_REPLACEMENTS):
            record = (number + attempt) % len(self.records)
            try:
                sample = build_sample(self.spec, rng, self.records, record, self.matcher)
            except ReadError:
                continue
            target = {} if self.targets is None else {"target": self.targets[record]}
            return {**sample, "replaced": float(attempt > 0), **target}
        what = f"{_REPLACEMENTS} records in a row could not be read from the store"
        raise BudgetExceededError(what, fix="delete the store folder; it will be rebuilt")


class Shaped(Protocol):
    """What decides a crop: a stored record, or one that will be."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, D, H, W); D = 1 for a picture, and counts the frames of a clip."""

    @property
    def spacing_mm(self) -> tuple[float, ...] | None:
        """(D, H, W), or (H, W) of a picture or clip; ``None`` = unknown."""


def auto_crop(
    entries: Sequence[Shaped], encoder: Encoder, tiles: tuple[int, ...] = ()
) -> tuple[int, ...]:
    """The median record rounded up to what the encoder takes, at most ``MAX_AUTO_CROP`` voxels.

    For an image encoder (H, W) of pictures, slices and frames, at most ``MAX_AUTO_CROP_PX`` pixels;
    for an encoder of clips (T, H, W), at most ``MAX_AUTO_CLIP``. Along an axis of several ``tiles``
    so many crops lie in the median record side by side: it is rounded down.
    """
    flat = len(encoder.token_size) == 2
    shapes = [_slice_shape(entry) if flat else entry.shape[1:] for entry in entries]
    caps = {"image": (MAX_AUTO_CROP_PX,) * 2, "volume": (MAX_AUTO_CROP,) * 3, "clip": MAX_AUTO_CLIP}
    sides = []
    for axis, multiple in enumerate(encoder.size_multiple):
        median = sorted(shape[axis] for shape in shapes)[len(shapes) // 2]
        cap = max(caps[encoder.kind][axis] // multiple, 1) * multiple
        count = tiles[axis] if tiles else 1
        steps = -(-median // multiple) if count == 1 else max(median // count // multiple, 1)
        sides.append(min(steps * multiple, cap))
    return accepted(tuple(sides), encoder)


def accepted(crop: tuple[int, ...], encoder: Encoder) -> tuple[int, ...]:
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
