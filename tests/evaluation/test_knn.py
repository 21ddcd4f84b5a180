"""kNN on features: G16, scikit-learn, and what may not vote."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from medssl.core.errors import UsageError
from medssl.evaluation.knn import knn_predict

INF = float("inf")


def table(n=40, width=5, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, width)), rng.integers(classes, size=n)


def test_knn_predict_equals_sklearn_kneighborsclassifier():
    (bank, labels), (query, _) = table(), table(seed=1)
    theirs = KNeighborsClassifier(7, metric="cosine").fit(bank, labels).predict_proba(query)
    assert knn_predict(bank, labels, query, 7, INF) == pytest.approx(theirs, abs=1e-12)


def test_knn_predict_equals_sklearn_with_dino_weights():
    (bank, labels), (query, _) = table(), table(seed=1)
    by_cosine = KNeighborsClassifier(
        7, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(bank, labels)
    theirs = by_cosine.predict_proba(query)
    assert knn_predict(bank, labels, query, 7, 0.07) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("temperature", [1e-300, 1e-6, 1e-3])
def test_a_bank_query_at_low_temperature_returns_its_own_label(temperature):
    bank, labels = table()
    assert (knn_predict(bank, labels, bank, 20, temperature).argmax(1) == labels).all()


@given(st.integers(0, 1000))
def test_the_whole_bank_at_high_temperature_returns_the_majority(seed):
    bank, labels = table(seed=seed)
    shares = np.bincount(labels, minlength=labels.max() + 1) / len(labels)
    found = knn_predict(bank, labels, bank[:4], 10_000, INF)
    assert found == pytest.approx(np.tile(shares, (4, 1)), abs=1e-12)


def test_the_length_of_a_vector_does_not_matter():
    (bank, labels), (query, _) = table(), table(seed=1)
    longer = bank * np.linspace(0.1, 50, len(bank))[:, None]
    ours = knn_predict(longer, labels, 1e-6 * query)
    assert ours == pytest.approx(knn_predict(bank, labels, query))


def test_the_own_patient_has_no_vote():
    # Two images per patient, nearly equal: with them in the bank every query finds itself.
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(200), 2)
    bank = np.repeat(rng.normal(size=(200, 8)), 2, axis=0) + 1e-3 * rng.normal(size=(400, 8))
    labels = np.repeat(rng.integers(2, size=200), 2)  # no relation to the features
    leaked = knn_predict(bank, labels, bank, 2, INF).argmax(1)
    fair = knn_predict(bank, labels, bank, 2, exclude=patient[:, None] == patient).argmax(1)
    assert (leaked == labels).mean() == 1
    assert 0.35 < (fair == labels).mean() < 0.65


def test_excluding_equals_leaving_out_of_the_bank():
    (bank, labels), (query, _) = table(), table(seed=1)
    out = np.zeros((len(query), len(bank)), dtype=bool)
    out[:, 10:] = True
    fewer = knn_predict(bank[:10], labels[:10], query, 20, 0.1)
    assert knn_predict(bank, labels, query, 20, 0.1, exclude=out) == pytest.approx(fewer)


def test_a_zero_vector_votes_and_is_classified():
    shares = knn_predict([[0.0, 0.0], [1.0, 0.0]], [0, 1], [[0.0, 0.0]], 2)
    assert shares == pytest.approx(np.array([[0.5, 0.5]]))


@pytest.mark.parametrize(
    ("bank", "labels", "query", "options"),
    [
        ([[np.nan, 1]], [0], [[1, 1]], {}),
        ([[1, 1]], [0], [[1, 1, 1]], {}),
        ([[1, 1]], [0.5], [[1, 1]], {}),
        ([[1, 1]], [-1], [[1, 1]], {}),
        (np.zeros((0, 2)), np.zeros(0, int), [[1, 1]], {}),
        ([[1, 1]], [0], [[1, 1]], {"k": 0}),
        ([[1, 1]], [0], [[1, 1]], {"temperature": 0.0}),
        ([[1, 1]], [0], [[1, 1]], {"exclude": np.array([[True]])}),
        ([[1, 1]], [0], [[1, 1]], {"exclude": np.array([True])}),
    ],
)
def test_what_makes_no_sense_is_refused(bank, labels, query, options):
    with pytest.raises(UsageError):
        knn_predict(bank, labels, query, **options)
