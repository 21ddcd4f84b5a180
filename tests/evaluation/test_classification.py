"""Classification metrics: scikit-learn, closed forms, absent classes, intervals over patients."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from medssl.core.errors import UsageError
from medssl.evaluation.classification import (
    auroc,
    balanced_accuracy,
    confusion,
    summarise,
    weighted_scores,
)

NAMES = ["normal", "bacterial", "viral"]


def cases(n=80, seed=0, rounded=1):
    rng = np.random.default_rng(seed)
    p = np.round(rng.dirichlet(np.ones(3), size=n), rounded)  # rounding makes ties
    return rng.integers(3, size=n), p


@pytest.mark.parametrize("seed", range(5))
def test_summary_equals_sklearn(seed):
    labels, p = cases(seed=seed)
    found = summarise(labels, p, np.arange(len(labels)), NAMES, draws=10)
    predicted = p.argmax(1)
    aucs = [sk.roc_auc_score(labels == k, p[:, k]) for k in range(3)]
    assert found["accuracy"]["mean"] == pytest.approx(sk.accuracy_score(labels, predicted))
    assert found["balanced_accuracy"]["mean"] == pytest.approx(
        sk.balanced_accuracy_score(labels, predicted)
    )
    assert found["f1"]["mean"] == pytest.approx(sk.f1_score(labels, predicted, average="macro"))
    assert found["auroc"]["mean"] == pytest.approx(np.mean(aucs))
    assert found["auroc"]["per_label"]["viral"]["mean"] == pytest.approx(aucs[2])
    assert found["confusion"]["counts"] == sk.confusion_matrix(labels, predicted).tolist()


@given(st.integers(0, 500))
def test_weights_count_a_case_so_many_times_as_sklearn_does(seed):
    labels, p = cases(30, seed)
    weight = np.random.default_rng(seed).integers(1, 4, size=30)
    once = weighted_scores(labels, p.argmax(1), p, weight[None].astype(float))
    repeated = np.repeat(np.arange(30), weight)
    again, q = labels[repeated], p[repeated]
    assert once.accuracy_R[0] == pytest.approx(sk.accuracy_score(again, q.argmax(1)))
    for k in np.unique(labels):
        ours = once.auroc_RK[0, k]
        assert ours == pytest.approx(sk.roc_auc_score(again == k, q[:, k]))
        assert ours == pytest.approx(auroc(again == k, q[:, k]))


def test_auroc_of_equal_scores_is_a_half_and_of_separated_ones_1():
    positive = np.array([True, False, True, False])
    assert auroc(positive, np.zeros(4)) == 0.5
    assert auroc(positive, positive) == 1
    assert auroc(positive, ~positive) == 0


def test_auroc_does_not_change_under_a_rising_function():
    labels, p = cases()
    assert auroc(labels == 1, p[:, 1]) == auroc(labels == 1, np.exp(9 * p[:, 1]))


@pytest.mark.parametrize("positive", [[True, True], [False, False]])
def test_auroc_of_one_class_does_not_exist(positive):
    assert np.isnan(auroc(positive, [0.1, 0.9]))


def test_a_class_without_a_case_counts_in_no_macro_mean():
    labels = np.array([0, 0, 1, 1])
    p = np.array([[0.9, 0.1, 0], [0.2, 0.1, 0.7], [0, 1, 0], [0.4, 0.6, 0]])
    found = summarise(labels, p, np.arange(4), NAMES, draws=50)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sklearn remarks on the class that was only predicted
        theirs = sk.balanced_accuracy_score(labels, p.argmax(1))
    assert found["balanced_accuracy"]["mean"] == pytest.approx(theirs) == pytest.approx(0.75)
    assert found["f1"]["mean"] == pytest.approx((2 / 3 + 1) / 2)
    absent = {"mean": None, "low": None, "high": None, "n": 0}
    assert all(found[m]["per_label"]["viral"] == absent for m in ("auroc", "f1"))
    json.dumps(found, allow_nan=False)


def test_all_cases_of_one_class_have_accuracy_but_no_auroc():
    found = summarise([0, 0], [[1, 0], [0, 1]], [0, 1], ["a", "b"], draws=50)
    assert found["accuracy"]["mean"] == 0.5
    assert found["auroc"]["mean"] is None
    json.dumps(found, allow_nan=False)


def test_a_single_patient_has_no_interval():
    labels, p = cases(6)
    found = summarise(labels, p, ["p"] * 6, NAMES)
    assert found["accuracy"]["low"] is None
    assert found["accuracy"]["mean"] is not None


def test_copies_of_a_patient_add_no_certainty():
    labels, p = cases(40)
    once = summarise(labels, p, np.arange(40), NAMES)
    copied = summarise(np.tile(labels, 4), np.tile(p, (4, 1)), np.tile(np.arange(40), 4), NAMES)
    for metric in ("accuracy", "auroc", "f1"):
        ours, other = ([found[metric][k] for k in ("low", "high")] for found in (once, copied))
        assert other == pytest.approx(ours)


def test_the_interval_of_auroc_covers_the_truth():
    # Two normal score distributions one sigma apart: AUROC = Phi(1 / sqrt 2) = 0.7602.
    rng, hits = np.random.default_rng(0), 0
    for _ in range(100):
        labels = np.repeat([0, 1], 40)
        score = rng.normal(size=80) + labels
        p = np.stack([-score, score], axis=1)
        found = summarise(labels, p, np.arange(80), ["a", "b"], draws=300)["auroc"]
        hits += found["low"] <= 0.7602 <= found["high"]
    assert 88 <= hits <= 100


def test_balanced_accuracy_ignores_how_many_cases_a_class_has():
    labels = np.array([0] * 90 + [1] * 10)
    assert balanced_accuracy(labels, np.zeros(100, dtype=int), 2) == 0.5
    assert confusion(labels, np.zeros(100, dtype=int), 2).tolist() == [[90, 0], [10, 0]]


@pytest.mark.parametrize(
    ("labels", "p", "groups"),
    [
        ([], np.zeros((0, 2)), []),
        ([0], [[0.5, np.nan]], [0]),
        ([0], [[0.5, 0.5, 0]], [0]),
        ([0, 1], [[1, 0], [0, 1]], [0]),
    ],
)
def test_what_cannot_be_scored_is_refused(labels, p, groups):
    with pytest.raises(UsageError):
        summarise(labels, p, groups, ["a", "b"])


def test_of_repetitions_the_mean_counts_and_their_spread_is_told():
    labels, p = cases()
    other = cases(seed=3)[1]
    found = summarise(labels, np.stack([p, other]), np.arange(len(labels)), NAMES, draws=50)
    each = [summarise(labels, one, np.arange(len(labels)), NAMES, draws=50) for one in (p, other)]
    for metric in ("accuracy", "f1", "auroc"):
        pair = [one[metric]["mean"] for one in each]
        assert found[metric]["mean"] == pytest.approx(np.mean(pair))
        assert found[metric]["seed_sd"] == pytest.approx(np.std(pair, ddof=1))
    assert "seed_sd" not in each[0]["accuracy"]


def test_equal_repetitions_change_no_interval():
    labels, p = cases()
    once = summarise(labels, p, np.arange(len(labels)) // 2, NAMES, draws=50)
    twice = summarise(labels, np.stack([p, p]), np.arange(len(labels)) // 2, NAMES, draws=50)
    assert [twice["auroc"][k] for k in ("low", "high")] == [
        once["auroc"][k] for k in ("low", "high")
    ]
    assert twice["auroc"]["seed_sd"] == 0
