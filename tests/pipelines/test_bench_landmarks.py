"""Landmarks are found in patients never seen; docs/results/landmarks.md has a longer run."""

import numpy as np
import pytest

from pipelines._bench_landmarks import draw_scans
from pipelines.bench_landmarks import look_up_both, pretrain


def test_landmarks_of_two_parts_are_of_different_patients_and_lie_in_their_scans():
    one, other = (draw_scans(part, 2) for part in ("train", "held out"))
    assert not np.array_equal(one[0].hu_DHW, other[0].hu_DHW)
    assert not np.array_equal(one[0].hu_DHW, one[1].hu_DHW)
    for scan in [*one, *other]:
        seen_L3 = scan.voxels_L3[scan.visible_L]
        assert len(seen_L3) > 20
        assert (seen_L3 >= 0).all()
        assert (seen_L3 <= np.array(scan.hu_DHW.shape) - 1).all()


@pytest.mark.slow
def test_a_short_training_finds_landmarks_twice_as_well_as_body_coordinates(tmp_path):
    run = pretrain(tmp_path, draw_scans("train", 16), 200)
    found = look_up_both(tmp_path, run, draw_scans("held out", 5))
    errors = {way: np.median(rows[:, 0]) for way, rows in found.items()}
    assert errors["embedding"] <= 3.0
    assert errors["embedding"] <= errors["body coordinates"] / 2
