"""Calibration: closed forms, and agreement with torchmetrics, scikit-learn and scipy."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from medssl.core.errors import UsageError
from medssl.evaluation.calibration import (
    BOUNDS,
    Cells,
    as_two_classes,
    brier,
    ece,
    fit_temperature,
    nll,
    temper,
    temper_chance,
)
from medssl.evaluation.calibration_summary import Events, Summary


def cases(seed=0, n=2000, k=4, sharp=1.0):
    """Logits, their probabilities, and labels drawn from them: calibrated by construction."""
    rng = np.random.default_rng(seed)
    logits = sharp * rng.normal(size=(n, k))
    p = softmax(logits, axis=1)
    label = (p.cumsum(1) < rng.random((n, 1))).sum(1)
    return logits, p, np.minimum(label, k - 1)


@pytest.mark.parametrize("equal_mass", [False, True])
def test_ece_of_calibrated_events_falls_with_the_root_of_their_number(equal_mass):
    def mean_ece(n):
        each = []
        for seed in range(20):
            rng = np.random.default_rng(seed)
            p = rng.random(n)
            each.append(ece(p, rng.random(n) < p, equal_mass=equal_mass))
        return np.mean(each)

    few, many = mean_ece(1_000), mean_ece(100_000)
    assert many < 0.005
    assert few / many == pytest.approx(10, rel=0.3)


@pytest.mark.parametrize("equal_mass", [False, True])
@pytest.mark.parametrize("right", [0, 7, 10])
def test_certain_confidence_has_an_ece_of_the_share_wrong(right, equal_mass):
    hits = np.arange(10) < right
    assert ece(np.ones(10), hits, equal_mass=equal_mass) == pytest.approx(1 - right / 10)


def test_ece_agrees_with_torchmetrics():
    for seed in range(3):
        _, p, label = cases(seed, sharp=2.0)
        wanted = multiclass_calibration_error(
            torch.tensor(p), torch.tensor(label), num_classes=4, n_bins=15, norm="l1"
        )
        assert ece(p.max(1), p.argmax(1) == label) == pytest.approx(float(wanted), abs=1e-6)


def test_equal_mass_ece_agrees_with_sorting():
    rng = np.random.default_rng(1)
    confidence = rng.random(15_000)
    hits = rng.random(15_000) < confidence**2
    order = np.argsort(confidence)
    parts = np.split(order, 15)
    wanted = np.mean([abs(hits[i].mean() - confidence[i].mean()) for i in parts])
    assert ece(confidence, hits, equal_mass=True) == pytest.approx(wanted, abs=1e-3)


def test_nll_and_brier_agree_with_scikit_learn():
    _, p, label = cases(2)
    assert nll(p, label) == pytest.approx(log_loss(label, p))
    assert brier(p, label) == pytest.approx(brier_score_loss(label, p, labels=range(4)))
    there, chance = label == 0, p[:, 0]
    assert brier(as_two_classes(chance), there) == pytest.approx(
        2 * brier_score_loss(there, chance)
    )


def test_cases_of_a_volume_may_come_in_pieces_and_with_weights():
    _, p, label = cases(3, n=999)
    whole, pieces, twice = (Summary("abcd") for _ in range(3))
    whole.add(p, label)
    for part in np.array_split(np.arange(999), 7):
        pieces.add(p[part], label[part])
    assert pieces.as_json()["ece"] == pytest.approx(whole.as_json()["ece"])
    assert pieces.as_json()["nll"] == pytest.approx(whole.as_json()["nll"])
    weight = np.random.default_rng(0).integers(0, 3, 999)
    twice.add(np.repeat(p, weight, 0), np.repeat(label, weight))
    weighted = Summary("abcd")
    weighted.add(p, label, weight)
    for key in ("nll", "brier", "ece", "ece_equal_mass"):
        assert weighted.as_json()[key] == pytest.approx(twice.as_json()[key])


def test_bins_hold_every_case_once():
    _, p, label = cases(4)
    cells = Cells()
    cells.add(p[:, 0], label == 0)
    for equal_mass in (False, True):
        bins = cells.bins(equal_mass=equal_mass)
        assert sum(one.weight for one in bins) == 2000
        assert sum(one.weight * one.right for one in bins) == pytest.approx((label == 0).sum())
    assert max(one.weight for one in bins) < 2000 / 15 + 20


def test_events_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    p, true = rng.random((500, 2)), rng.random((500, 2)) < 0.4
    events = Events(("needle", "grasper"))
    events.add(p, true, np.ones(500))
    found = events.as_json()
    assert found["n"] == 1000
    assert found["brier"] == pytest.approx(brier_score_loss(true.ravel(), p.ravel()))
    assert found["nll"] == pytest.approx(log_loss(true.ravel(), p.ravel()))
    assert found["per_label"]["needle"]["ece"] == pytest.approx(ece(p[:, 0], true[:, 0]))


def test_temperature_keeps_every_label():
    _, p, _ = cases(5)
    for temperature in (*BOUNDS, 0.7, 3.0):
        changed = temper(p.astype(np.float32), temperature)
        assert np.array_equal(changed.argmax(1), p.astype(np.float32).argmax(1))
        np.testing.assert_allclose(changed.sum(1), 1, rtol=1e-5)


def test_tempered_probabilities_are_the_softmax_of_divided_logits():
    logits, p, _ = cases(6)
    np.testing.assert_allclose(temper(p, 2.5), softmax(logits / 2.5, axis=1), rtol=1e-9)
    odds = np.log(p[:, 0] / (1 - p[:, 0]))
    np.testing.assert_allclose(temper_chance(p[:, 0], 2.5), 1 / (1 + np.exp(-odds / 2.5)))


def test_temperature_1_changes_no_bit():
    _, p, _ = cases(7)
    assert temper(p, 1.0) is p


@pytest.mark.parametrize("wanted", [0.5, 1.0, 2.0, 4.0])
def test_a_planted_temperature_is_found(wanted):
    logits, _, label = cases(8, n=40_000, sharp=2.0)
    found = fit_temperature(softmax(logits * wanted, axis=1), label)
    assert found == pytest.approx(wanted, rel=0.03)


def test_a_fitted_temperature_is_the_least_nll_and_then_1():
    logits, _, label = cases(9)
    p = softmax(3 * logits, axis=1)
    found = fit_temperature(p, label)
    wanted = minimize_scalar(
        lambda t: log_loss(label, softmax(3 * logits / math.exp(t), axis=1)),
        bounds=(-3, 3), method="bounded", options={"xatol": 1e-9},
    )  # fmt: skip
    assert math.log(found) == pytest.approx(wanted.x, abs=1e-5)
    assert fit_temperature(temper(p, found), label) == pytest.approx(1, abs=1e-6)
    assert nll(temper(p, found), label) < nll(p, label)


def test_nothing_to_gain_leaves_1_and_no_error_has_no_best_temperature():
    assert fit_temperature([[0.25] * 4] * 3, [0, 1, 2]) == 1.0
    assert fit_temperature([[0.9, 0.1]] * 5, [0] * 5) == BOUNDS[0]
    assert fit_temperature([[0.9, 0.1]] * 5, [1] * 5) == BOUNDS[1]


def test_a_case_of_weight_2_counts_as_two():
    _, p, label = cases(10, n=300, sharp=3.0)
    weight = np.random.default_rng(0).integers(0, 3, 300)
    again = fit_temperature(np.repeat(p, weight, 0), np.repeat(label, weight))
    assert fit_temperature(p, label, weight) == pytest.approx(again)


def test_the_mean_of_members_is_no_worse_than_they_are_on_average():
    for seed in range(20):
        members = [cases(seed * 10 + k, n=200)[1] for k in range(3)]
        label = np.random.default_rng(seed).integers(0, 4, 200)
        mean = np.mean([nll(p, label) for p in members])
        assert nll(np.mean(members, 0), label) <= mean


def test_a_share_that_is_0_costs_much_and_stays_finite():
    assert nll([[1.0, 0.0]], [1]) == pytest.approx(12 * math.log(10))
    assert temper(np.array([1.0, 0.0], np.float32), 3.0).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("p", "label", "weight"),
    [
        ([[0.5, 0.6]], [0], None),
        ([[0.5, 0.5]], [2], None),
        ([[0.5, 0.5]], [-1], None),
        ([[math.nan, 0.5]], [0], None),
        ([[0.5, 0.5]], [0, 1], None),
        ([[0.5, 0.5]], [0], [-1.0]),
        ([[0.5, 0.5]], [0], [0.0]),
        (np.zeros((0, 2)), [], None),
    ],
)
def test_what_is_no_distribution_is_refused(p, label, weight):
    with pytest.raises(UsageError):
        nll(p, label, weight)
