"""Intervals over several evaluated runs: seeds and groups of cases drawn together."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medssl.core.errors import UsageError
from medssl.evaluation.bootstrap import Interval, bootstrap_difference
from medssl.evaluation.classification import balanced_parts

# Of classes: the mean over classes of the share of their cases that is right.
BALANCED = "balanced_accuracy"


def case_scores(metrics: Path, groups: Mapping[str, str], measure: str) -> dict[str, float]:
    """A score of each case of a ``metrics.json``; the mean over its labels where it has several.

    Of balanced accuracy, what stands for a case in it: :func:`balanced_parts`.
    """
    values: dict[str, list[float]] = defaultdict(list)
    rows = json.loads(metrics.read_text(encoding="utf-8"))["cases"]
    if measure == BALANCED:
        names = [row["case"] for row in rows]
        right = [row["predicted"] == row["label"] for row in rows]
        own = [groups[name] for name in names]
        parts = balanced_parts([row["label"] for row in rows], right, own)
        return dict(zip(names, parts.tolist(), strict=True))
    for row in rows:
        values[row["case"]].append(row[measure])
    return {case: float(np.mean(found)) for case, found in values.items()}


def mean_score(runs: Sequence[Path], groups: Mapping[str, str], measure: str) -> Interval:
    """Mean of scores of 0 to 1 over seeds (a ``metrics.json`` each) and cases, 95 % interval."""
    values_SN, names = score_table(runs, groups, measure)
    zero_SN, own = np.zeros_like(values_SN), [groups[name] for name in names]
    return bootstrap_difference(values_SN, zero_SN, own).within(0, 1)


def score_difference(
    runs: Sequence[Path], others: Sequence[Path], groups: Mapping[str, str], measure: str
) -> Interval:
    """Mean of ``runs - others``, paired by seed and case; seeds and groups are resampled."""
    a_SN, names = score_table(runs, groups, measure)
    b_SN, other_names = score_table(others, groups, measure)
    if names != other_names:
        raise UsageError("the two arms were not evaluated on the same cases")
    return bootstrap_difference(a_SN, b_SN, [groups[name] for name in names])


def score_table(
    runs: Sequence[Path], groups: Mapping[str, str], measure: str
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float64]], list[str]]:
    """Scores (S, N) of these seeds, and the names of the cases.

    Raises:
        UsageError: they were not evaluated on the same cases.
    """
    rows = [case_scores(run, groups, measure) for run in runs]
    names = sorted(rows[0])
    if any(sorted(row) != names for row in rows):
        raise UsageError("the seeds were not evaluated on the same cases")
    return np.array([[row[name] for name in names] for row in rows]), names
