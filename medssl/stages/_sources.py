"""The records of a run as the views see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.archive.store import Entry, Store
from medssl.views.source import Source


@dataclass(frozen=True)
class StoredRecords:
    """Records of a store, by number.

    Attributes:
        owners: number of each record's patient; ``None`` = each record counts as a patient.
        of_study: number of each record's study; ``None`` = each record is a study.
    """

    store: Store
    entries: Sequence[Entry]
    owners: Sequence[int] | None = None
    of_study: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def patients(self) -> npt.NDArray[np.int64]:
        """See :class:`medssl.views.pairs.Sources`."""
        owners = range(len(self)) if self.owners is None else self.owners
        return np.array(owners, dtype=np.int64)

    @cached_property
    def pictures(self) -> npt.NDArray[np.bool_]:
        """See :class:`medssl.views.pairs.Sources`."""
        return np.array([entry.kind == "image" for entry in self.entries])

    @cached_property
    def clips(self) -> npt.NDArray[np.bool_]:
        """See :class:`medssl.views.pairs.Sources`."""
        return np.array([entry.kind == "clip" for entry in self.entries])

    @cached_property
    def studies(self) -> npt.NDArray[np.int64]:
        """See :class:`medssl.views.pairs.Sources`."""
        return np.array(range(len(self)) if self.of_study is None else self.of_study)

    def source(self, record: int) -> Source:
        """See :class:`medssl.views.pairs.Sources`."""
        entry = self.entries[record]
        return Source(
            read=partial(self.store.read, entry.key),
            shape_DHW=entry.shape[1:],
            spacing_mm=_spacing(entry),
            air=entry.air,
            fill=entry.fill,
            modality=entry.modality,
            window_hu=self.window_hu(entry),
            read_labels=partial(self._labels, entry.key) if entry.labelled else None,
            foreground=entry.foreground,
            tissue=entry.tissue,
            kind=entry.kind,
            times_s=entry.times_s,
            shots=entry.shots,
        )

    def window_hu(self, entry: Entry) -> tuple[float, float] | None:
        """HU that were stored as 0 and 1; ``None`` = the values are no HU."""
        rule = self.store.contract.rule(entry.modality)
        return (rule.low, rule.high) if rule.kind == "window" else None

    def _labels(self, key: str, start: tuple[int, ...], stop: tuple[int, ...]) -> Any:
        return self.store.read_labels(key, start, stop)[None]


def _spacing(entry: Entry) -> tuple[float, ...]:
    """Of three axes; pixels of unknown size are taken as square, so lengths are in pixels."""
    if entry.spacing_mm is None:
        return 1.0, 1.0, 1.0
    return entry.spacing_mm if len(entry.spacing_mm) == 3 else (1.0, *entry.spacing_mm)
