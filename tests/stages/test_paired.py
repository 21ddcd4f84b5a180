"""Balanced accuracy of several runs: as wide as its recalls, not as the mixture of classes."""

import json
import math

import numpy as np
import pytest

from medssl.evaluation.bootstrap import Interval
from medssl.evaluation.classification import summarise
from medssl.stages._compare_job import Job
from medssl.stages._compare_results import Found
from medssl.stages._paired import BALANCED, mean_score, score_difference

ILL = np.arange(30) < 3  # 3 of 30 patients


def write_run(path, labels_N, predicted_N):
    cases = [
        {"case": f"c{n:03d}", "label": str(int(label)), "predicted": str(int(predicted))}
        for n, (label, predicted) in enumerate(zip(labels_N, predicted_N, strict=True))
    ]
    path.write_text(json.dumps({"cases": cases}))
    return path


def patients(n):
    return {f"c{k:03d}": f"p{k}" for k in range(n)}


def test_a_perfect_classifier_is_1_to_1_however_rare_a_class_is(tmp_path):
    runs = [write_run(tmp_path / f"{seed}.json", ILL, ILL) for seed in range(3)]
    assert mean_score(runs, patients(30), BALANCED) == Interval(1.0, 1.0, 1.0, 30)


def test_a_perfect_classifier_is_better_than_one_that_always_says_no(tmp_path):
    perfect = [write_run(tmp_path / "a.json", ILL, ILL)] * 3
    never = [write_run(tmp_path / "b.json", ILL, 0 * ILL)] * 3
    found = score_difference(perfect, never, patients(30), BALANCED)
    assert found[:3] == pytest.approx((0.5, 0.5, 0.5))


def test_the_interval_is_that_of_evaluate(tmp_path):
    labels = np.arange(200) < 20
    predicted = labels ^ (np.random.default_rng(0).random(200) < 0.15)
    found = mean_score([write_run(tmp_path / "a.json", labels, predicted)], patients(200), BALANCED)
    p_NK = np.eye(2)[predicted.astype(int)]
    golden = summarise(labels, p_NK, np.arange(200), ["0", "1"])[BALANCED]
    assert found[:3] == pytest.approx([golden[k] for k in ("mean", "low", "high")], abs=0.02)


def test_a_class_of_one_patient_leaves_no_interval(tmp_path):
    job = Job("scratch", 2, 0, 1)
    found = Found(
        arms=[], metrics={job: write_run(tmp_path / "a.json", ILL, ILL)}, rows=[],
        patients=patients(30), classes={"0": 29, "1": 1}, measure=BALANCED, batch_size=1,
    )  # fmt: skip
    gain = found._gain([job], "scratch")
    assert (gain["low"], gain["verdict"]) == (None, "no interval")
    assert not math.isnan(gain["mean"])
