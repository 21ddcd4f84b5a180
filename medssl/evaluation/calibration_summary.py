"""Calibration of a set of cases as ``metrics.json`` holds it; they may come piece by piece.

Measures: :mod:`medssl.evaluation.calibration`. ``bins`` are lists of [share of cases, mean
confidence, share right].

N cases, voxels or frames, K classes or events.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.errors import UsageError
from medssl.evaluation.calibration import Cells, as_two_classes, checked, costs


class Summary:
    """Of shares of a whole: one of the classes is true."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.top, self.per_class = Cells(), [Cells() for _ in names]
        self.cases, self.weight, self.nll, self.brier = 0, 0.0, 0.0, 0.0

    def add(
        self, p_NK: npt.ArrayLike, label_N: npt.ArrayLike, weight_N: npt.ArrayLike | None = None
    ) -> None:
        """Take in more cases."""
        p, label, weight = checked(p_NK, label_N, weight_N)
        nll_N, brier_N = costs(p, label)
        self.cases += len(label)
        self.weight += float(weight.sum())
        self.nll += float(weight @ nll_N)
        self.brier += float(weight @ brier_N)
        self.top.add(p.max(1), p.argmax(1) == label, weight)
        for k, cells in enumerate(self.per_class):
            cells.add(p[:, k], label == k, weight)

    def as_json(self) -> dict[str, Any]:
        """For ``metrics.json``; the overall error is that of the predicted class.

        Raises:
            UsageError: no case.
        """
        if not self.weight:
            raise UsageError("no case to calibrate with")
        per_label = {
            name: _shown(cells) for name, cells in zip(self.names, self.per_class, strict=True)
        }
        return {
            "n": self.cases,
            "nll": self.nll / self.weight,
            "brier": self.brier / self.weight,
            **_shown(self.top),
            "per_label": per_label,
        }


class Events:
    """Of chances that each stand for themselves: tools in view, or a prediction that is right."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        """``names`` of the events, to be told apart too."""
        self.names = tuple(names)
        self.all, self.per_event = Cells(), [Cells() for _ in names]
        self.events, self.weight, self.nll, self.brier = 0, 0.0, 0.0, 0.0

    def add(
        self,
        p_NK: npt.NDArray[np.floating[Any]],
        true_NK: npt.NDArray[Any],
        weight_N: npt.ArrayLike,
    ) -> None:
        """Take in more chances; the Brier score of an event is (p - y)^2, 0 to 1."""
        n_events = p_NK.shape[1]
        weight = np.repeat(np.asarray(weight_N, dtype=np.float64), n_events)
        p, true = as_two_classes(p_NK), np.asarray(true_NK, dtype=np.int64).ravel()
        nll_N, brier_N = costs(*checked(p, true, weight)[:2])
        self.events += len(true)
        self.weight += float(weight.sum())
        self.nll += float(weight @ nll_N)
        self.brier += float(weight @ brier_N) / 2
        self.all.add(p[:, 1], true, weight)
        for k, cells in enumerate(self.per_event):
            cells.add(p_NK[:, k], true_NK[:, k], weight_N)

    def as_json(self) -> dict[str, Any]:
        """For ``metrics.json``.

        Raises:
            UsageError: no event.
        """
        if not self.weight:
            raise UsageError("no case to calibrate with")
        found = {
            "n": self.events,
            "nll": self.nll / self.weight,
            "brier": self.brier / self.weight,
            **_shown(self.all),
        }
        if self.names:
            each = zip(self.names, self.per_event, strict=True)
            found["per_label"] = {name: _shown(cells) for name, cells in each}
        return found


def _shown(cells: Cells) -> dict[str, Any]:
    bins = cells.bins()
    total = sum(one.weight for one in bins)
    return {
        "ece": cells.ece(),
        "ece_equal_mass": cells.ece(equal_mass=True),
        "bins": [
            [round(one.weight / total, 6), round(one.confidence, 4), round(one.right, 4)]
            for one in bins
        ],
    }
