"""Phantom hearts: the ejection fraction is in the motion, and in nothing else."""

import csv
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy import stats

from medssl.archive.phantom_echo import (
    SECONDS,
    cavity,
    draw_heart,
    frames_of,
    volume_share,
    write_hearts,
)
from medssl.core.preprocess import Contract
from medssl.core.seeding import generator
from medssl.readers._read import read
from medssl.readers._us_sector import sector_mask
from tests.archive.test_clips import stored

HEARTS = [draw_heart(generator(0, n)) for n in range(400)]
FACTORS = [name for name in asdict(HEARTS[0]) if name != "ejection_fraction"]


@pytest.mark.parametrize("number", range(6))
def test_the_volume_that_the_cavity_loses_is_the_ejection_fraction(number):
    heart = HEARTS[number]
    times_s = np.linspace(0, 60 / heart.rate_bpm, 200)
    areas = np.array([cavity(heart, t).sum() for t in times_s])
    # Area L * S and volume L * S^2, with L as the root of S.
    ejected = 1 - (areas.min() / areas.max()) ** (2.5 / 1.5)
    assert ejected == pytest.approx(heart.ejection_fraction, abs=0.05)


def test_volume_repeats_with_every_beat():
    for heart in HEARTS[:20]:
        period_s = 60 / heart.rate_bpm
        for t in (0.0, 0.2, 0.4):
            assert volume_share(heart, t) == pytest.approx(volume_share(heart, t + period_s))


@pytest.mark.parametrize("factor", FACTORS)
def test_no_factor_of_appearance_tells_the_ejection_fraction(factor):
    values = [asdict(heart)[factor] for heart in HEARTS]
    hidden = [heart.ejection_fraction for heart in HEARTS]
    assert stats.spearmanr(values, hidden).pvalue > 1e-3


def test_brightness_does_not_beat():
    heart = replace(HEARTS[0], ejection_fraction=0.7)
    frames = np.stack(list(frames_of(heart, generator(1), seconds=1.2)))
    moving = np.ptp(frames, axis=0).max()
    assert np.ptp(frames.mean((1, 2))) < 0.03 * frames.mean() and moving > 60


def test_blood_is_darker_than_the_wall_and_moves_with_it():
    heart = HEARTS[1]
    for number, grey in enumerate(frames_of(heart, generator(2), seconds=0.5)):
        blood = cavity(heart, number / heart.fps)
        wall = cavity(replace(heart, size=heart.size * 1.15), number / heart.fps) & ~blood
        assert grey[blood].mean() + 30 < grey[wall].mean()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("hearts")
    return out, write_hearts(out, hearts=2, seed=5)


def test_videos_have_their_rate_and_the_table_their_truth(written):
    out, table = written
    rows = list(csv.DictReader(table.open()))
    for row in rows:
        clip = read(out / "videos" / row["video"])
        assert clip.shape[1] == round(SECONDS * float(row["fps"]))
        np.testing.assert_allclose(np.diff(clip.frame_times_s), 1 / float(row["fps"]), atol=1e-3)
        assert 0.15 <= float(row["ejection_fraction"]) <= 0.75
    assert len({row["ejection_fraction"] for row in rows}) == 2


def test_text_lies_outside_the_sector_and_is_cut_off(written, tmp_path):
    out, _ = written
    clip = read(out / "videos" / "heart0000.mp4")
    mask = sector_mask(clip.array)
    still = clip.array.min((0, 1))
    assert (still[:12] > 150).any() and not mask[:8].any()
    clip.modality = "US"
    store, entry = stored(tmp_path, clip, short_side_px=112)
    x = store.read("key", (0, 0, 0), entry.shape[1:])
    assert Contract(short_side_px=112).digest in str(store.folder)
    assert (x[..., :12, :30] == 0).all() and (x[..., -4:, :20] == 0).all()


def test_same_seed_same_files(written, tmp_path):
    out, _ = written
    write_hearts(tmp_path, hearts=1, seed=5)
    name = "videos/heart0000.mp4"
    assert (tmp_path / name).read_bytes() == (out / name).read_bytes()
