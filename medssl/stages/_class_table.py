"""``classes.csv``: a row per record id with the predicted class and the probability of each."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medssl.core.errors import MedsslError, UsageError

NAME = "classes.csv"
_LEAD = ("record_id", "predicted")
# In front of a class's name: a class may be called like another column.
_CHANCE = "p_"
_SUM_TOLERANCE = 1e-3


def columns(labels: Mapping[int, str]) -> list[str]:
    """Header of the table.

    >>> columns({0: "benign", 1: "malignant"})
    ['record_id', 'predicted', 'p_benign', 'p_malignant']
    """
    return [*_LEAD, *(f"{_CHANCE}{labels[k]}" for k in sorted(labels))]


def row(record_id: str, p_K: npt.NDArray[np.floating], labels: Mapping[int, str]) -> list[str]:
    """One record; the predicted class is the first of the most probable."""
    names = [labels[k] for k in sorted(labels)]
    return [record_id, names[int(p_K.argmax())], *(f"{p:.9g}" for p in p_K)]


def read_table(path: Path) -> tuple[list[str], dict[str, list[float]]]:
    """Names of the classes, and probabilities by record id.

    Raises:
        UsageError: no such file, or not such a table.
        MedsslError: a row that is no distribution, or a record twice.
    """
    if not path.is_file():
        fix = "give the folder that predict wrote with a classification model"
        raise UsageError("there is no classes.csv", where=str(path), fix=fix)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    header = rows[0] if rows else []
    names = [name.removeprefix(_CHANCE) for name in header[len(_LEAD) :]]
    if len(names) < 2 or header[: len(_LEAD)] != list(_LEAD):
        fix = "columns: record_id,predicted,p_<class>,..."
        raise UsageError("the file is no table of classes", where=str(path), fix=fix)
    found: dict[str, list[float]] = {}
    for number, cells in enumerate(rows[1:], start=2):
        where = f"{path} line {number}"
        p_K = _numbers(cells[len(_LEAD) :])
        if len(p_K) != len(names) or abs(sum(p_K) - 1) > _SUM_TOLERANCE:
            what = "a row does not hold one probability per class that sum to 1"
            raise MedsslError(what, where=where, fix="predict again, with --resume")
        if cells[0] in found:
            raise MedsslError("a record occurs twice", where=where)
        found[cells[0]] = p_K
    return names, found


def _numbers(cells: Sequence[str]) -> list[float]:
    """The cells as numbers; empty if one is none."""
    try:
        values = [float(cell) for cell in cells]
    except ValueError:
        return []
    return values if all(math.isfinite(value) and value >= 0 for value in values) else []
