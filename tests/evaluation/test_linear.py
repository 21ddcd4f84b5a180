"""Linear probes: scikit-learn, closed forms, and what standardising may not break."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.preprocessing import StandardScaler

from medssl.core.errors import UsageError
from medssl.evaluation.linear import (
    L2_GRID,
    fit_logistic,
    fit_ridge,
    linear_probe,
    ridge_regression,
)


def blobs(n=60, width=6, classes=3, apart=1.0, seed=0):
    """Classes ``apart`` standard deviations from each other, on axes of very different size."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    x = rng.normal(size=(n, width))
    x[np.arange(n), labels] += apart
    return (x + 3) * 10.0 ** np.arange(-2, width - 2), labels


@pytest.mark.parametrize("l2", [1e-3, 0.1, 10.0])
def test_logistic_probe_equals_sklearn_logisticregression(l2):
    x, y = blobs()
    query, _ = blobs(seed=1)
    scaler = StandardScaler().fit(x)
    theirs = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-8, max_iter=5000)
    theirs.fit(scaler.transform(x), y)
    log_p = theirs.predict_log_proba(scaler.transform(query))
    ours = fit_logistic(x, y, l2).scores(query)
    ours -= np.logaddexp.reduce(ours, axis=1, keepdims=True)
    assert ours == pytest.approx(log_p, abs=1e-3)


@pytest.mark.parametrize("n", [60, 4])
def test_ridge_probe_equals_sklearn_ridge(n):
    x, y = blobs(n)  # with 4 samples and 6 features too
    scaler = StandardScaler().fit(x)
    theirs = Ridge(alpha=0.3 * n).fit(scaler.transform(x), np.eye(3)[y])
    query, _ = blobs(seed=1)
    golden = theirs.predict(scaler.transform(query))
    assert fit_ridge(x, y, 0.3).scores(query) == pytest.approx(golden, abs=1e-8)


@pytest.mark.parametrize("kind", ["ridge", "logistic"])
def test_one_hot_features_are_classified_without_error(kind):
    labels = np.arange(30) % 5
    x = np.eye(5)[labels]
    probe = linear_probe((x, labels), (x, labels), kind=kind)
    assert (probe.predict(x) == labels).all()


@pytest.mark.parametrize("kind", ["ridge", "logistic"])
def test_unit_and_offset_of_a_feature_do_not_matter(kind):
    (x, y), (query, _) = blobs(), blobs(seed=1)
    scale = np.array([1e-3, 1.0, 1e6, 3.0, -2.0, 7.0])
    one = linear_probe((x, y), blobs(seed=2), kind=kind)
    val, labels = blobs(seed=2)
    other = linear_probe((x * scale + 5, y), (val * scale + 5, labels), kind=kind)
    assert other.l2 == one.l2
    assert other.scores(query * scale + 5) == pytest.approx(one.scores(query), abs=1e-3)


@pytest.mark.parametrize("kind", ["ridge", "logistic"])
def test_the_penalty_is_chosen_on_validation_and_the_stronger_of_equals(kind):
    x, y = blobs(apart=50.0)  # any penalty separates these
    assert linear_probe((x, y), blobs(apart=50.0, seed=1), kind=kind, grid=[1e-3, 1.0]).l2 == 1.0
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(40, 200))  # few samples, many features: needs a penalty
    noise[:, 0] += 3 * (np.arange(40) % 2)
    train, val = (noise[:20], np.arange(20) % 2), (noise[20:], np.arange(20) % 2)
    chosen = linear_probe(train, val, kind=kind)
    weakest = linear_probe(train, val, kind=kind, grid=[1e-5])
    val_right = [(p.predict(val[0]) == val[1]).mean() for p in (chosen, weakest)]
    assert val_right[0] >= val_right[1]


@pytest.mark.parametrize("fit", [fit_ridge, fit_logistic])
def test_a_constant_feature_and_copies_of_features_change_nothing(fit):
    (x, y), (query, _) = blobs(), blobs(seed=1)
    padded = np.c_[x, np.full(len(x), 1e8) + 1e-3]
    other = np.c_[query, np.full(len(query), -7.0)]
    assert fit(padded, y, 0.1).scores(other) == pytest.approx(fit(x, y, 0.1).scores(query))
    doubled = fit(np.c_[x, x], y, 0.2).scores(np.c_[query, query])
    assert doubled == pytest.approx(fit(x, y, 0.1).scores(query), abs=1e-4)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([[1.0], [np.nan]], [0, 1]),
        ([[1.0], [2.0]], [0, 0]),
        ([[1.0], [2.0]], [0.0, 1.0]),
        ([[1.0], [2.0]], [0, 1, 1]),
        (np.zeros((0, 1)), np.zeros(0, int)),
    ],
)
def test_what_cannot_be_probed_is_refused(x, y):
    with pytest.raises(UsageError):
        linear_probe((x, y), (x, y))


def test_validation_with_other_features_is_refused():
    with pytest.raises(UsageError, match="1 features"):
        linear_probe(([[1.0], [2.0]], [0, 1]), ([[1.0, 2.0], [2.0, 0.0]], [0, 1]))


def test_a_class_that_was_never_trained_is_refused():
    with pytest.raises(UsageError, match="holds a class"):
        linear_probe(([[1.0], [2.0]], [0, 1]), ([[1.0], [2.0]], [0, 2]))


@pytest.mark.parametrize("noise", [0.1, 3.0])
@pytest.mark.parametrize("n", [20, 60])
def test_regression_and_its_penalty_are_those_of_sklearn(n, noise):
    x, _ = blobs(n, 30)
    x = x[:, :10] + 0.0
    y = x @ np.arange(10.0) / 10 + noise * np.random.default_rng(1).normal(size=n)
    scaler = StandardScaler().fit(x)
    theirs = RidgeCV([l2 * n for l2 in L2_GRID]).fit(scaler.transform(x), y)
    ours = ridge_regression(x, y)
    assert ours.l2 * n == pytest.approx(theirs.alpha_)
    query = x[::3] * 1.1
    np.testing.assert_allclose(
        ours.predict(query), theirs.predict(scaler.transform(query)), rtol=1e-6
    )


def test_regression_of_more_features_than_samples_predicts_a_planted_line():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=80)
    x = np.outer(hidden, rng.normal(size=200)) + 0.1 * rng.normal(size=(80, 200))
    fit = ridge_regression(x[:40], 5 + 2 * hidden[:40])
    assert np.corrcoef(fit.predict(x[40:]), hidden[40:])[0, 1] > 0.99


@pytest.mark.parametrize(
    ("x", "y"), [([[1.0]] * 2, [1.0, 2.0]), ([[1.0]] * 3, [1.0]), ([[np.nan]] * 3, [1.0] * 3)]
)
def test_regression_refuses_what_is_no_table(x, y):
    with pytest.raises(UsageError):
        ridge_regression(x, y)
