"""Crops: geometry that can be computed by hand, and neutral draws that copy voxels."""

import numpy as np
import pytest
from scipy import ndimage

from medssl.core.seeding import generator
from medssl.core.viewspec import Spatial
from medssl.views.spatial import CropDraw, Region, apply_crop, draw_crop, put, turn_and_zoom
from tests.views.sources import SHAPE, VOLUME, reader

NO_FLIP = (False, False, False)
CENTRE = np.array([10.5, 11.5, 12.5])


def crop_of(draw, volume=VOLUME, fill=0.0):
    return apply_crop(reader(volume), draw, volume.shape[1:], np.full(len(volume), fill))


def drawn(seed, size, shape=SHAPE, spacing=(1.0, 1.0, 1.0), region=None, **options):
    draw = draw_crop(generator(seed), size, Spatial(**options), spacing, flip=False)
    return put(generator(seed, "put"), draw, shape, region)


def test_plain_crop_is_a_slice_of_the_volume():
    for seed in range(20):
        draw = drawn(seed, (8, 8, 8))
        start = (draw.centre - 3.5).astype(int)
        assert (start >= 0).all()
        box = tuple(slice(s, s + 8) for s in start)
        assert np.array_equal(crop_of(draw), VOLUME[(slice(None), *box)])


def test_every_start_is_drawn_equally_often():
    starts = [drawn(seed, (18, 24, 28)).centre[0] - 8.5 for seed in range(3000)]
    shares = np.bincount(np.array(starts, dtype=int)) / 3000
    assert np.abs(shares - 1 / 3).max() < 5 * np.sqrt(2 / 9 / 3000)


@pytest.mark.parametrize("size", [(24, 24, 28), (25, 24, 28)])
def test_crop_larger_than_the_record_has_it_in_the_middle(size):
    crop = crop_of(drawn(0, size), np.ones((1, *SHAPE), dtype=np.float32))
    inside = np.flatnonzero(crop[0].any((1, 2)))
    assert len(inside) == 20
    assert abs((inside[0] + inside[-1]) / 2 - (size[0] - 1) / 2) <= 0.5


def test_identity_matrix_equals_plain_slicing():
    plain, turned = (crop_of(CropDraw((8, 8, 8), CENTRE, m, NO_FLIP)) for m in (None, np.eye(3)))
    np.testing.assert_allclose(turned, plain, atol=1e-6)


def test_zoom_two_shows_half_the_field_of_view():
    ramp = np.broadcast_to(np.arange(28.0, dtype=np.float32), (1, *SHAPE))
    matrix = turn_and_zoom(np.zeros(3), 2.0, np.ones(3), flat=False)
    crop = crop_of(CropDraw((8, 8, 8), CENTRE, matrix, NO_FLIP), ramp)
    np.testing.assert_allclose(crop[0, 0, 0], 12.5 + (np.arange(8) - 3.5) / 2, atol=1e-5)


def test_rotation_turns_millimetres_not_voxels():
    # A ball of 8 mm in 4 mm slices stays a ball: its extent in mm is the same along each axis.
    spacing, shape, size = np.array([4.0, 1.0, 1.0]), (16, 48, 48), (12, 40, 40)
    d, h, w = np.indices(shape)
    far = np.sqrt(((d - 7.5) * 4) ** 2 + (h - 23.5) ** 2 + (w - 23.5) ** 2)
    ball = (1 / (1 + np.exp(far - 12)))[None].astype(np.float32)
    for seed in range(5):
        matrix = drawn(seed, size, shape, spacing, rotate_deg=45).matrix
        crop = crop_of(CropDraw(size, np.array([7.5, 23.5, 23.5]), matrix, NO_FLIP), ball)[0]
        grid = np.indices(size) - (np.array(size)[:, None, None, None] - 1) / 2
        mm = grid * spacing[:, None, None, None]
        spread = np.sqrt((crop * mm**2).sum((1, 2, 3)) / crop.sum())
        assert spread.max() / spread.min() < 1.06


