"""Samples of a step in the style of one of them: see :mod:`medssl.views.style`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medssl.core.seeding import generator
from medssl.core.viewspec import Share, ViewSpec
from medssl.stages._data import ViewDataset
from medssl.stages._sources import StoredRecords
from medssl.views.pairs import Matcher
from medssl.views.style import restyle

# Share of the spectrum, and the view whose style is taken, by view index.
_Styles = list[tuple[float, Mapping[str, Any]]]
# Stands for whole-data passes, whose records all get one style whatever the step.
_PASS = -1


class StyledDataset(ViewDataset):
    """Views that share the low frequencies of one sample of their step, per view index.

    The reference is a function of (seed, step, view index), and every process makes it for
    itself: ranks, workers and resumed runs see the same style. Views of partners have indices, and
    styles, of their own.
    """

    def __init__(
        self,
        records: StoredRecords,
        spec: ViewSpec,
        seed: int,
        batch_size: int,
        matcher: Matcher | None = None,
    ) -> None:
        super().__init__(records, spec, seed, matcher=matcher)
        assert spec.style is not None
        self.style: Share = spec.style
        self.batch_size = batch_size
        self._known: tuple[int, _Styles] | None = None

    def __getitem__(self, position: int) -> dict[str, Any]:
        return self._styled(super().__getitem__(position), position // self.batch_size)

    def in_pass(self, number: int) -> dict[str, Any]:
        """As the base class, all records in one style."""
        return self._styled(super().in_pass(number), _PASS)

    def _styled(self, sample: dict[str, Any], step: int) -> dict[str, Any]:
        if self._known is None or self._known[0] != step:
            self._known = step, self._styles(step)
        # The mean of a CT is its HU level: it means something and stays.
        copy_mean = self.records.window_hu(self.records.entries[sample["record"]]) is None
        views = [
            restyle(view, reference, share, copy_mean=copy_mean)
            for view, (share, reference) in zip(sample["views"], self._known[1], strict=True)
        ]
        return {**sample, "views": views}

    def _styles(self, step: int) -> _Styles:
        samples: dict[int, dict[str, Any]] = {}
        styles: _Styles = []
        views = 1  # known with the first sample
        while len(styles) < views:
            rng = generator(self.seed, "style", "pass" if step == _PASS else step, len(styles))
            share = float(rng.uniform(*self.style))
            place = int(rng.integers(len(self.records) if step == _PASS else self.batch_size))
            if place not in samples:
                samples[place] = self._unstyled(step, place)
            views = len(samples[place]["views"])
            styles.append((share, samples[place]["views"][len(styles)]))
        return styles

    def _unstyled(self, step: int, place: int) -> dict[str, Any]:
        if step == _PASS:
            return super().in_pass(place)
        return super().__getitem__(step * self.batch_size + place)


def views_of(
    records: StoredRecords, spec: ViewSpec, seed: int, batch_size: int, matcher: Matcher | None
) -> ViewDataset:
    """The data set of a spec, styled where it asks for that."""
    if spec.style is None:
        return ViewDataset(records, spec, seed, matcher=matcher)
    return StyledDataset(records, spec, seed, batch_size, matcher)
