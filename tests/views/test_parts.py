"""Partitions cover the body without gaps; twins show the same voxels."""

from itertools import pairwise

import numpy as np
import pytest

from medssl.core.viewspec import Intensity, MaskSpec, Spatial, View
from tests.views.sources import grid_of, in_record, source, views_of

WARPED = Spatial(rotate_deg=10, scale=(0.8, 1.2), elastic_mm=2.0, flip=True)


def slices(n, height=16, *, low=0, high=None, spacing=(1.0, 1.0, 1.0)):
    """A volume whose voxels hold 1 + the number of their slice; its tissue is [low, high)."""
    volume = np.broadcast_to(np.arange(1.0, n + 1)[None, :, None, None], (1, n, height, height))
    box = np.array([[low, 0, 0], [n if high is None else high, height, height]])
    volume = volume.astype(np.float32)
    return source(volume, air=(0.5,), fill=(0.0,), tissue=box, spacing_mm=spacing)


def shown(data, parts, seeds, crop=(16, 16), **of_spec):
    """Numbers of the slices shown, by part; of image encoders."""
    found = [set() for _ in range(parts)]
    for seed in range(seeds):
        for view in views_of(seed, data, View(crop=crop), partitions=parts, **of_spec):
            assert len(np.unique(view["x"])) == 1  # slices are never mixed
            found[view["part"]].add(round(float(view["x"].max())) - 1)
    return found


@pytest.mark.parametrize("parts", [3, 4, 6])
@pytest.mark.parametrize("n", [12, 13, 14, 17, 23])
def test_parts_cover_every_slice_once(parts, n):
    found = shown(slices(n), parts, 150)
    assert sorted(k for part in found for k in part) == list(range(n))
    assert all(max(a) < min(b) for a, b in pairwise(found))
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_parts_divide_the_tissue_and_not_the_field_of_view():
    found = shown(slices(40, low=13, high=26), 4, 150)
    assert sorted(k for part in found for k in part) == list(range(13, 26))


@pytest.mark.parametrize("parts", [3, 4, 6])
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_short_volumes_give_the_nearest_slice_and_never_an_empty_view(parts, n):
    found = shown(slices(n), parts, 20)
    middles = (np.arange(parts) + 0.5) * n / parts
    for part, middle in zip(found, middles, strict=True):
        assert all(abs(k + 0.5 - middle) <= max(0.5, n / parts / 2) + 1e-6 for k in part)


@pytest.mark.parametrize("parts", [3, 4, 6])
@pytest.mark.parametrize("n", [5, 20, 23])
@pytest.mark.parametrize("spatial", [Spatial(), WARPED])
def test_no_view_of_a_part_is_empty(parts, n, spatial):
    for crop in ((16, 16), (24, 24), (8, 8, 8), (32, 16, 16)):
        view = View(crop=crop, count=2, spatial=spatial)
        for seed in range(5):
            views = views_of(seed, slices(n), view, partitions=parts, overlap=0.5)
            assert all(view["tissue"].any() and view["x"].any() for view in views)
            assert [view["part"] for view in views] == list(np.repeat(range(parts), 2))


@pytest.mark.parametrize("n", [20, 22, 23])
def test_volumes_have_the_centre_of_the_first_view_in_the_part(n):
    for seed in range(50):
        for view in views_of(seed, slices(n), View(crop=(8, 8, 8)), partitions=4):
            assert view["part"] <= 4 * view["position"][0] < view["part"] + 1


def test_views_of_a_part_stay_near_its_first_one():
    view = View(crop=(8, 8, 8), count=3)
    for seed in range(20):
        views = views_of(seed, slices(40), view, partitions=4, overlap=0.5)
        for first in range(0, 12, 3):
            centres = [v["place"][:, 3] for v in views[first : first + 3]]
            assert np.abs(np.array(centres) - centres[0]).max() <= 4


def test_slices_are_cut_and_parted_along_the_thick_axis():
    ramp = np.broadcast_to(np.arange(1.0, 13)[:, None], (1, 16, 12, 16)).astype(np.float32)
    data = source(ramp, air=(0.5,), fill=(0.0,), spacing_mm=(1.0, 5.0, 1.0))
    found = shown(data, 3, 100)
    assert found == [set(range(4)), set(range(4, 8)), set(range(8, 12))]
    view = views_of(0, data, View(crop=(16, 16)), partitions=3)[2]
    assert view["position"][1] > 2 / 3


def test_a_twin_shows_the_same_voxels_with_other_grey_values_and_masks():
    mask = MaskSpec(token_size=(4, 4, 4), ratio=(0.5, 0.5))
    first = View(crop=(12, 12, 12), spatial=WARPED, mask=mask)
    noisy = Intensity(noise=0.2, noise_probability=1.0)
    volume = np.random.default_rng(0).normal(size=(1, 30, 30, 30)).astype(np.float32)
    plain, twin = (
        View(crop=(12, 12, 12), twin=True, mask=mask, intensity=i) for i in (Intensity(), noisy)
    )
    for seed in range(10):
        one, same, other, apart = views_of(seed, source(volume), first, plain, twin, first)
        # Bitwise, so turn, bend and mirror are the same: the warp fields are equal.
        assert np.array_equal(one["x"], same["x"])
        for key in ("place", "position", "tissue"):
            assert np.array_equal(one[key], other[key])
        assert not np.array_equal(one["x"], other["x"])
        assert np.corrcoef(one["x"].ravel(), other["x"].ravel())[0, 1] > 0.9
        assert not np.array_equal(one["mask"], other["mask"])
        assert not np.array_equal(one["place"], apart["place"])


def test_a_twin_has_the_label_of_its_view():
    labels = np.random.default_rng(0).integers(0, 3, (1, 30, 30, 30)).astype(np.uint8)
    read = lambda a, b: labels[:, a[0] : b[0], a[1] : b[1], a[2] : b[2]]  # noqa: E731
    data = source(np.zeros((1, 30, 30, 30), np.float32), read_labels=read)
    first, twin = views_of(
        0, data, View(crop=(12,) * 3, spatial=WARPED), View(crop=(12,) * 3, twin=True)
    )
    assert np.array_equal(first["label"], twin["label"])


@pytest.mark.parametrize("flat", [False, True])
def test_position_is_the_centre_in_body_coordinates(flat):
    box = np.array([[2, 4, 6], [18, 20, 26]])
    crop = (8, 8) if flat else (8, 8, 8)
    data = source(tissue=box, spacing_mm=(1.0, 4.0, 1.0))  # slices are coronal
    for seed in range(20):
        view = views_of(seed, data, View(crop=crop, spatial=Spatial(rotate_deg=10, flip=True)))[0]
        points, _ = grid_of(view)
        centre = in_record(view["place"], points).mean(0)
        wanted = (centre - (box[0] - 0.5)) / (box[1] - box[0])
        np.testing.assert_allclose(view["position"], wanted, atol=1e-6)
        assert view["position"].dtype == np.float32


def test_the_whole_body_is_seen_from_its_middle():
    assert views_of(0, source(), View(crop=(20, 24, 28)))[0]["position"].tolist() == [0.5] * 3


def test_pictures_lie_in_the_middle_of_their_one_slice():
    picture = source(np.zeros((1, 1, 40, 40), np.float32))
    assert views_of(0, picture, View(crop=(8, 8)))[0]["position"][0] == 0.5
