"""Views: geometry that can be computed by hand, replay, exact neutral draws."""

import numpy as np
import pytest
from scipy import ndimage

from medssl.core.seeding import generator
from medssl.core.viewspec import Intensity, MaskSpec, Spatial, View, ViewSpec
from medssl.views.build import Source, build_views
from medssl.views.intensity import IntensityDraw, apply_intensity, draw_intensity
from medssl.views.spatial import CropDraw, Region, apply_crop, draw_crop

SHAPE = (20, 24, 28)
VOLUME = np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32)
NO_FLIP = (False, False, False)


def reader(volume):
    def read(start, stop):
        return volume[:, start[0] : stop[0], start[1] : stop[1], start[2] : stop[2]]

    return read


def source(volume=VOLUME, **more):
    values = {"spacing_mm": (1.0, 1.0, 1.0), "air": (-9.0,), "fill": (-10.0,), **more}
    return Source(read=reader(volume), shape_DHW=volume.shape[1:], **values)


def one_view(seed, volume_source, *, crop=(8, 8, 8), **more):
    for_all = {name: more.pop(name) for name in ("min_tissue", "foreground") if name in more}
    spec = ViewSpec(views=(View(crop=crop, **more),), **for_all)
    return build_views(spec, generator(seed), volume_source)[0]


def anywhere(shape):
    return Region((np.array(shape) - 1) / 2, np.array(shape, dtype=float))


def test_plain_crop_is_a_slice_of_the_volume():
    for seed in range(20):
        draw = draw_crop(generator(seed), (8,) * 3, Spatial(), SHAPE, (1, 1, 1), anywhere(SHAPE))
        start = (draw.centre - 3.5).astype(int)
        assert (start >= 0).all()
        crop = apply_crop(reader(VOLUME), draw, SHAPE, np.array([-10.0]))
        box = tuple(slice(s, s + 8) for s in start)
        assert np.array_equal(crop, VOLUME[(slice(None), *box)])


def test_every_start_is_drawn_equally_often():
    region, size = anywhere(SHAPE), (18, 24, 28)
    starts = [
        draw_crop(generator(s), size, Spatial(), SHAPE, (1, 1, 1), region).centre[0] - 8.5
        for s in range(3000)
    ]
    shares = np.bincount(np.array(starts, dtype=int)) / 3000
    assert np.abs(shares - 1 / 3).max() < 5 * np.sqrt(2 / 9 / 3000)


def test_small_volume_is_centred_and_padded_with_air():
    volume = np.ones((1, 4, 8, 8), dtype=np.float32)
    view = one_view(0, source(volume, air=(0.0,)))
    assert np.array_equal(np.unique(view["x"][0, 2:6]), [1.0])
    assert np.array_equal(np.unique(view["x"][0, [0, 1, 6, 7]]), [-10.0])
    assert view["tissue"].sum() == 4 * 8 * 8


def test_identity_matrix_equals_plain_slicing():
    centre = np.array([10.5, 11.5, 12.5])
    plain, turned = (
        apply_crop(reader(VOLUME), CropDraw((8, 8, 8), centre, m, NO_FLIP), SHAPE, np.zeros(1))
        for m in (None, np.eye(3))
    )
    np.testing.assert_allclose(turned, plain, atol=1e-6)


def test_rotation_turns_millimetres_not_voxels():
    # A ball of 8 mm in 4 mm slices stays a ball: its extent in mm is the same along each axis.
    spacing = np.array([4.0, 1.0, 1.0])
    d, h, w = np.indices((16, 48, 48))
    far = np.sqrt(((d - 7.5) * 4) ** 2 + (h - 23.5) ** 2 + (w - 23.5) ** 2)
    ball = (1 / (1 + np.exp(far - 12)))[None].astype(np.float32)
    shape, size = (16, 48, 48), (12, 40, 40)
    for seed in range(5):
        turning = Spatial(rotate_deg=45)
        draw = draw_crop(generator(seed), size, turning, shape, spacing, anywhere(shape))
        draw = CropDraw(size, np.array([7.5, 23.5, 23.5]), draw.matrix, NO_FLIP)
        crop = apply_crop(reader(ball), draw, shape, np.zeros(1))[0]
        grid = np.indices(crop.shape) - (np.array(crop.shape)[:, None, None, None] - 1) / 2
        mm = grid * spacing[:, None, None, None]
        spread = np.sqrt((crop * mm**2).sum((1, 2, 3)) / crop.sum())
        assert spread.max() / spread.min() < 1.06


