"""Bootstrap intervals: closed forms, scipy, and their coverage of a known mean."""

import numpy as np
import pytest
from scipy import stats

from medssl.core.errors import UsageError
from medssl.evaluation.bootstrap import bootstrap_difference, bootstrap_mean


def test_equal_values_have_no_spread():
    assert bootstrap_mean([0.1] * 7, range(7))[1:3] == (pytest.approx(0.1, abs=0),) * 2


def test_agrees_with_scipy_on_independent_cases():
    values = np.random.default_rng(0).normal(size=60)
    golden = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20000, rng=0
    ).confidence_interval
    ours = bootstrap_mean(values, np.arange(60), draws=20000)
    assert (ours.low, ours.high) == pytest.approx((golden.low, golden.high), abs=0.01)
    assert ours.mean == pytest.approx(values.mean())
    assert ours.n == 60


def test_copies_of_a_patient_add_no_certainty():
    values = np.random.default_rng(1).normal(size=20)
    once = bootstrap_mean(values, np.arange(20))
    copied = bootstrap_mean(np.tile(values, 5), np.tile(np.arange(20), 5))
    assert copied[:3] == pytest.approx(once[:3])


def test_interval_covers_the_true_mean_of_clustered_cases():
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(40), 3)
    hits = 0
    for _ in range(200):
        values = np.repeat(rng.normal(size=40), 3) + 0.3 * rng.normal(size=120)
        interval = bootstrap_mean(values, groups, draws=500)
        hits += interval.low <= 0.0 <= interval.high
    # Nominal 0.95, a little less for 40 groups; ignoring the groups would give about 0.75.
    assert 0.88 <= hits / 200 <= 0.99


def test_one_patient_says_nothing_of_the_spread():
    interval = bootstrap_mean([0.8, 0.9], ["a", "a"])
    assert interval.mean == pytest.approx(0.85)
    assert np.isnan([interval.low, interval.high]).all()


def test_same_seed_same_interval():
    values = np.random.default_rng(3).normal(size=9)
    assert bootstrap_mean(values, range(9)) == bootstrap_mean(values, range(9))
    assert bootstrap_mean(values, range(9)) != bootstrap_mean(values, range(9), seed=1)


def test_a_constant_gain_is_certain():
    a = np.random.default_rng(4).normal(size=(3, 10))
    interval = bootstrap_difference(a + 0.25, a, np.arange(10))
    assert interval[:3] == pytest.approx((0.25, 0.25, 0.25))


def test_difference_is_the_mean_of_the_paired_differences():
    a, b = np.random.default_rng(5).normal(size=(2, 30))
    assert bootstrap_difference(a, b, np.arange(30)) == bootstrap_difference(
        [a], [b], np.arange(30)
    )
    paired = bootstrap_difference(a, b, np.arange(30), resample_seeds=False)
    assert paired == bootstrap_mean(a - b, np.arange(30))


def test_seeds_that_disagree_widen_the_interval():
    a = np.array([[1.0], [0.0], [-1.0]]) + np.random.default_rng(6).normal(size=(3, 50)) / 10
    fixed = bootstrap_difference(a, 0 * a, np.arange(50), resample_seeds=False)
    drawn = bootstrap_difference(a, 0 * a, np.arange(50))
    assert drawn.high - drawn.low > 10 * (fixed.high - fixed.low)


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [1.0, 2.0, 3.0]])
def test_bad_values_are_refused(values):
    with pytest.raises(UsageError):
        bootstrap_mean(values, ["a", "b"][: max(len(values), 0)] if len(values) < 3 else ["a"])


def test_unpaired_arms_are_refused():
    with pytest.raises(UsageError, match="shapes"):
        bootstrap_difference(np.zeros((2, 4)), np.zeros((2, 5)), range(4))


def test_a_mean_of_shares_is_never_said_to_be_outside_of_0_to_1():
    # Two seeds far apart: Student's t with one degree of freedom reaches far beyond.
    values_SN = np.array([[0.2] * 10, [0.9] * 10])
    wide = bootstrap_difference(values_SN, np.zeros_like(values_SN), range(10))
    assert wide.low < 0 and wide.high > 1
    assert wide.within(0, 1)[1:3] == (0, 1)
    assert np.isnan(bootstrap_mean([0.5], ["a"]).within(0, 1).low)
