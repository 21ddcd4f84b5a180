"""The pipeline from slices to volumes runs, and writes its table."""

import pytest

from pipelines.bench_supervoxel import RADIOGRAPHS, RANDOM, SLICES, UNTRAINED, main
from tests.support import ROOT

DATA = ROOT.parent / "shared" / "data"


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="the sets are not there")
def test_two_steps_of_each_arm_give_a_table(tmp_path):
    main(data=DATA, out=tmp_path / "runs", seeds=1, smoke=True, results=tmp_path)
    table = (tmp_path / "supervoxel.md").read_text()
    assert all(f"| {arm} |" in table for arm in (SLICES, RADIOGRAPHS, UNTRAINED, RANDOM))
