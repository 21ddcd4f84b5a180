"""The infinite schedule: its phases, and that a step's rate depends on nothing but the step."""

import math
from itertools import pairwise

import pytest

from medssl.core.errors import ConfigError
from medssl.training.optim import OptimConfig, phases_of, progress_at, rate_at
from medssl.training.schedule import Phases, infinite, warmup_cosine

PHASES = Phases(warm=10, cooled=40, anneal=80, end=100)
CONSTANT, FINAL = 0.4, 0.01


def factor(n):
    return infinite(n, PHASES, CONSTANT, FINAL)


@pytest.mark.parametrize("corner", PHASES[:3])
def test_no_jump_where_phases_meet(corner):
    below, above = math.nextafter(corner, 0), math.nextafter(corner, 1e9)
    assert abs(factor(below) - factor(corner)) < 1e-12
    assert abs(factor(above) - factor(corner)) < 1e-12


def test_rises_to_the_peak_and_never_after():
    rates = [factor(n) for n in range(101)]
    assert rates[:11] == pytest.approx([n / 10 for n in range(11)])
    assert all(later <= earlier for earlier, later in pairwise(rates[10:]))


def test_values_of_each_phase():
    assert factor(25) == pytest.approx(0.7)  # half of the cosine: mean of 1 and 0.4
    assert {factor(n) for n in range(40, 81)} == {CONSTANT}
    assert factor(90) == pytest.approx(math.sqrt(CONSTANT * FINAL))  # half-way of an exponential
    assert factor(100) == pytest.approx(FINAL, abs=1e-15)


def options(**more):
    return OptimConfig(lr=2.0, warmup=10, schedule="infinite", cooldown=30, **more)


def test_a_longer_run_repeats_the_shorter_one():
    for told in (rate_at, progress_at):
        short, long = ([told(options(), step, steps) for step in range(50)] for steps in (50, 5000))
        assert long == short


def test_only_the_last_steps_are_annealed():
    plain, annealed = options(), options(anneal=20, final_share=FINAL)
    kept = [rate_at(annealed, step, 100) for step in range(80)]
    assert kept == [rate_at(plain, step, 100) for step in range(80)]
    assert rate_at(annealed, 99, 100) == pytest.approx(2.0 * FINAL)
    assert (progress_at(annealed, 80, 100), progress_at(annealed, 100, 100)) == (0.5, 1.0)


def test_the_cosine_that_is_repeated_jumps():
    # What the infinite schedule is for: a second cosine starts again from its peak.
    last, first = warmup_cosine(99, 100, 0), warmup_cosine(0, 100, 0)
    assert first - last > 0.99
    ends = [rate_at(options(), step, 1000) for step in (499, 500)]
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    ("more", "word"), [({"anneal": 61}, "constant phase"), ({"final_share": 0.5}, "raise the rate")]
)
def test_phases_that_do_not_fit_are_refused(more, word):
    with pytest.raises(ConfigError, match=word) as error:
        phases_of(options(**more), 100)
    assert error.value.fix
