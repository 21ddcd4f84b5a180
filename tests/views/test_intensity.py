"""Grey values and colours: each change by its formula, replayed, neutral, and safe."""

import numpy as np
import pytest

from medssl.core.intensity import CT_RULE, normalise
from medssl.core.seeding import generator
from medssl.core.viewspec import Intensity
from medssl.views.guard import Levels
from medssl.views.intensity import IntensityDraw, apply_intensity, draw_intensity
from tests.views.sources import VOLUME

GREY = Levels(zero=(0.0,))
MR = Levels(zero=(-1.5,), receive_field=True)
CT = Levels(zero=(0.0,), window_hu=(-1024.0, 1024.0))
COLOUR = Levels(zero=(0.0,) * 3, picture=True, colour=True)
PICTURE = np.random.default_rng(0).random((3, 1, 32, 40), dtype=np.float32)
CHANGES = {
    "gamma": 1.5, "brightness": 0.3, "contrast": 1.25, "noise": 0.1, "blur": 0.8,
    "low_resolution": 2.0, "bias_field": 0.4, "window_hu": (60.0, -80.0), "hue": 0.1,
    "saturation": 0.6,
}  # fmt: skip
LEVELS = {"bias_field": MR, "window_hu": CT, "hue": COLOUR, "saturation": COLOUR}


def changed(name, x=None, seed=3, **levels):
    levels = levels.get("levels", LEVELS.get(name, GREY))
    if x is None:
        x = PICTURE if levels is COLOUR else np.abs(VOLUME) if levels is CT else VOLUME
    return x, apply_intensity(x, IntensityDraw(**{name: CHANGES[name]}, seed=seed), levels)


@pytest.mark.parametrize("name", CHANGES)
def test_equal_draws_give_equal_voxels_and_the_input_is_kept(name):
    x, out = changed(name)
    before = x.copy()
    assert np.array_equal(out, changed(name)[1])
    assert np.array_equal(x, before)
    assert not np.array_equal(out, x)
    assert out.dtype == np.float32
    assert out.shape == x.shape


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_constant_crops_stay_finite(name, value):
    levels = LEVELS.get(name, GREY)
    shape = PICTURE.shape if levels is COLOUR else VOLUME.shape
    _, out = changed(name, np.full(shape, value, dtype=np.float32))
    assert np.isfinite(out).all()


def test_neutral_draw_changes_nothing():
    for levels in (GREY, MR, CT):
        assert apply_intensity(VOLUME, IntensityDraw(seed=7), levels) is VOLUME


@pytest.mark.parametrize(
    ("name", "levels"),
    [("bias_field", GREY), ("bias_field", CT), ("window_hu", MR), ("hue", GREY), ("hue", CT)],
)
def test_changes_that_make_no_sense_for_a_record_are_not_applied(name, levels):
    x, out = changed(name, VOLUME, levels=levels)
    assert out is x


def test_contrast_keeps_the_mean_and_scales_the_spread():
    _, out = changed("contrast")
    assert out.mean() == pytest.approx(VOLUME.mean(), abs=1e-5)
    assert out.std() == pytest.approx(1.25 * VOLUME.std(), rel=1e-5)


def test_brightness_is_in_units_of_the_spread():
    _, out = changed("brightness")
    np.testing.assert_allclose(out - VOLUME, 0.3 * VOLUME.std(), rtol=1e-4)


def test_gamma_keeps_the_range_and_the_order():
    _, out = changed("gamma")
    assert out.min() == pytest.approx(VOLUME.min(), abs=1e-5)
    assert out.max() == pytest.approx(VOLUME.max(), abs=1e-5)
    order = np.argsort(VOLUME.ravel())
    assert (np.diff(out.ravel()[order]) >= 0).all()


def test_channels_of_a_volume_change_by_their_own_spread_those_of_a_picture_together():
    two = np.concatenate([VOLUME, 100 * VOLUME])
    apart = apply_intensity(two, IntensityDraw(brightness=0.3), Levels(zero=(0.0, 0.0)))
    np.testing.assert_allclose(apart[1], 100 * apart[0], rtol=1e-4, atol=1e-3)
    together = apply_intensity(PICTURE, IntensityDraw(brightness=0.3), COLOUR)
    assert np.ptp(together - PICTURE) < 1e-6


def test_noise_has_the_asked_spread_and_is_new_with_each_seed():
    _, out = changed("noise")
    assert (out - VOLUME).std() == pytest.approx(0.1 * VOLUME.std(), rel=0.02)
    assert not np.array_equal(out, changed("noise", seed=4)[1])


