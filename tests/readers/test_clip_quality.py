"""Borders, still segments, cuts and out-of-body frames of clips with a known answer."""

import numpy as np
import pytest
from PIL import Image

from medssl.readers._clip_quality import (
    IN_BODY_SCORE,
    ClipQuality,
    body_scores,
    border_px,
    out_of_body,
    thumbnails,
)
from pipelines._scenes import room, tissue


def facts_of(x_CTHW, pieces=1, modality=""):
    quality = ClipQuality()
    for piece in np.array_split(x_CTHW, pieces, axis=1):
        quality.add(piece)
    return quality.facts(modality)


def scenes(make, n, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([make(rng) for _ in range(n)], axis=1)


def noise(n=40, low=60, high=200):
    return np.random.default_rng(0).integers(low, high, (3, n, 48, 64), dtype=np.uint8)


def test_borders_are_counted_in_pixels():
    x_CTHW = np.random.default_rng(1).integers(0, 17, (3, 5, 60, 80), dtype=np.uint8)
    x_CTHW[:, 2:, 7:55, 12:77] = 120
    assert facts_of(x_CTHW).border_px == (7, 5, 12, 3)
    assert "black_border=7,5,12,3" in facts_of(x_CTHW).flags()


@pytest.mark.parametrize("value", [0, 255])
def test_a_picture_without_edges_has_no_border(value):
    assert border_px(np.full((20, 30), value, np.uint8)) == (0, 0, 0, 0)


def test_a_frozen_picture_is_a_still_segment_and_live_noise_is_none():
    x_CTHW = noise()
    x_CTHW[:, 10:25] = x_CTHW[:, 9:10]
    assert facts_of(x_CTHW).still == ((10, 25),)
    assert facts_of(noise()).still == ()


def test_a_few_repeated_frames_are_no_still_segment():
    x_CTHW = np.repeat(noise(10), 4, axis=1)
    assert facts_of(x_CTHW).still == ()


def test_a_cut_is_the_frame_where_the_scene_changes():
    x_CTHW = np.concatenate([noise(20, 100, 110), noise(20, 180, 190)], axis=1)
    assert facts_of(x_CTHW).cuts == (20,)
    assert facts_of(noise(40, 100, 110)).cuts == ()


def test_pieces_give_what_the_whole_gives():
    x_CTHW = np.concatenate([scenes(tissue, 12), scenes(room, 5), scenes(tissue, 9, 1)], axis=1)
    np.testing.assert_equal(facts_of(x_CTHW, 7).__dict__, facts_of(x_CTHW).__dict__)


def test_rooms_in_an_endoscopy_are_found_with_the_dark_frames_beside_them():
    x_CTHW = np.concatenate([scenes(tissue, 20), scenes(room, 6), scenes(tissue, 20, 1)], axis=1)
    x_CTHW[:, 19] = x_CTHW[:, 26] = x_CTHW[:, 40] = 2
    facts = facts_of(x_CTHW)
    assert facts.is_endoscopy
    assert facts.out_of_body == ((19, 27),)
    assert "out_of_body=0.17" in facts.flags()


def test_a_header_that_says_endoscopy_is_believed():
    x_CTHW = scenes(room, 10)
    assert facts_of(x_CTHW).out_of_body == ()
    assert facts_of(x_CTHW, modality="ES").out_of_body == ((0, 10),)


@pytest.mark.parametrize("channels", [1, 3])
def test_ultrasound_is_no_endoscopy(channels):
    grey = np.random.default_rng(0).integers(0, 255, (1, 10, 64, 64), dtype=np.uint8)
    facts = facts_of(np.repeat(grey, channels, axis=0))
    assert (facts.is_endoscopy, facts.out_of_body) == (False, ())


def test_a_clip_too_dark_to_tell_says_nothing():
    facts = facts_of(np.zeros((3, 10, 64, 64), np.uint8), modality="ES")
    assert np.isnan(facts.body_scores).all()
    assert facts.out_of_body == ()


def test_doubt_counts_as_risk():
    scores = np.array([0.9, np.nan, 0.1, np.nan, np.nan, 0.9, np.nan])
    assert out_of_body(scores) == ((1, 5),)


def test_synthetic_rooms_never_pass_as_tissue():
    scores = body_scores(thumbnails(scenes(room, 300)))
    assert (scores < IN_BODY_SCORE).all()
    scores = body_scores(thumbnails(scenes(tissue, 300)))
    assert (scores >= IN_BODY_SCORE).mean() > 0.99


@pytest.mark.real
def test_real_endoscopy_is_in_the_body(medssl_data):
    files = sorted((medssl_data / "polyps" / "images").iterdir())
    frames = [np.asarray(Image.open(f).convert("RGB")).transpose(2, 0, 1)[:, None] for f in files]
    scores = np.concatenate([body_scores(thumbnails(x)) for x in frames])
    assert (scores >= IN_BODY_SCORE).mean() >= 0.99
