"""Supervoxels: connected, of one size, along edges, in mm, and the same for the same crop."""

import numpy as np
import pytest
from scipy import ndimage

from medssl.core.viewspec import Intensity, View
from medssl.views.segments import supervoxels
from tests.views.sources import source, views_of

ISO = (1.0, 1.0, 1.0)
ALL = np.ones((24, 24, 24), dtype=bool)


def halves(shape, axis):
    """Two grey levels with some noise, parted in the middle of an axis."""
    x = np.random.default_rng(0).normal(0, 0.05, (1, *shape)).astype(np.float32)
    x += np.indices(shape)[axis] >= shape[axis] // 2
    return x


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_no_supervoxel_crosses_an_edge(axis):
    x = halves(ALL.shape, axis)
    found = supervoxels(x, ALL, ISO, 40)
    level = x[0] > 0.5
    crossing = np.minimum(
        np.bincount(found[level], minlength=99), np.bincount(found[~level], minlength=99)
    )
    assert crossing.sum() < 0.01 * found.size


def test_they_are_as_many_as_asked_for_and_of_about_one_size():
    found = supervoxels(halves(ALL.shape, 0), ALL, ISO, 40)
    sizes = np.bincount(found.ravel())[1:]
    assert 20 <= len(sizes) <= 60  # the seeds are a grid
    assert sizes.min() > 0.25 * ALL.size / 40
    assert sizes.max() < 3 * sizes.mean()


def test_each_is_one_piece():
    found = supervoxels(halves(ALL.shape, 1), ALL, ISO, 40)
    assert all(ndimage.label(found == k)[1] == 1 for k in range(1, found.max() + 1))


def test_numbers_have_no_gap_and_air_has_0():
    tissue = ALL.copy()
    tissue[:, :, 15:] = False
    found = supervoxels(halves(ALL.shape, 1), tissue, ISO, 40)
    assert (np.bincount(found.ravel()) > 0).all()
    assert not found[~tissue].any()
    assert (found[tissue] > 0).mean() > 0.95


def test_remains_at_the_edge_of_air_are_dropped():
    tissue = np.zeros_like(ALL)
    tissue[4:20, 4:20, 4:20] = True
    tissue[0, 0, 0] = True  # a speck of noise in the air
    found = supervoxels(halves(ALL.shape, 2), tissue, ISO, 40)
    assert found[0, 0, 0] == 0
    assert found.max() > 20


@pytest.mark.parametrize("voxels", [0, 1, 31])
def test_hardly_any_tissue_gives_none(voxels):
    tissue = np.zeros(ALL.size, dtype=bool)
    tissue[:voxels] = True
    assert not supervoxels(halves(ALL.shape, 2), tissue.reshape(ALL.shape), ISO, 40).any()


def test_one_grey_level_gives_blocks():
    found = supervoxels(np.zeros((1, 24, 24, 24), np.float32), ALL, ISO, 27)
    assert found.max() >= 20


def test_thick_slices_give_supervoxels_as_long_in_mm_along_each_axis():
    x = halves((12, 48, 48), 2)  # slices of 4 mm and pixels of 1 mm: a cube of 48 mm
    found = supervoxels(x, np.ones(x.shape[1:], bool), (4.0, 1.0, 1.0), 27)
    spans = [np.ptp(np.argwhere(found == k), axis=0) + 1 for k in range(1, found.max() + 1)]
    np.testing.assert_allclose(np.median(spans, axis=0), (4, 16, 16), rtol=0.25)


def test_the_unit_of_spacing_does_not_matter():
    x = halves(ALL.shape, 0)
    assert (supervoxels(x, ALL, ISO, 40) == supervoxels(x, ALL, (0.7, 0.7, 0.7), 40)).all()


def test_gain_and_outliers_do_not_matter():
    x = halves(ALL.shape, 0)
    loud = 100 * x - 7
    loud[0, 0, 0, 0] = 1e6
    a, b = (supervoxels(v, ALL, ISO, 40) for v in (x, loud))
    assert (a == b).mean() > 0.99


def test_large_ones_are_found_on_half_the_grid_and_odd_sides_fit():
    shape = (33, 31, 35)
    x = halves(shape, 2)
    found = supervoxels(x, np.ones(shape, bool), ISO, 20)
    assert found.shape == shape
    assert 12 <= found.max() <= 40


def test_pictures_of_three_channels():
    x = np.repeat(halves((1, 40, 40), 2), 3, axis=0)
    found = supervoxels(x, np.ones((1, 40, 40), bool), ISO, 16)
    assert found.shape == (1, 40, 40)
    assert 10 <= found.max() <= 30


def test_views_show_supervoxels_of_the_crop_before_its_grey_values_change():
    noisy = Intensity(noise=1.0, noise_probability=1.0)
    x = halves(ALL.shape, 2)
    plain, noised = (
        views_of(3, source(x), View(crop=(16, 16, 16), segments=20, intensity=intensity))[0]
        for intensity in (Intensity(), noisy)
    )
    assert plain["segments"].shape == (16, 16, 16)
    assert plain["segments"].dtype == np.int64
    assert (plain["segments"] == noised["segments"]).all()
    assert not (plain["x"] == noised["x"]).all()


def test_views_of_pictures_have_supervoxels_of_two_axes():
    view = views_of(0, source(halves((1, 40, 40), 2)), View(crop=(24, 24), segments=9))[0]
    assert view["segments"].shape == (24, 24)
    assert view["segments"].max() >= 6
