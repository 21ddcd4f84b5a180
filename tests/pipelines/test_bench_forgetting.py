"""Forgetting has one sign for errors and for scores; a second scanner shows other contrast."""

import numpy as np

from pipelines import _bench_forgetting
from pipelines._bench_forgetting import second_scanner, write_scans
from pipelines.bench_forgetting import ANNEALED, CONSTANT, COSINE, table


def row(before, after):
    """One seed with three patients; ``after`` per arm, error and R² alike."""
    values = {
        arm: {
            "before": dict.fromkeys(("error", "explained"), [before] * 3),
            "after": dict.fromkeys(("error", "explained"), [value] * 3),
        }
        for arm, value in after.items()
    }
    return {"arms": values}


def test_forgetting_is_a_rise_of_errors_and_a_fall_of_scores():
    lines = table([row(0.5, {COSINE: 0.6, CONSTANT: 0.55, ANNEALED: 0.5})] * 2)
    cells = {(line[0], line[1]): line[4:] for line in lines}
    error, score = "reconstruction error", "R² of a linear probe"
    assert cells[error, COSINE] == ["+0.100 (+0.100 to +0.100)", "-"]
    assert cells[error, CONSTANT] == ["+0.050 (+0.050 to +0.050)", "+0.050 (+0.050 to +0.050)"]
    assert cells[score, COSINE][0] == "-0.100 (-0.100 to -0.100)"
    assert cells[score, ANNEALED][1] == "-0.100 (-0.100 to -0.100)"


def test_fat_is_brightest_for_the_first_scanner_alone(monkeypatch):
    monkeypatch.setattr(_bench_forgetting, "_BIAS", 0.0)
    muscle, fat = np.full((8, 8, 8), 0.34), np.full((8, 8, 8), 1.0)
    shown = second_scanner(np.stack([muscle, fat]).reshape(16, 8, 8), np.random.default_rng(0))
    assert np.median(shown[:8]) > np.median(shown[8:])


def test_scanners_have_patients_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(_bench_forgetting, "TRAIN", 2)
    folders = [write_scans(tmp_path / scanner, scanner, seed=3) for scanner in "ab"]
    files = [{path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert len(files[0] | files[1]) == sum(map(len, files)) == 4
