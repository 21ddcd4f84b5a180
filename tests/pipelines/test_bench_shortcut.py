"""The planted shortcut: independent of anatomy, and still there after preprocessing."""

import numpy as np
import pytest

from medssl.core.geometry import Geometry
from medssl.core.preprocess import Contract, prepare
from medssl.evaluation.shortcut import read_outs, shortcut
from pipelines.bench_shortcut import slices


@pytest.fixture(scope="module")
def probe():
    return slices(0, 40)


def test_each_patient_has_one_site_and_both_parts(probe):
    assert (probe.site_N[0::2] == probe.site_N[1::2]).all()
    assert set(zip(probe.part_N, probe.site_N, strict=True)) == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_fine_detail_of_prepared_slices_gives_the_site_away_and_is_reported(probe):
    x_NHW = np.stack(
        [
            prepare(one[None], Geometry(kind="image"), "MR", Contract()).array[0, 0]
            for one in probe.pictures
        ]
    ).astype(np.float64)
    energy_N4 = np.stack(  # of differences one and two pixels apart: noise texture and blur
        [np.abs(np.roll(x_NHW, k, axis) - x_NHW).mean((1, 2)) for k in (1, 2) for axis in (1, 2)], 1
    )
    labels = {
        "site_id": ["ab"[k] for k in probe.site_N],
        "body_part": [("CHEST", "ABDOMEN")[k] for k in probe.part_N],
    }
    found = read_outs(energy_N4, labels, probe.patient_N)
    assert found["site_id"].excess > 0.8
    assert shortcut(found).startswith("the embedding tells site_id")