def test_matrices_are_rotations_of_millimetres_times_the_zoom():
    spacing = np.array([5.0, 0.7, 0.9])
    for seed in range(20):
        matrix = drawn(seed, (8, 8, 8), spacing=spacing, rotate_deg=30, scale=(0.5, 2.0)).matrix
        mm = np.diag(spacing) @ matrix @ np.diag(1 / spacing)
        zoom = np.linalg.det(mm) ** (-1 / 3)
        np.testing.assert_allclose(mm @ mm.T * zoom**2, np.eye(3), atol=1e-12)
        assert 0.5 <= zoom <= 2.0


def test_zooms_in_and_out_are_equally_likely():
    zooms = [
        np.linalg.det(drawn(seed, (8, 8, 8), scale=(0.5, 2.0)).matrix) ** (-1 / 3)
        for seed in range(1000)
    ]
    assert abs(np.mean(np.array(zooms) > 1) - 0.5) < 5 * np.sqrt(0.25 / 1000)


def test_flips_mirror_the_crop():
    plain, flipped = (
        crop_of(CropDraw((8, 8, 8), CENTRE, None, flips))
        for flips in (NO_FLIP, (False, True, False))
    )
    assert np.array_equal(flipped, plain[:, :, ::-1])


def test_pictures_turn_in_the_plane_only():
    picture = np.random.default_rng(0).normal(size=(3, 1, 40, 50)).astype(np.float32)
    draw = drawn(1, (1, 16, 16), (1, 40, 50), rotate_deg=40, scale=(0.8, 1.25))
    assert np.array_equal(draw.affine[0], [1, 0, 0])
    assert np.array_equal(draw.affine[:, 0], [1, 0, 0])
    h, w = np.indices((16, 16))
    rows, columns = (
        draw.affine[k, 1] * (h - 7.5) + draw.affine[k, 2] * (w - 7.5) + draw.centre[k]
        for k in (1, 2)
    )
    wanted = [ndimage.map_coordinates(x[0], [rows, columns], order=1) for x in picture]
    np.testing.assert_allclose(crop_of(draw, picture)[:, 0], wanted, atol=1e-4)


def test_shrinking_does_not_alias():
    # A chequerboard of single voxels is grey when seen at a quarter of its size.
    board = (np.indices((1, 256, 256)).sum(0) % 2)[None].astype(np.float32)
    matrix = turn_and_zoom(np.array([0.1, 0, 0]), 0.25, np.ones(3), flat=True)
    crop = crop_of(CropDraw((1, 48, 48), np.array([0, 127.5, 127.5]), matrix, NO_FLIP), board)
    assert np.abs(crop - 0.5).max() < 0.05


def test_slices_are_never_mixed():
    stack = np.broadcast_to(np.arange(20.0)[:, None, None], (1, *SHAPE)).astype(np.float32)
    for seed in range(50):
        crop = crop_of(drawn(seed, (1, 8, 8), rotate_deg=20, scale=(0.7, 1.4)), stack)
        inner = crop[0, 0, 3:5, 3:5]
        assert inner.min() == inner.max() == np.rint(inner.max())


def test_a_region_without_a_whole_step_is_met_between_voxels():
    centre = np.array([9.25, 11.25, 13.25])
    draw = drawn(0, (8, 8, 8), region=Region(centre, centre))
    assert np.array_equal(draw.centre, centre)
    crop = crop_of(draw, np.indices(SHAPE)[:1].astype(np.float32))
    np.testing.assert_allclose(crop[0, :, 0, 0], 9.25 + np.arange(8) - 3.5, atol=1e-5)


def test_what_lies_outside_is_fill():
    volume = np.ones((1, 4, 8, 8), dtype=np.float32)
    crop = crop_of(drawn(0, (8, 8, 8), (4, 8, 8)), volume, fill=-10.0)
    assert np.array_equal(np.unique(crop[0, 2:6]), [1.0])
    assert np.array_equal(np.unique(crop[0, [0, 1, 6, 7]]), [-10.0])