def test_blur_is_a_gaussian_of_the_asked_width():
    point = np.zeros((1, 21, 21, 21), dtype=np.float32)
    point[0, 10, 10, 10] = 1
    _, out = changed("blur", point)
    d = np.indices(out.shape[1:])[0] - 10
    assert out.sum() == pytest.approx(1, abs=1e-5)
    assert np.sqrt((out[0] * d**2).sum()) == pytest.approx(0.8, rel=0.03)


def test_low_resolution_removes_what_is_finer_and_keeps_the_rest():
    fine = ((np.indices((32, 32, 32)).sum(0) % 2) - 0.5)[None].astype(np.float32)
    coarse = np.broadcast_to(np.linspace(0, 1, 32, dtype=np.float32), (1, 32, 32, 32)).copy()
    inner = (0, *(slice(4, 28),) * 3)
    # Smoothing before the grid is halved leaves an eighth of the amplitude.
    assert np.abs(changed("low_resolution", fine)[1][inner]).max() < 0.13
    np.testing.assert_allclose(
        changed("low_resolution", coarse)[1][inner], coarse[inner], atol=0.01
    )


def test_low_resolution_of_a_picture_is_the_mean_of_its_pixels():
    pairs = np.repeat(np.repeat(PICTURE[:, :, ::2, ::2], 2, 2), 2, 3)
    draw = IntensityDraw(low_resolution=2.0)
    out = apply_intensity(pairs + 0.3 * (np.indices(pairs.shape).sum(0) % 2).astype(np.float32),
                          draw, COLOUR)  # fmt: skip
    assert out.mean() == pytest.approx(pairs.mean() + 0.15, abs=0.02)


def test_bias_field_multiplies_the_signal_and_keeps_no_signal():
    x = np.abs(VOLUME) - 1.5
    x[0, :4] = -1.5  # no signal
    _, out = changed("bias_field", x)
    assert (out[0, :4] == -1.5).all()
    field = (out[0, 4:] + 1.5) / (x[0, 4:] + 1.5)
    assert 0.6 <= field.min() < 0.95 < 1.05 < field.max() <= 1.4
    steps = np.abs(np.diff(field, axis=1))
    assert steps.max() < 0.1  # smooth over voxels


def test_window_jitter_is_the_window_it_says_in_hu():
    hu = np.linspace(-900, 900, 64, dtype=np.float32).reshape(1, 4, 4, 4)
    stored, _ = normalise(hu, CT_RULE, hu.dtype)
    shifted = CT_RULE.model_copy(update={"low": -1024.0 + 60, "high": 1024.0 - 80})
    wanted, _ = normalise(hu, shifted, hu.dtype)
    _, out = changed("window_hu", stored)
    np.testing.assert_allclose(out, wanted, atol=1e-6)


def test_colours_turn_while_grey_pictures_stay():
    red = np.zeros((3, 1, 8, 8), dtype=np.float32)
    red[0] = 1
    green = apply_intensity(red, IntensityDraw(hue=1 / 3), COLOUR)
    np.testing.assert_allclose(green[:, 0, 0, 0], [0, 1, 0], atol=0.02)
    grey = apply_intensity(red, IntensityDraw(saturation=0.0), COLOUR)
    np.testing.assert_allclose(grey[:, 0, 0, 0], 0.299, atol=0.01)  # luminance of red
    flat = np.repeat(PICTURE[:1], 3, axis=0)
    np.testing.assert_allclose(changed("hue", flat)[1], flat, atol=0.01)


def test_each_change_happens_with_its_probability_and_alone():
    spec = Intensity(
        gamma=(0.7, 1.5), brightness=0.3, noise=0.1, probability=0.3, noise_probability=0.1
    )
    draws = [draw_intensity(generator(s), spec) for s in range(2000)]
    gamma = np.array([draw.gamma != 1.0 for draw in draws])
    bright = np.array([draw.brightness != 0.0 for draw in draws])
    noise = np.array([draw.noise != 0.0 for draw in draws])
    assert gamma.mean() == pytest.approx(0.3, abs=5 * np.sqrt(0.21 / 2000))
    assert noise.mean() == pytest.approx(0.1, abs=5 * np.sqrt(0.09 / 2000))
    assert (gamma & bright).mean() == pytest.approx(0.09, abs=5 * np.sqrt(0.09 / 2000))


def test_neutral_spec_draws_neutral_numbers():
    assert all(draw_intensity(generator(s), Intensity(probability=1, noise_probability=1)) ==
               IntensityDraw(blur=0.0, seed=d.seed) for s in range(20)
               for d in [draw_intensity(generator(s), Intensity(probability=1,
                                                               noise_probability=1))])  # fmt: skip
