"""Folds of patients."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medssl.core.errors import UsageError
from medssl.evaluation.folds import patient_folds


def cohort(per_class, records=3):
    """So many patients of each class, each with some records, in mixed order."""
    labels = np.repeat(np.arange(len(per_class)), per_class)
    patients = np.repeat(np.arange(len(labels)), records)
    order = np.random.default_rng(0).permutation(len(patients))
    return patients[order], np.repeat(labels, records)[order]


@given(st.lists(st.integers(3, 30), min_size=2, max_size=4), st.integers(0, 100))
def test_no_patient_is_in_two_folds_and_every_fold_shows_every_class(per_class, seed):
    patients, labels = cohort(per_class)
    folds = patient_folds(patients, labels, seed)
    assert len(set(zip(patients, folds, strict=True))) == sum(per_class)
    assert folds.max() + 1 == min(5, *per_class)
    for fold in range(folds.max() + 1):
        assert set(labels[folds == fold]) == set(range(len(per_class)))


def test_folds_are_of_equal_size_and_another_seed_deals_anew():
    patients, labels = cohort([40, 10])
    folds = patient_folds(patients, labels, 0)
    assert np.bincount(folds).tolist() == [30] * 5
    assert (folds == patient_folds(patients, labels, 0)).all()
    assert (folds != patient_folds(patients, labels, 1)).any()


def test_a_class_of_two_patients_is_refused():
    with pytest.raises(UsageError, match="2 patients"):
        patient_folds(*cohort([9, 2]), 0)
