"""Quality of cases, risk and coverage, thresholds: closed forms and simulation."""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from medssl.core.errors import UsageError
from medssl.evaluation.refusal import (
    aurc,
    risk_coverage,
    risk_threshold,
    share_threshold,
    soft_dice,
    summarise,
)
from medssl.evaluation.segmentation import dice


def test_expected_dice_is_the_mean_dice_of_drawn_references():
    rng = np.random.default_rng(0)
    p = 1 / (1 + np.exp(-np.linspace(-6, 6, 4000)))
    mask = p > 0.5
    drawn = [dice(mask, rng.random(4000) < p) for _ in range(200)]
    found = soft_dice(np.stack([1 - p, p]), mask.astype(int), [True, True])
    assert found[0] == pytest.approx(np.mean(drawn), abs=0.002)


def test_certain_masks_are_perfect_and_doubt_outside_of_them_costs_too():
    sure = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert soft_dice(sure, sure.argmax(0), [True, True]).tolist() == [1.0]
    doubt = np.array([[0.6, 0.6, 0.0], [0.4, 0.4, 1.0]])
    assert soft_dice(doubt, doubt.argmax(0), [True, True]) == pytest.approx(2 / 2.8)


def test_an_organ_that_is_never_missing_was_missed():
    empty = np.array([[0.99, 0.8], [0.01, 0.2]])
    assert soft_dice(empty, np.zeros(2, int), [True, True]).tolist() == [0.0]
    assert soft_dice(empty, np.zeros(2, int), [True, False]).tolist() == [0.8]


def test_risk_falls_when_the_worst_are_left_out_and_equal_quality_says_nothing():
    risk = np.array([0.1, 0.9, 0.3, 0.7])
    coverage, kept = risk_coverage(1 - risk, risk)
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert kept.tolist() == pytest.approx([0.1, 0.2, 1.1 / 3, 0.5])
    assert aurc(np.ones(4), risk) == pytest.approx(risk.mean())
    assert aurc(1 - risk, risk) < aurc(np.ones(4), risk) < aurc(risk, risk)


def test_area_of_a_perfect_order_has_the_closed_form():
    n, wrong = 100, 20
    risk = np.r_[np.zeros(n - wrong), np.ones(wrong)]
    wanted = sum((k - (n - wrong)) / k for k in range(n - wrong + 1, n + 1)) / n
    assert aurc(-risk, risk) == pytest.approx(wanted)


def test_order_of_the_cases_does_not_matter_even_among_equals():
    rng = np.random.default_rng(0)
    quality, risk = rng.integers(0, 4, 60) / 4, rng.random(60)
    for _ in range(5):
        order = rng.permutation(60)
        assert aurc(quality[order], risk[order]) == pytest.approx(aurc(quality, risk))


def test_threshold_keeps_the_risk_on_the_cases_it_was_chosen_on():
    rng = np.random.default_rng(1)
    score = rng.random(200)
    quality = np.clip(score + rng.normal(0, 0.1, 200), 0, 1)
    risk = 1 - score
    for most in (0.2, 0.3, 0.4):
        least = risk_threshold(quality, risk, most)
        assert risk[quality >= least].mean() <= most
        next_lower = quality[quality < least].max()
        assert risk[quality >= next_lower].mean() > most


def test_no_threshold_is_good_enough_or_every_case_is():
    assert risk_threshold([0.9, 0.8], [0.5, 0.6], most=0.1) == math.inf
    assert risk_threshold([0.9, 0.8], [0.0, 0.1], most=0.1) == 0.8


@pytest.mark.parametrize("share", [0.0, 0.05, 0.1, 0.5, 1.0])
def test_at_most_the_share_falls_below(share):
    quality = np.random.default_rng(2).random(40)
    below = (quality < share_threshold(quality, share)).sum()
    assert below <= share * 40
    assert below >= min(share * 40, 39) - 1


def test_summary_agrees_with_scipy():
    rng = np.random.default_rng(3)
    score = rng.random(50)
    quality = score + rng.normal(0, 0.3, 50)
    found = summarise(quality, score)
    assert found["rank_correlation"] == pytest.approx(spearmanr(quality, score).statistic)
    assert found["aurc_best"] <= found["aurc"] <= found["aurc_chance"]
    assert found["coverage"][-1] == 1.0
    assert summarise([0.5, 0.5], [0.1, 0.2])["rank_correlation"] is None


def test_what_cannot_be_ordered_is_refused():
    for quality, risk in (([], []), ([0.1], [0.1, 0.2]), ([math.nan], [0.1])):
        with pytest.raises(UsageError):
            risk_coverage(quality, risk)
