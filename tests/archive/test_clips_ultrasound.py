"""Ultrasound in the store: the box of the sector, and air around the sector."""

import numpy as np
import pytest

from tests.archive.test_clips import frames, stored
from tests.clips import clip

TOP, BOTTOM, LEFT, RIGHT = 40, 200, 60, 260


def fan(height=240, width=320):
    """Where a sector of a curved probe lies."""
    r, c = np.ogrid[:height, :width]
    return (r >= TOP) & (r < BOTTOM) & (np.abs(c - (LEFT + RIGHT) / 2) < 20 + 80 * (r - TOP) / 160)


def scan(number):
    """Speckle in a sector, a banner above it and a depth scale beside it, which stand still."""
    rng = np.random.default_rng(number)
    frame = np.where(fan(), rng.rayleigh(40, fan().shape).clip(8, 255), 0).astype(np.uint8)
    frame[5:15, 10:300:4] = 255
    frame[TOP:BOTTOM:8, 310:314] = 200
    return frame[None]


@pytest.fixture(scope="module")
def sector(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    sample = clip(scan, 20, modality="US", spacing_mm=(0.5, 0.5))
    return stored(folder, sample, short_side_px=80)


def test_the_frame_is_cut_to_the_box_of_the_sector(sector):
    _, entry = sector
    h, w = entry.shape[2:]
    assert min(h, w) == 80
    assert w / h == pytest.approx((RIGHT - LEFT) / (BOTTOM - TOP), rel=0.06)
    # 160 pixels of 0.5 mm became 80: a pixel is about a millimetre.
    np.testing.assert_allclose(entry.spacing_mm, 1.0, rtol=0.06)


def test_outside_the_sector_is_air_in_every_frame(sector):
    store, entry = sector
    x = frames(store, entry)[0]
    tissue = x > entry.air[0]
    corner = tissue[:, :20, :5]
    assert not corner.any() and tissue[:, 10:-5, x.shape[2] // 2].mean() > 0.9


def test_no_overlay_is_left(sector):
    store, entry = sector
    still = frames(store, entry)[0].min(0) > 190 / 255
    assert not still.any()


def test_a_picture_without_sector_stays_whole(tmp_path):
    flat = clip(lambda n: np.full((1, 60, 80), 3 + n, np.uint8), 4, modality="US")
    _, entry = stored(tmp_path, flat)
    assert entry.shape == (1, 4, 60, 80)


def test_a_sector_of_many_pixels_is_found_in_thinned_frames(tmp_path, monkeypatch):
    monkeypatch.setattr("medssl.archive.clips._LOOK_PX", 120)
    _, entry = stored(tmp_path, clip(scan, 8, modality="US"))
    assert entry.shape[2] == pytest.approx(BOTTOM - TOP, abs=8)
    assert entry.shape[3] == pytest.approx(RIGHT - LEFT, abs=12)
