"""Anomaly scores: closed forms, scikit-learn, and which labels may reach a bank of normals."""

import math

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from medssl.core.errors import UsageError
from medssl.evaluation.anomaly import (
    labelled_bank_scores,
    ledoit_wolf,
    normal_density_scores,
    normal_knn_scores,
)
from medssl.evaluation.classification import auroc

ON_NORMALS = [normal_knn_scores, normal_density_scores]


def table(n=40, width=5, seed=0):
    return np.random.default_rng(seed).normal(size=(n, width))


def test_knn_scores_equal_sklearn_mean_cosine_distance():
    bank, query = table(), table(seed=1)
    away, _ = NearestNeighbors(n_neighbors=7, metric="cosine").fit(bank).kneighbors(query)
    assert normal_knn_scores(bank, query, 7) == pytest.approx(away.mean(1), abs=1e-12)


def test_distance_is_1_minus_the_cosine_of_the_angle():
    # 60 and 90 degrees from the two normals: 1 - (1/2 + 0) / 2
    query = [math.cos(math.pi / 3), math.sin(math.pi / 3), 0.0]
    found = normal_knn_scores([[1, 0, 0], [0, 0, 1]], [query], k=2)
    assert found == pytest.approx([0.75], abs=1e-12)


@pytest.mark.parametrize(("n", "width"), [(40, 5), (20, 60)])
def test_density_equals_sklearn_ledoit_wolf_mahalanobis(n, width):
    bank, query = table(n, width) * np.linspace(0.1, 3, width), table(9, width, seed=1)
    theirs = LedoitWolf().fit(bank)
    assert ledoit_wolf(bank - bank.mean(0))[1] == pytest.approx(theirs.shrinkage_, abs=1e-12)
    golden = np.sqrt(theirs.mahalanobis(query))
    assert normal_density_scores(bank, query) == pytest.approx(golden, rel=1e-9)


def test_of_many_normals_the_distance_is_that_of_their_gaussian():
    covariance = np.array([[4.0, 1.0], [1.0, 1.0]])
    rng = np.random.default_rng(0)
    bank, query = rng.multivariate_normal([1, 2], covariance, 200_000), table(50, 2, seed=1) * 3
    away = query - [1, 2]
    golden = np.sqrt((away @ np.linalg.inv(covariance) * away).sum(1))
    found = normal_density_scores(bank, query)
    assert found == pytest.approx(golden, rel=0.02)
    log_p = multivariate_normal([1, 2], covariance).logpdf(query)
    assert np.argsort(-log_p[:9]).tolist() == np.argsort(found[:9]).tolist()


@pytest.mark.parametrize("score", ON_NORMALS)
def test_a_planted_anomaly_is_ranked_above_every_normal(score):
    rng = np.random.default_rng(0)
    bank = np.array([5.0, 0, 0, 0]) + 0.1 * rng.normal(size=(100, 4))
    normal, odd = bank[0] + 0.05 * rng.normal(size=(30, 4)), np.eye(4)[1] * 5
    scores = score(bank, np.r_[normal, [odd]])
    assert scores.argmax() == 30
    truth = np.arange(31) == 30
    assert auroc(truth, scores) == roc_auc_score(truth, scores) == 1.0


@pytest.mark.parametrize("score", ON_NORMALS)
def test_auroc_on_half_separated_classes_equals_sklearn(score):
    bank, query = table(7, 8), np.r_[table(60, 8, seed=1), table(60, 8, seed=2) + 0.7]
    truth = np.arange(120) >= 60
    scores = score(bank, query)
    assert auroc(truth, scores) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)


@pytest.mark.parametrize("score", ON_NORMALS)
def test_an_abnormal_label_is_refused_and_normal_ones_change_nothing(score):
    bank, query = table(), table(seed=1)
    labels = np.zeros(40, dtype=int)
    assert (score(bank, query, bank_labels_N=labels) == score(bank, query)).all()
    labels[3] = 2
    with pytest.raises(UsageError, match="1 abnormal cases in a bank of normals"):
        score(bank, query, bank_labels_N=labels)


@pytest.mark.parametrize("score", ON_NORMALS)
def test_excluding_the_own_patient_equals_a_bank_without_it(score):
    bank, query = table(), table(6, seed=1)
    patient = np.arange(40) // 4
    of_query = np.array([0, 0, 3, 9, 3, 99])
    found = score(bank, query, exclude=of_query[:, None] == patient)
    for m, own in enumerate(of_query):
        alone = score(bank[patient != own], query[m : m + 1])
        assert found[m : m + 1] == pytest.approx(alone, abs=1e-12)


def test_leaving_the_own_patient_in_makes_an_anomaly_look_normal():
    bank = table(20, 3) + np.array([9, 0, 0])
    odd = np.array([[0, 9.0, 0]])
    bank[0] = odd  # the patient's other scan lies in the bank
    out = np.zeros((1, 20), dtype=bool)
    out[0, 0] = True
    fair = normal_knn_scores(bank, odd, 1, exclude=out)
    assert normal_knn_scores(bank, odd, 1) == pytest.approx([0]) and fair > 0.5


def test_labelled_bank_is_the_weighted_share_of_abnormal_neighbours():
    # cosines 1 and 0: votes exp(1 / 0.07) and 1; classes 1 and 2 are both abnormal
    found = labelled_bank_scores([[1, 0], [0, 1], [0, -1]], [2, 0, 1], [[0, 5], [5, 0]], k=2)
    share = 1 / (1 + math.exp(1 / 0.07))
    assert found == pytest.approx([share, 1 - share], abs=1e-12)


def test_labelled_bank_needs_both_classes():
    with pytest.raises(UsageError, match="normal and abnormal"):
        labelled_bank_scores(table(4), [0, 0, 0, 0], table(2), k=1)


def test_two_opposite_normals_leave_the_distance_finite():
    found = normal_density_scores([[1.0, 0], [-1, 0]], [[1.0, 0], [0, 1]])
    assert np.isfinite(found).all() and found[1] > 100 * found[0]


@pytest.mark.parametrize("score", ON_NORMALS)
@pytest.mark.parametrize(
    ("bank", "query", "options"),
    [
        (np.zeros((0, 2)), [[1, 1]], {}),
        ([[np.nan, 1]], [[1, 1]], {}),
        ([[1, 1], [1, 2]], [[1, np.inf]], {}),
        ([[1, 1], [1, 2]], [[1, 1, 1]], {}),
        ([[1, 1], [1, 2]], [[1, 1]], {"exclude": np.array([[True]])}),
        ([[1, 1], [1, 2]], [[1, 1]], {"exclude": np.array([[True, True]])}),
    ],
)
def test_what_makes_no_sense_is_refused(score, bank, query, options):
    with pytest.raises(UsageError):
        score(bank, query, **options)


@pytest.mark.parametrize("bank", [[[1.0, 2.0]], [[1.0, 2.0]] * 5])
def test_normals_without_spread_have_no_density(bank):
    with pytest.raises(UsageError, match="two normals that differ"):
        normal_density_scores(bank, [[1.0, 2.0]])


def test_no_query_gives_no_score():
    assert normal_knn_scores(table(), np.zeros((0, 5)), 3).shape == (0,)
