"""Phase metrics: hand examples, scikit-learn, absent phases, boundaries; average precision."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from medssl.core.errors import UsageError
from medssl.evaluation.phases import (
    edit_score,
    plain_scores,
    relaxed_scores,
    segmental_f1,
    segments,
)
from medssl.evaluation.tools import (
    average_precision,
    average_precisions,
    mean_average_precision,
)


def labels(seed, n=60, phases=5):
    rng = np.random.default_rng(seed)
    return rng.integers(phases, size=n), rng.integers(phases, size=n)


def runs(*lengths):
    """Phases with so many frames each: ``runs((0, 3), (1, 2))`` is 0 0 0 1 1."""
    return np.concatenate([np.full(n, phase) for phase, n in lengths])


@given(st.integers(0, 300))
def test_plain_scores_are_sklearns_macro_means_over_phases_of_either_side(seed):
    ref, pred = labels(seed, n=int(np.random.default_rng(seed).integers(1, 12)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        p, r, f, _ = sk.precision_recall_fscore_support(ref, pred, average="macro", zero_division=0)
        jaccard = sk.jaccard_score(ref, pred, average="macro", zero_division=0)
    expected = [sk.accuracy_score(ref, pred), p, r, jaccard, f]
    assert list(plain_scores(ref, pred, 5).means().values()) == pytest.approx(expected)


def test_an_all_correct_video_scores_1_even_with_an_absent_phase():
    ref = runs((0, 4), (2, 3), (4, 1))
    assert set(plain_scores(ref, ref, 7).means().values()) == {1.0}
    assert set(relaxed_scores(ref, ref, 7, tolerance=2).means().values()) == {1.0}


def test_a_phase_predicted_but_never_there_costs_the_plain_mean_and_not_the_relaxed_one():
    ref, pred = runs((0, 9), (0, 1)), runs((0, 9), (1, 1))
    assert plain_scores(ref, pred, 3).means()["f1"] == pytest.approx((2 * 0.9 / 1.9 + 0) / 2)
    assert relaxed_scores(ref, pred, 3, tolerance=2).means()["f1"] == pytest.approx(1.8 / 1.9)


def test_a_hand_example_of_one_video():
    # phase 0: 2 of 3 predicted right, of 4 there; phase 1: 3 of 5, of 4.
    ref, pred = [0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 0, 1, 1, 1]
    found = plain_scores(ref, pred, 2)
    assert found.accuracy == 5 / 8
    assert found.precision_K.tolist() == pytest.approx([2 / 3, 3 / 5])
    assert found.recall_K.tolist() == pytest.approx([2 / 4, 3 / 4])
    assert found.jaccard_K.tolist() == pytest.approx([2 / 5, 3 / 6])


def test_one_frame_and_one_class_are_fine():
    assert plain_scores([2], [2], 3).means()["f1"] == 1
    assert plain_scores([2], [0], 3).means() == dict.fromkeys(
        ("accuracy", "precision", "recall", "jaccard", "f1"), 0.0
    )
    assert relaxed_scores([2], [0], 3, tolerance=10).accuracy == 0  # no neighbour to be taken for


def test_a_late_and_an_early_transition_within_the_tolerance_are_right_one_frame_more_is_not():
    ref = runs((0, 30), (1, 30))
    for shift in (10, -10):
        assert relaxed_scores(ref, runs((0, 30 + shift), (1, 30 - shift)), 2, tolerance=10)[0] == 1
    for shift in (11, -11):
        pred = runs((0, 30 + shift), (1, 30 - shift))
        wrong = relaxed_scores(ref, pred, 2, tolerance=10).accuracy
        assert wrong == pytest.approx(59 / 60)


def test_a_phase_that_is_no_neighbour_stays_wrong_at_the_boundary():
    ref = runs((0, 20), (1, 20))
    pred = runs((0, 15), (2, 10), (1, 15))
    assert relaxed_scores(ref, pred, 3, tolerance=10).accuracy == 30 / 40


def test_the_rule_of_cholec80_goes_by_number_with_two_steps_late_in_the_operation():
    pair = {"tolerance": 10, "rule": "cholec80"}
    # Cleaning (5) skipped: dissection (3) is followed by packaging (4) by order, 5 is allowed too.
    ref = runs((3, 20), (4, 20))
    assert relaxed_scores(ref, runs((3, 15), (5, 5), (4, 20)), 7, **pair).accuracy == 1
    # ... but two steps early are not allowed after phase 2,
    ref = runs((2, 20), (4, 20))
    assert relaxed_scores(ref, runs((2, 15), (4, 25)), 7, **pair).accuracy == 35 / 40
    # ... and two steps late only in phases 5 and 6.
    assert relaxed_scores(ref, runs((2, 25), (4, 15)), 7, **pair).accuracy == 35 / 40
    ref = runs((4, 20), (6, 20))
    assert relaxed_scores(ref, runs((4, 25), (6, 15)), 7, **pair).accuracy == 1


def test_relaxed_precision_and_recall_stay_within_1():
    ref = runs((0, 20), (1, 20))
    found = relaxed_scores(ref, runs((0, 28), (1, 12)), 2, tolerance=10)
    assert found.precision_K.tolist() == [1, 1]
    assert found.recall_K.tolist() == [1, 1]


def test_without_tolerance_the_relaxed_accuracy_is_the_plain_one():
    ref, pred = labels(3)
    assert relaxed_scores(ref, pred, 5, tolerance=0)[0] == plain_scores(ref, pred, 5)[0]


def test_a_frame_without_prediction_is_wrong_and_in_no_segment():
    found = plain_scores([0, 0, 1, 1], [0, 0, 1, -1], 2)
    assert (found.accuracy, found.recall_K[1], found.precision_K[1]) == (0.75, 0.5, 1.0)
    assert [one.phase for one in segments([0, -1, -1, 1])] == [0, 1]


@pytest.mark.parametrize(("ref", "pred"), [([], []), ([0, 1], [0]), ([0, 3], [0, 0]), ([-1], [0])])
def test_what_cannot_be_compared_is_refused(ref, pred):
    with pytest.raises(UsageError):
        plain_scores(ref, pred, 3)


def test_edit_score_counts_order_and_not_duration():
    ref = runs((0, 10), (1, 10), (2, 10))
    assert edit_score(ref, runs((0, 2), (1, 26), (2, 2))) == 1
    assert edit_score(ref, runs((0, 15), (2, 15))) == pytest.approx(2 / 3)
    assert edit_score(ref, runs((2, 10), (1, 10), (0, 10))) == pytest.approx(1 / 3)


def test_edit_score_of_an_over_segmented_video_falls_though_accuracy_stays():
    ref = runs((0, 50), (1, 50))
    pred = ref.copy()
    pred[10:40:10] = 1  # three flickers, six segments more
    assert plain_scores(ref, pred, 2).accuracy == 0.97
    assert edit_score(ref, pred) == pytest.approx(2 / 8)


def test_segmental_f1_by_overlap():
    ref = runs((0, 10), (1, 10))
    pred = runs((0, 13), (1, 7))  # intersection over union 10/13 and 7/10
    assert [segmental_f1(ref, pred, k) for k in (0.5, 0.7, 0.75, 0.8)] == [1, 1, 0.5, 0]


def test_a_reference_segment_is_taken_once():
    ref, pred = runs((0, 10), (1, 10)), runs((0, 6), (1, 1), (0, 3), (1, 10))
    # three of four are of the right phase and overlap enough at 10 %, but one 0 is taken twice
    assert segmental_f1(ref, pred, 0.1) == pytest.approx(2 * 2 / (2 + 4))


@given(st.integers(0, 300))
def test_average_precision_is_sklearns_with_ties(seed):
    rng = np.random.default_rng(seed)
    positive, score = rng.random(40) < 0.3, np.round(rng.random(40), 1)
    positive[0] = True
    assert average_precision(positive, score) == pytest.approx(
        sk.average_precision_score(positive, score)
    )


def test_perfect_ranking_is_1_and_one_score_for_all_is_the_share_of_positives():
    assert average_precision([1, 1, 0, 0], [4, 3, 2, 1]) == 1
    assert average_precision([1, 0, 0, 0], [0.5] * 4) == 0.25


def test_a_tool_without_a_frame_has_no_value_and_counts_as_0_in_the_mean():
    positive = np.array([[1, 0], [0, 0]])
    ap = average_precisions(positive, [[0.9, 0.5], [0.1, 0.5]])
    assert ap[0] == 1
    assert math.isnan(ap[1])
    assert mean_average_precision(ap) == 0.5


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(UsageError):
        average_precision([True, False], [math.nan, 0.0])
