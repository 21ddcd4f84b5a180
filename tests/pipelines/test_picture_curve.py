"""The label curve on pictures: look-alikes last, the same pictures for both arms."""

import csv

import pytest

from pipelines._picture_curve import PictureCurve, link_pictures

POOL = {"a.jpg": ["a.jpg", "b.jpg", "c.jpg"], "d.jpg": ["d.jpg"], "e.jpg": ["e.jpg", "f.jpg"]}


@pytest.fixture
def curve(tmp_path):
    for part in ("images", "masks"):
        (tmp_path / "data" / part).mkdir(parents=True)
    return PictureCurve(
        out=tmp_path / "out", data=tmp_path / "data", pretrain="p", finetune="f", pool=POOL,
        groups={},
    )  # fmt: skip


def rows(folder):
    return list(csv.DictReader((folder / "labelled.csv").open()))


@pytest.mark.parametrize("seed", range(5))
def test_look_alikes_come_last(curve, seed):
    assert len({row["patient"] for row in rows(curve.labelled(3, seed))}) == 3


def test_all_are_all_and_masks_fit(curve):
    table = rows(curve.labelled(6, 0))
    assert len({row["image"] for row in table}) == 6
    assert all(row["image"].replace("images", "masks") == row["label"] for row in table)


def test_fewer_are_among_more(curve):
    few, many = ({row["image"] for row in rows(curve.labelled(n, 1))} for n in (2, 5))
    assert few < many


def test_links_lead_to_the_data(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"x")
    for _ in range(2):  # again after an interruption
        link_pictures(tmp_path, tmp_path / "out", "images", ["a.jpg"])
    assert (tmp_path / "out" / "a.jpg").read_bytes() == b"x"
