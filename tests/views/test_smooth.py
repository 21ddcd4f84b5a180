"""Smooth fields and bending: bounds, smoothness, no folds, replay."""

import numpy as np
import pytest

from medssl.core.seeding import generator
from medssl.core.viewspec import Spatial
from medssl.views.smooth import CELLS, control_shape, smooth_field
from medssl.views.spatial import apply_crop, draw_crop, put
from tests.views.sources import reader

SIZE = (32, 32, 32)
ELASTIC = Spatial(elastic_mm=3.0)


def bent(seed, spacing=(1.0, 1.0, 1.0), size=SIZE, largest_mm=3.0):
    return draw_crop(generator(seed), size, Spatial(elastic_mm=largest_mm), spacing, flip=False)


@pytest.mark.parametrize("size", [(16,), (5, 9), (1, 12, 12), (2, 3, 31)])
def test_constant_and_linear_control_values_give_the_same_function(size):
    shape = control_shape(size)
    np.testing.assert_allclose(smooth_field(np.full((1, *shape), 0.7), size), 0.7, rtol=1e-6)
    last = np.broadcast_to(np.arange(float(shape[-1])), (1, *shape))
    voxels = (np.arange(size[-1]) + 0.5) / size[
        -1
    ] * CELLS + 1  # control value k lies at cell k - 1
    np.testing.assert_allclose(
        smooth_field(last, size)[0][(0,) * (len(size) - 1)], voxels, rtol=1e-5
    )


def test_field_stays_in_the_range_of_its_control_values():
    control = generator(0).uniform(-1, 1, (3, *control_shape(SIZE)))
    assert np.abs(smooth_field(control, SIZE)).max() < np.abs(control).max()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 0.8, 0.8)])
@pytest.mark.parametrize("largest_mm", [0.5, 3.0, 100.0])
def test_bending_is_bounded_in_mm_and_never_folds(spacing, largest_mm):
    for seed in range(10):
        draw = bent(seed, spacing, largest_mm=largest_mm)
        voxels = smooth_field(draw.bend, SIZE).astype(float)
        mm = np.sqrt(((voxels * np.array(spacing)[:, None, None, None]) ** 2).sum(0))
        assert 0 < mm.max() <= largest_mm
        slopes = np.stack([np.stack(np.gradient(one), -1) for one in voxels], -2)
        assert np.linalg.det(np.eye(3) + slopes).min() > 0


def test_a_ramp_shows_the_displacement():
    volume = np.indices((40, 40, 40)).astype(np.float32)
    draw = put(generator(1), bent(0), (40, 40, 40))
    crop = apply_crop(reader(volume), draw, (40, 40, 40), np.zeros(3))
    start = (draw.centre - 15.5)[:, None, None, None]
    shown = crop - start - np.indices(SIZE)
    inner = (slice(None), *(slice(4, 28),) * 3)  # the ramp ends at the border
    np.testing.assert_allclose(shown[inner], smooth_field(draw.bend, SIZE)[inner], atol=1e-4)


def test_equal_draws_give_equal_voxels_and_labels_follow():
    blobs = smooth_field(generator(0).normal(size=(1, 7, 7, 7)), (40, 40, 40)) > 0
    draw = put(generator(1), bent(0), (40, 40, 40))
    image, again, labels = (
        apply_crop(reader(x), draw, (40, 40, 40), np.zeros(1), nearest=nearest)
        for x, nearest in (
            (blobs.astype(np.float32), False),
            (blobs.astype(np.float32), False),
            (blobs.astype(np.uint8), True),
        )
    )
    assert np.array_equal(image, again)
    assert ((image > 0.5) == labels).mean() > 0.99


def test_pictures_bend_in_the_plane_only():
    draw = bent(0, size=(1, 32, 32))
    assert not draw.bend[0].any()
    assert draw.bend[1:].any((1, 2, 3)).all()
