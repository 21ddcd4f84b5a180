"""Two arms: false calls where there is no difference, and differences that are found."""

import numpy as np
import pytest
from scipy import stats

from medssl.core.errors import UsageError
from medssl.evaluation.bootstrap import bootstrap_difference
from medssl.evaluation.classification import balanced_parts
from medssl.evaluation.compare import gain, mean_score

PATIENTS = np.arange(60)


def arms(rng, *, gain_points=0.0, seed_sd, patient_sd=6.0, seeds=3, of_patients=True):
    """Dice points of two arms; the patients' difference lasts over seeds or is drawn anew."""
    base = rng.normal(85, 4, 60)
    a, b = base + rng.normal(0, seed_sd, (2, seeds, 1))
    noise = rng.normal(0, patient_sd, (1 if of_patients else seeds, 60))
    return a + gain_points + noise, b


def calls(n=200, **setting):
    """How many of ``n`` comparisons that call the first arm better or worse."""
    found = 0
    for number in range(n):
        a, b = arms(np.random.default_rng([7, number]), **setting)
        interval = bootstrap_difference(a, b, PATIENTS, seed=number, draws=1000)
        found += not interval.low <= 0 <= interval.high
    return found


@pytest.mark.parametrize("of_patients", [True, False])
@pytest.mark.parametrize(("seed_sd", "seeds"), [(1.0, 3), (3.0, 3), (1.0, 2)])
def test_equal_arms_are_rarely_told_apart(seed_sd, seeds, of_patients):
    # 17 of 200 is the 99 % point of what a true 5 % gives.
    assert calls(seed_sd=seed_sd, seeds=seeds, of_patients=of_patients) <= 17


def test_three_points_are_found():
    assert calls(gain_points=3.0, seed_sd=0.5) >= 160


@pytest.mark.parametrize(
    ("paired", "ill_share", "n"), [(False, 0.1, 200), (True, 0.1, 200), (True, 0.1, 60)]
)
def test_intervals_of_balanced_accuracy_hold_the_truth_where_a_class_is_rare(paired, ill_share, n):
    """3 seeds whose recalls spread by 0.05 about 0.8 (the rare class) and 0.9, or two such arms."""
    held = 0
    for number in range(200):
        rng = np.random.default_rng([11, number])
        ill = rng.random(n) < ill_share
        arms_SN = []
        for _ in range(2):
            luck = rng.random(n)  # of a patient: the same for every seed
            right_SN = luck < np.where(ill, 0.8, 0.9) + rng.normal(0, 0.05, (3, 1))
            arms_SN.append([balanced_parts(ill, right, range(n)) for right in right_SN])
        a, b = np.array(arms_SN) * [[[1]], [[paired]]]
        low, high = bootstrap_difference(a, b, np.arange(n), seed=number, draws=1000)[1:3]
        held += low <= (0 if paired else 0.85) <= high
    # If 95 % is true, it is another number in 1 of 100 such tests.
    assert 182 <= held <= 197


def test_seeds_drawn_with_replacement_would_call_too_often():
    """What the interval is for: the plain bootstrap of 3 seeds, on the same comparisons."""
    found = 0
    for number in range(200):
        rng = np.random.default_rng([7, number])
        a, b = arms(rng, seed_sd=1.0)
        d_SN = a - b
        rows = rng.integers(3, size=(1000, 3))
        weight_RN = rng.multinomial(60, np.full(60, 1 / 60), size=1000) / 60
        means = np.einsum("rn,rn->r", d_SN[rows].mean(1), weight_RN)
        low, high = np.percentile(means, [2.5, 97.5])
        found += not low <= 0 <= high
    assert found > 17


def test_patients_that_agree_leave_students_t():
    by_seed = np.array([1.0, 1.6, 2.5])
    d_SN = np.repeat(by_seed[:, None], 60, axis=1)
    golden = stats.t.interval(0.95, 2, by_seed.mean(), by_seed.std(ddof=1) / np.sqrt(3))
    ours = bootstrap_difference(d_SN, 0 * d_SN, PATIENTS, draws=200_000)
    assert (ours.low, ours.high) == pytest.approx(golden, abs=0.03 * (golden[1] - golden[0]))


def test_seeds_that_agree_leave_scipys_bootstrap_of_patients():
    a, b = np.random.default_rng(3).normal(size=(2, 60))
    golden = stats.bootstrap(
        (a, b),
        lambda x, y, axis: (x - y).mean(axis),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        rng=0,
    ).confidence_interval
    ours = bootstrap_difference(np.tile(a, (3, 1)), np.tile(b, (3, 1)), PATIENTS, draws=20_000)
    assert (ours.low, ours.high) == pytest.approx((golden.low, golden.high), abs=0.015)


def test_copies_of_a_patient_add_no_certainty():
    a = np.random.default_rng(4).normal(size=(3, 20))
    once = gain(a, 0 * a, np.arange(20)).interval
    copied = gain(np.tile(a, 5), np.tile(0 * a, 5), np.tile(np.arange(20), 5)).interval
    assert copied[:3] == pytest.approx(once[:3])


def test_a_constant_gain_is_certain_and_a_swap_turns_it():
    a = np.random.default_rng(5).normal(size=(3, 12))
    better = gain(a + 0.25, a, np.arange(12))
    assert better.verdict == "better"
    assert better.interval[:3] == pytest.approx((0.25,) * 3)
    assert gain(a, a + 0.25, np.arange(12)).verdict == "worse"
    assert (better.seeds, better.groups, better.interval.n) == (3, 12, 12)


@pytest.mark.parametrize("shape", [(1, 30), (3, 1)])
def test_one_seed_or_one_patient_gets_no_interval(shape):
    a = np.random.default_rng(6).normal(size=shape)
    found = gain(a, 0 * a, np.arange(shape[1]))
    assert found.verdict == "no interval"
    assert np.isnan(found.interval[1:3]).all()
    assert found.interval.mean == pytest.approx(a.mean())


def test_the_mean_of_one_arm_is_its_mean():
    a = np.random.default_rng(8).normal(0.8, 0.05, (3, 20))
    found = mean_score(a, np.arange(20)).interval
    assert found.mean == pytest.approx(a.mean())
    assert found.low < found.mean < found.high


def test_arms_of_other_cases_are_refused():
    with pytest.raises(UsageError, match="shapes"):
        gain(np.zeros((3, 4)), np.zeros((3, 5)), range(4))
