"""Scores of foreign data: the golden checks of the MedMNIST protocol."""

import numpy as np
import pytest
from sklearn.covariance import EmpiricalCovariance

from medssl.core.errors import UsageError
from medssl.evaluation.classification import auroc
from medssl.evaluation.ood import energy_scores, fpr_at_tpr, mahalanobis_scores, max_softmax_scores


def classes(n=60, width=4, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return rng.normal(size=(n, width)) + 3 * np.eye(3, width)[y], y


def test_with_unit_covariance_it_is_the_squared_distance_to_the_nearest_mean():
    corners = np.concatenate([np.eye(3), -np.eye(3)]) * np.sqrt(3)  # covariance 1
    means = np.array([[0.0, 0, 0], [10, 0, 0]])
    train = np.concatenate([corners + mean for mean in means])
    query = np.random.default_rng(0).normal(size=(20, 3)) * 5
    nearest = ((query[:, None] - means) ** 2).sum(2).min(1)
    assert mahalanobis_scores(train, np.repeat([0, 1], 6), query) == pytest.approx(nearest)


@pytest.mark.parametrize("seed", range(3))
def test_invertible_linear_maps_of_the_features_change_nothing(seed):
    (train, y), (query, _) = classes(), classes(seed=1)
    turn = np.random.default_rng(seed).normal(size=(4, 4)) + 3 * np.eye(4)
    plain = mahalanobis_scores(train, y, query)
    assert mahalanobis_scores(train @ turn, y, query @ turn) == pytest.approx(plain, rel=1e-6)


def test_of_one_class_it_is_sklearns_mahalanobis():
    train, query = classes()[0], classes(seed=1)[0]
    theirs = EmpiricalCovariance().fit(train).mahalanobis(query)
    assert mahalanobis_scores(train, np.zeros(60, int), query) == pytest.approx(theirs)


def test_fewer_vectors_than_features_give_finite_scores():
    train, y = classes(6, 20)
    assert np.isfinite(mahalanobis_scores(train, y, train + 1)).all()


def test_fpr_at_95_by_hand():
    own = np.arange(1, 21)  # 19 of 20 lie at or below 19
    assert fpr_at_tpr(own, [18, 19, 25, 30]) == 0.5
    assert fpr_at_tpr(own, own + 100) == 0.0
    assert fpr_at_tpr(own, own) == 0.95


def test_energy_and_max_softmax_agree_where_a_classifier_is_sure():
    sure, unsure = [[9.0, 0.0, 0.0]], [[1.0, 1.0, 1.0]]
    for scores in (energy_scores, max_softmax_scores):
        assert scores(sure)[0] < scores(unsure)[0]
    assert energy_scores([[1e4, -1e4]])[0] == -1e4  # finite
    assert energy_scores([[2.0, 2.0]], 2.0)[0] == pytest.approx(-2 - 2 * np.log(2))


def test_far_data_are_foreign():
    train, y = classes(300)
    own, far = (
        mahalanobis_scores(train, y, classes(seed=1)[0]),
        mahalanobis_scores(train, y, -train),
    )
    assert auroc(np.repeat([0, 1], [60, 300]), np.concatenate([own, far])) > 0.95


@pytest.mark.parametrize(
    "bad",
    [
        lambda: mahalanobis_scores([[1.0]], [0, 1], [[1.0]]),
        lambda: mahalanobis_scores([[np.nan]], [0], [[1.0]]),
        lambda: mahalanobis_scores(np.zeros((0, 1)), [], [[1.0]]),
        lambda: energy_scores([[1.0]], 0.0),
        lambda: fpr_at_tpr([], [1.0]),
    ],
)
def test_what_makes_no_sense_is_refused(bad):
    with pytest.raises(UsageError):
        bad()