def test_labels_move_with_the_image():
    labels = (VOLUME > 0.5).astype(np.uint8)
    image = labels.astype(np.float32)
    spatial = Spatial(rotate_deg=15, scale=(0.9, 1.1))
    smooth = ndimage.gaussian_filter(image[0], 2)[None]
    big = (smooth > np.median(smooth)).astype(np.uint8)
    labelled = source(big.astype(np.float32), fill=(0.0,), read_labels=reader(big))
    view = one_view(3, labelled, crop=(12, 12, 12), spatial=spatial)
    # Linear and nearest interpolation differ only within half a voxel of a border.
    assert np.abs(view["x"][0] - view["label"]).mean() < 0.15
    assert (((view["x"][0] > 0.5) == view["label"]).mean()) > 0.93


def test_foreground_crops_hold_the_wanted_voxel():
    point = np.array([[18, 2, 25]])
    for seed in range(20):
        view = one_view(seed, source(foreground=point), foreground=1.0)
        start = view["place"][:, 3]
        assert ((point[0] >= start) & (point[0] < start + 8)).all()


def test_flips_mirror_the_crop():
    centre = np.array([10.5, 11.5, 12.5])
    plain, flipped = (
        apply_crop(reader(VOLUME), CropDraw((8, 8, 8), centre, None, f), SHAPE, np.zeros(1))
        for f in (NO_FLIP, (False, True, False))
    )
    assert np.array_equal(flipped, plain[:, :, ::-1])


def test_equal_seeds_give_equal_views_and_others_differ():
    options = {
        "mask": MaskSpec(token_size=(4, 4, 4), ratio=(0.5, 0.5)),
        "spatial": Spatial(rotate_deg=10),
        "intensity": Intensity(gamma=(0.7, 1.5), noise=0.1, probability=1.0, noise_probability=1.0),
    }
    one, again, other = (one_view(s, source(), **options) for s in (1, 1, 2))
    assert all(np.array_equal(one[key], again[key]) for key in one)
    assert not np.array_equal(one["x"], other["x"])


def test_a_crop_with_enough_tissue_is_preferred():
    volume = np.full((1, 40, 40, 40), -10.0, dtype=np.float32)
    volume[:, :20] = 1.0
    half = source(volume, air=(0.0,))
    shares = [one_view(s, half, min_tissue=0.9)["tissue"].mean() for s in range(60)]
    plain = [one_view(s, half)["tissue"].mean() for s in range(60)]
    assert np.mean(shares) > 0.85 > 0.65 > np.mean(plain)


def test_neutral_intensity_draw_changes_nothing():
    assert apply_intensity(VOLUME, IntensityDraw()) is VOLUME


def test_contrast_keeps_the_mean_and_scales_the_spread():
    out = apply_intensity(VOLUME, IntensityDraw(contrast=1.25))
    assert out.mean() == pytest.approx(VOLUME.mean(), abs=1e-5)
    assert out.std() == pytest.approx(1.25 * VOLUME.std(), rel=1e-5)


def test_brightness_is_in_units_of_the_spread():
    out = apply_intensity(VOLUME, IntensityDraw(brightness=0.3))
    np.testing.assert_allclose(out - VOLUME, 0.3 * VOLUME.std(), rtol=1e-4)


def test_gamma_keeps_the_range_and_the_order():
    out = apply_intensity(VOLUME, IntensityDraw(gamma=1.5))
    assert out.min() == pytest.approx(VOLUME.min(), abs=1e-5)
    assert out.max() == pytest.approx(VOLUME.max(), abs=1e-5)
    order = np.argsort(VOLUME.ravel())
    assert (np.diff(out.ravel()[order]) >= 0).all()


def test_each_change_happens_with_its_probability():
    spec = Intensity(gamma=(0.7, 1.5), probability=0.3)
    happened = [draw_intensity(generator(s), spec).gamma != 1.0 for s in range(2000)]
    assert np.mean(happened) == pytest.approx(0.3, abs=5 * np.sqrt(0.21 / 2000))
