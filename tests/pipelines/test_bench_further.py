"""Further pretraining of a run from other data is scored, arm by arm."""

import pytest

from medssl.encoders.card import load_card, part_of
from pipelines.bench_further import ADAPTED, CAME, NEAR, RANDOM, WHOLE, main
from tests.support import ROOT

DATA = ROOT.parent / "shared" / "data" / "hippocampus"


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="the hippocampus set is not there")
def test_adapters_alone_change_and_all_arms_stand_in_the_table(tmp_path):
    main(data=DATA, out=tmp_path, seeds=1, smoke=True, results=tmp_path)
    table = (tmp_path / "further.md").read_text()
    assert all(f"| {arm} |" in table for arm in (RANDOM, CAME, ADAPTED, WHOLE, NEAR))
    came, adapted, whole = (
        part_of(load_card(tmp_path / f"{name}_0")[1], "encoder")
        for name in ("came", "glare", "mae")
    )
    assert all(adapted[name].equal(weight) for name, weight in came.items())
    assert set(adapted) > set(came)
    assert not all(whole[name].equal(weight) for name, weight in came.items())
