"""Drawn text is found where it is drawn, and anatomy alone is not taken for text."""

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from medssl.archive._burned_in import still_parts, text_rows

TEXT = "SMITH JOHN 12.03.1961"


def speckle(seed, height=480, width=640):
    """Smooth brightness with multiplicative speckle as wide as the beam, as ultrasound has it."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.uniform(0, 200, (8, 10)).astype(np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), float)
    parts = (ndimage.gaussian_filter(rng.normal(size=(height, width)), (1, 2)) for _ in range(2))
    rayleigh = np.hypot(*parts)
    return np.clip(smooth * rayleigh / rayleigh.mean() * 0.8, 0, 255).astype(np.uint8)


def written(x_HW, size_px, brightness, xy=(20, 30)):
    image = Image.fromarray(x_HW)
    font = ImageFont.load_default(size_px)
    ImageDraw.Draw(image).text(xy, TEXT, font=font, fill=brightness)
    return np.asarray(image)[None]


@pytest.mark.parametrize("size_px", [8, 10, 12, 16, 24, 36])
@pytest.mark.parametrize("ground", ["black", "white", "grey"])
def test_text_on_a_plain_ground_is_found_where_it_stands(size_px, ground):
    level, ink = {"black": (0, 255), "white": (255, 0), "grey": (90, 255)}[ground]
    rows = text_rows(written(np.full((480, 640), level, np.uint8), size_px, ink))
    assert rows
    assert all(row.top >= 25 and row.bottom <= 40 + 1.3 * size_px for row in rows)
    assert max(row.letters for row in rows) >= 5


@pytest.mark.parametrize("size_px", [12, 16, 24])
def test_text_over_speckle_is_mostly_found(size_px):
    hits = [bool(text_rows(written(speckle(seed), size_px, 255))) for seed in range(10)]
    assert sum(hits) >= 6


def test_speckle_and_noise_hold_no_text():
    noise = np.random.default_rng(0).integers(0, 256, (10, 1, 256, 256))
    assert not any(text_rows(x) for x in noise)
    assert not any(text_rows(speckle(seed)[None]) for seed in range(10))


@pytest.mark.parametrize(
    "x_CHW",
    [
        np.zeros((1, 480, 640)),
        np.full((3, 200, 200), 7, np.uint8),
        np.zeros((1, 5, 5)),
        np.indices((256, 256))[:1],
        (np.indices((256, 256)).sum(axis=0, keepdims=True) // 32 % 2) * 255,  # chessboard lines
    ],
)
def test_flat_tiny_and_regular_pictures_hold_no_text(x_CHW):
    assert text_rows(x_CHW) == []


def test_text_stays_in_the_still_part_of_a_clip_and_moving_spots_do_not():
    rng = np.random.default_rng(0)
    frames = [written(rng.integers(0, 200, (240, 320), dtype=np.uint8), 14, 255) for _ in range(12)]
    assert text_rows(still_parts(np.stack(frames, axis=1)))


def test_letters_of_a_large_radiograph_are_found():
    assert text_rows(written(np.zeros((3000, 2500), np.uint8), 60, 255, xy=(100, 120)))


@pytest.mark.real
def test_ct_and_mr_slices_hold_none_and_most_endoscopy_images_do(medssl_data):
    slices = [*medssl_data.glob("ct_organs/example_ct_dicom/*.dcm")]
    slices += medssl_data.glob("mr_oblique_series/dicom/*.dcm")
    assert len(slices) >= 20
    assert not any(text_rows(pydicom.dcmread(file).pixel_array[None]) for file in slices)
    # Looked through by eye: dates and settings stand in most of these images.
    images = sorted(medssl_data.glob("polyps/images/*.jpg"))[:60]
    found = [bool(text_rows(np.moveaxis(np.asarray(Image.open(f)), 2, 0))) for f in images]
    assert sum(found) >= 40
