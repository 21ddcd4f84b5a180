"""Copies of a picture hash alike, other pictures do not, and the search misses no pair."""

import io

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medssl.archive._perceptual import (
    NEAR_BITS,
    distance_bits,
    near_pairs,
    perceptual_hash,
    projection,
)


def as_array(image):
    return np.moveaxis(np.atleast_3d(np.asarray(image)), 2, 0)


def jpeg(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def test_scale_offset_and_size_do_not_change_the_hash():
    coarse = np.random.default_rng(0).uniform(0, 1, (1, 16, 16))
    x_CHW = np.kron(coarse, np.ones((1, 8, 8)))
    assert perceptual_hash(x_CHW) == perceptual_hash(40 * x_CHW - 1000)
    finer = np.kron(coarse, np.ones((1, 24, 16)))
    assert distance_bits(perceptual_hash(x_CHW), perceptual_hash(finer)) <= NEAR_BITS


def test_unrelated_noise_differs_in_about_half_of_the_bits():
    rng = np.random.default_rng(1)
    hashes = [perceptual_hash(rng.uniform(0, 1, (1, 64, 64))) for _ in range(60)]
    apart = [distance_bits(a, b) for k, a in enumerate(hashes) for b in hashes[:k]]
    assert 30 < np.mean(apart) < 34
    assert min(apart) > 10


def test_a_flat_picture_has_no_hash():
    assert perceptual_hash(np.full((1, 40, 40), 3.0)) is None


def test_volumes_and_clips_are_seen_by_their_middle():
    x_CDHW = np.zeros((1, 9, 8, 8))
    x_CDHW[0, 3:6, 2:4] = 6.0
    x_CDHW[0, 0] = 99.0  # outside the middle third
    np.testing.assert_allclose(projection(x_CDHW, "volume")[0, 2], 6.0)
    assert projection(x_CDHW[:, :2], "clip").shape == (1, 8, 8)


@pytest.mark.parametrize("most", [0, 2, 5])
def test_the_search_in_buckets_equals_the_search_among_all(most):
    rng = np.random.default_rng(most)
    seeds = rng.integers(0, 2**63, 40).tolist()
    flips = [
        sum(1 << int(b) for b in rng.choice(64, int(rng.integers(0, 8)), replace=False))
        for _ in range(400)
    ]
    hashes = [f"{seeds[k % 40] ^ flip:016x}" for k, flip in enumerate(flips)]
    brute = {}
    for k, one in enumerate(hashes):
        close = [j for j in range(k) if distance_bits(one, hashes[j]) <= most]
        if close:
            brute[k] = close[0]
    assert near_pairs(hashes, most) == brute


def test_no_hashes_no_pairs():
    assert near_pairs([]) == {}


@pytest.mark.real
def test_recompressed_and_halved_endoscopy_images_are_near_their_originals(medssl_data):
    for file in sorted(medssl_data.glob("polyps/images/*.jpg"))[:40]:
        image = Image.open(file).convert("RGB")
        own = perceptual_hash(as_array(image))
        copies = [
            jpeg(image, 30),
            jpeg(image, 75),
            image.resize((image.width // 2, image.height // 2)),
        ]
        assert max(distance_bits(own, perceptual_hash(as_array(c))) for c in copies) <= NEAR_BITS


@pytest.mark.real
def test_scans_of_different_patients_are_not_near_each_other(medssl_data):
    """Of 16,836 pairs of hippocampus crops, all of one organ in one pose, at most two are near."""
    files = sorted(medssl_data.glob("hippocampus/imagesTr/*.nii.gz"))
    volumes = (np.asarray(nib.load(file).dataobj).T[None] for file in files)
    hashes = [perceptual_hash(projection(x_CDHW, "volume")) for x_CDHW in volumes]
    assert len(hashes) == 184
    assert len(near_pairs(hashes)) <= 2
