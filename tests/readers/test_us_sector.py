"""The sector found from pixels, against the fan that the phantom was drawn with."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from medssl.readers._us_sector import (
    SAMPLED_FRAMES,
    is_coloured,
    mask_outside,
    sampled_frames,
    sector_mask,
)
from tests.readers.ultrasound_phantom import SHAPE, cine, ecg, fan, iou, text


def as_clip(frames_THWC):
    return np.moveaxis(frames_THWC, -1, 0)


def rectangle():
    mask = np.zeros(SHAPE, dtype=bool)
    mask[30:200, 60:260] = True
    return mask


PROBES = {
    "curved": fan(),
    "narrow": fan(half_angle_deg=22.0),
    "wide": fan(r0=45.0, r1=170.0, half_angle_deg=50.0),
    "phased": fan(r0=0.0, r1=190.0, half_angle_deg=45.0),
    "linear": rectangle(),
    "steered": fan(apex=(20.0, 110.0), r1=180.0, half_angle_deg=30.0),
}


@pytest.mark.parametrize("frames", [2, 12])
@pytest.mark.parametrize("probe", PROBES)
def test_the_sector_of_a_cine(probe, frames):
    clip, truth = cine(frames, PROBES[probe])
    assert iou(sector_mask(as_clip(clip)), truth) >= 0.95


@pytest.mark.parametrize("probe", PROBES)
def test_the_sector_of_a_still(probe):
    clip, truth = cine(1, PROBES[probe])
    assert iou(sector_mask(as_clip(clip)), truth) >= 0.95


def test_text_and_ecg_outside_are_0_in_every_frame():
    clip, truth = cine(12)
    x_CTHW = as_clip(clip)
    masked = mask_outside(x_CTHW, sector_mask(x_CTHW))
    planted = (text() > 0) | (ecg(11, 12) > 0)
    assert planted[~truth].sum() > 500
    assert not masked[:, :, planted & ~truth].any()


def test_pixels_inside_are_untouched():
    clip, _ = cine(6)
    x_CTHW = as_clip(clip)
    mask = sector_mask(x_CTHW)
    np.testing.assert_array_equal(mask_outside(x_CTHW, mask)[:, :, mask], x_CTHW[:, :, mask])


def test_a_cine_that_hardly_moves_keeps_its_whole_sector():
    clip, truth = cine(1)
    frames = np.repeat(clip, 6, axis=0)
    beating = fan(r0=60.0, r1=110.0, half_angle_deg=15.0)
    rng = np.random.default_rng(0)
    for frame in frames:
        frame[beating] = rng.integers(20, 200, (beating.sum(), 1))
    assert iou(sector_mask(as_clip(frames)), truth) >= 0.95


def test_a_frozen_cine_is_a_still():
    clip, truth = cine(1)
    assert iou(sector_mask(as_clip(np.repeat(clip, 5, axis=0))), truth) >= 0.95


@pytest.mark.parametrize("quality", [40, 75, 95])
def test_lossy_frames(quality):
    """Speckle as wide as a pulse: codecs spread white noise far beyond the sector."""
    clip, truth = cine(8)
    lossy = []
    for frame in clip:
        speckle = ndimage.gaussian_filter(frame.astype(float), (0.8, 0.8, 0))
        frame[truth] = speckle[truth]
        out = io.BytesIO()
        Image.fromarray(frame).save(out, "JPEG", quality=quality)
        lossy.append(np.array(Image.open(out)))
    mask = sector_mask(as_clip(np.stack(lossy)))
    assert iou(mask, truth) >= 0.95
    assert not mask[text() > 0].any()


@pytest.mark.parametrize("size", [16, 24, 32])
@pytest.mark.parametrize("frames", [1, 8])
def test_large_letters_are_no_sector(size, frames):
    clip, truth = cine(frames)
    image = Image.new("L", SHAPE[::-1])
    font = ImageFont.load_default(size=size)
    ImageDraw.Draw(image).text((2, 2), "DOE JANE", font=font, fill=255)
    letters = np.array(image)
    letters[truth] = 0
    mask = sector_mask(as_clip(np.maximum(clip, letters[..., None])))
    assert iou(mask, truth) >= 0.95
    assert not mask[(letters > 0) & ~truth].any()


@pytest.mark.parametrize("level", [40, 90])
def test_text_on_a_grey_panel_is_outside(level):
    clip, truth = cine(8)
    panel = np.where(clip > level, clip, level).astype(np.uint8)
    panel[:, 20:230, 30:295] = clip[:, 20:230, 30:295]
    assert iou(sector_mask(as_clip(panel)), truth) >= 0.95


def test_a_deep_shadow_stays_in_the_sector():
    truth = fan()
    shadow = fan(r0=90.0, half_angle_deg=8.0)
    clip, _ = cine(8)
    clip[:, shadow] = 0
    assert iou(sector_mask(as_clip(clip)), truth) >= 0.95


NOTHING = {
    "black": np.zeros((1, 4, *SHAPE), np.uint8),
    "text_only": np.broadcast_to(text(), (1, 4, *SHAPE)),
    "ecg_only": np.stack([ecg(k, 6) for k in range(6)])[None],
    "small_logo": np.where(np.add.outer(range(240), range(320)) < 40, 255, 0)[None, None],
}


@pytest.mark.parametrize("case", NOTHING)
def test_no_sector_is_none(case):
    assert sector_mask(NOTHING[case]) is None


def test_a_picture_without_borders_is_all_sector():
    noise = np.random.default_rng(0).integers(0, 255, (3, 4, *SHAPE)).astype(np.uint8)
    assert sector_mask(noise).mean() > 0.99


def test_sixteen_bit_levels_are_scaled():
    clip, truth = cine(4)
    assert iou(sector_mask(as_clip(clip).astype(np.uint16) * 16), truth) >= 0.95


def test_the_mask_is_deterministic():
    clip, _ = cine(5)
    np.testing.assert_array_equal(sector_mask(as_clip(clip)), sector_mask(as_clip(clip.copy())))


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 1000])
def test_sampled_frames_span_the_clip(n):
    frames = sampled_frames(n)
    assert (frames[0], frames[-1]) == (0, n - 1)
    assert len(set(frames)) == len(frames) == min(n, SAMPLED_FRAMES)


def test_doppler_colour_counts_in_the_sector_only():
    grey, truth = cine(3)
    coloured, _ = cine(3, colour_box=(slice(100, 140), slice(140, 180)))
    logo, _ = cine(3, colour_box=(slice(200, 230), slice(2, 40)))
    answers = [is_coloured(as_clip(x), truth) for x in (grey, coloured, logo)]
    assert answers == [False, True, False]


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 2, 1, 40), (1, 3, 2, 2)])
def test_tiny_images_do_not_crash(shape):
    mask = sector_mask(np.full(shape, 200, np.uint8))
    assert mask is None or mask.shape == shape[2:]
