"""``medssl phantom`` writes videos with what is hidden beside them."""

import csv
from functools import partial

from medssl.archive.labelled_videos import load_videos
from medssl.stages import phantom


def test_hearts_come_with_their_ejection_fractions(tmp_path):
    phantom.run(phantom.PhantomConfig(out=tmp_path / "p", kind="echo", patients=2))
    rows = list(csv.DictReader((tmp_path / "p" / "hearts.csv").open()))
    assert [row["video"] for row in rows] == ["heart0000.mp4", "heart0001.mp4"]
    assert all((tmp_path / "p" / "videos" / row["video"]).is_file() for row in rows)


def test_operations_come_in_three_splits(tmp_path, monkeypatch):
    short = partial(phantom.write_operations, seconds=0.3)
    monkeypatch.setattr(phantom, "write_operations", short)
    phantom.run(phantom.PhantomConfig(out=tmp_path / "p", kind="surgery", patients=8))
    cases = load_videos(tmp_path / "p" / "videos", tmp_path / "p" / "labels").cases
    assert sorted(case.split for case in cases) == ["test"] * 2 + ["train"] * 5 + ["val"]
