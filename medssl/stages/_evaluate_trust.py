"""Can predictions be trusted? Calibration, and risk and coverage, for ``metrics.json``.

``calibration`` is made of the probabilities that predict wrote: of classes, of tools, of the phase
that was predicted (its chance to be right), and of voxels where there is ``<name>_prob.npz``: those
in a box around the prediction. Every case, or video, counts the same. ``per_site`` needs a table
``case,site``. ``selective`` is of the quality in ``quality.csv``, or of the probability of what was
predicted, and of what it foretells: mean Dice, or share right. Docs: docs/calibration.md.
"""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from medssl.core.errors import UsageError
from medssl.core.tables import open_table
from medssl.evaluation.calibration_summary import Events, Summary
from medssl.evaluation.refusal import summarise
from medssl.stages import _predict_quality
from medssl.stages._pairs import by_case

Floats = npt.NDArray[np.floating[Any]]


class Trust:
    """Collects cases; nothing is said where there is nothing to say."""

    def __init__(self, sites: Path | None, make: Callable[[], Summary | Events]) -> None:
        self.site_of = None if sites is None else by_case(sites, "site")
        self.whole = make()
        self.per_site: dict[str, Summary | Events] = defaultdict(make)
        self.quality: list[float] = []
        self.score: list[float] = []
        self.referred: list[bool] = []

    def add(self, case: str, p_NK: Floats, true: npt.NDArray[Any]) -> None:
        """Probabilities and truth of one case.

        Raises:
            UsageError: the case has no site.
        """
        if not len(p_NK):
            return
        weight_N = np.full(len(p_NK), 1 / len(p_NK))
        self.whole.add(p_NK, true, weight_N)
        if self.site_of is not None:
            if case not in self.site_of:
                raise UsageError("a case has no site", where=case, fix="add it to the table")
            self.per_site[self.site_of[case]].add(p_NK, true, weight_N)

    def note(self, quality: float, score: float, refer: str = "") -> None:
        """Quality of a case, and what it foretold; whether it was referred, where that is known."""
        self.quality.append(quality)
        self.score.append(score)
        if refer:
            self.referred.append(refer == "yes")

    def as_json(self) -> dict[str, Any]:
        """``calibration`` and ``selective``, as far as there are such numbers."""
        found: dict[str, Any] = {}
        if self.whole.weight:
            found["calibration"] = self.whole.as_json()
            if self.per_site:
                sites = {name: self.per_site[name].as_json() for name in sorted(self.per_site)}
                found["calibration"]["per_site"] = sites
        if self.quality:
            found["selective"] = summarise(self.quality, self.score)
            if len(self.referred) == len(self.score):
                found["selective"]["refer"] = self._refer()
        return found

    def _refer(self) -> dict[str, float | int | None]:
        refer, score = np.array(self.referred), np.array(self.score)
        groups = {"mean_score_referred": score[refer], "mean_score_kept": score[~refer]}
        means = {name: float(x.mean()) if len(x) else None for name, x in groups.items()}
        return {"n": int(refer.sum()), **means}


def read_quality(pred: Path) -> dict[str, Mapping[str, str]]:
    """Rows of ``quality.csv`` by record id; empty where there is none."""
    path = pred / _predict_quality.NAME
    if not path.is_file():
        return {}
    with open_table(path) as file:
        return {
            row["record_id"]: row for row in csv.DictReader(file) if row.get("refer") is not None
        }


def quality_of_results(pred: Path) -> dict[str, Mapping[str, str]]:
    """The same by the file that predict wrote for a record, below its folder."""
    rows, paths = read_quality(pred), pred / "paths.parquet"
    if not rows or not paths.is_file():
        return {}
    pairs: Iterable[tuple[str, bytes]] = (
        pl.read_parquet(paths).select("record_id", "result").iter_rows()
    )
    return {os.fsdecode(name): rows[record] for record, name in pairs if record in rows}
