"""Whole patients in folds that all show every class.

N cases, K classes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.errors import UsageError
from medssl.core.seeding import generator

IntArray = npt.NDArray[np.int64]
FOLDS = 5
# One patient of a class to learn from, one to choose by, one to test on.
FEWEST = 3


def patient_folds(
    patients_N: npt.NDArray[Any], labels_N: IntArray, seed: int, most: int = FOLDS
) -> IntArray:
    """(N,) number of each case's fold; cases of one patient share theirs.

    A patient stands for the rarest class among the own cases; the patients of each class are dealt
    out in turn, in an order drawn by ``seed``. There are ``most`` folds, or as many as the rarest
    class has patients.

    Args:
        patients_N: patient of each case.
        labels_N: class of each case, whole numbers from 0.
        seed: of the order.
        most: number of folds.

    Raises:
        UsageError: a class with fewer than three patients.

    >>> int(patient_folds(np.array(list("aabcdef")), np.array([0, 0, 0, 0, 1, 1, 1]), 0).max())
    2
    """
    main = _main_class(patients_N, labels_N)
    of_class: dict[int, list[Any]] = defaultdict(list)
    names = sorted(main)
    for place in generator(seed, "folds").permutation(len(names)):
        of_class[main[names[place]]].append(names[place])
    fewest = min(len(of_class[k]) for k in set(labels_N.tolist()))
    if fewest < FEWEST:
        what = f"a class has {fewest} patients of its own, a probe needs {FEWEST}"
        raise UsageError(what, fix="add labelled patients, or leave the class out")
    folds = min(most, fewest)
    fold_of, turn = {}, 0
    for k in sorted(of_class):
        for patient in of_class[k]:
            fold_of[patient] = turn % folds
            turn += 1
    return np.array([fold_of[patient] for patient in patients_N.tolist()], dtype=np.int64)


def _main_class(patients_N: npt.NDArray[Any], labels_N: IntArray) -> dict[Any, int]:
    classes: dict[Any, set[int]] = defaultdict(set)
    for patient, label in zip(patients_N.tolist(), labels_N.tolist(), strict=True):
        classes[patient].add(label)
    common = Counter(label for found in classes.values() for label in found)
    return {who: min(found, key=lambda k: (common[k], k)) for who, found in classes.items()}
