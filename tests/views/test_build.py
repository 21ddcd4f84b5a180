"""Views of a sample: promised overlap, places that lead back, replay, enough tissue."""

import numpy as np
import pytest

from medssl.core.viewspec import Intensity, MaskSpec, Spatial, TargetSpec, View
from medssl.objectives._parts.views import GENTLE
from medssl.views.smooth import smooth_field
from tests.views.sources import (
    VOLUME,
    grid_of,
    in_record,
    in_view,
    one_view,
    source,
    views_of,
)

WILD = Spatial(rotate_deg=15, scale=(0.7, 1.4), flip=True)
BENT = Spatial(rotate_deg=5, scale=(0.9, 1.1), elastic_mm=3.0)
ALL_CHANGES = Intensity(
    gamma=(1.4, 1.5), brightness=0.3, contrast=(1.1, 1.25), noise=0.2, blur=(0.7, 1.0),
    low_resolution=(1.5, 2.0), bias_field=0.3, probability=1.0, noise_probability=1.0,
)  # fmt: skip


def box_of(view):
    """Corners (low, high) of the box of record voxels around the view, and its size."""
    _, size = grid_of(view)
    last = np.array(size) - 0.5
    corners = np.stack(np.meshgrid(*[(-0.5, n) for n in last], indexing="ij"), -1).reshape(-1, 3)
    places = in_record(view["place"], corners)
    return places.min(0), places.max(0)


def overlap(first, other):
    """Share of the other's box per axis that the first's box holds."""
    (a_low, a_high), (b_low, b_high) = box_of(first), box_of(other)
    return (np.minimum(a_high, b_high) - np.maximum(a_low, b_low)) / (b_high - b_low)


def seen_by_first(first, other):
    """Share of the other's voxels that the first view shows."""
    points, _ = grid_of(other)
    places = in_view(first["place"], in_record(other["place"], points))
    size = np.array(grid_of(first)[1])
    return ((places > -0.5 - 1e-9) & (places < size - 0.5 + 1e-9)).all(1).mean()


RECORDS = {
    "cube": ((60, 60, 60), (1.0, 1.0, 1.0), (24, 24, 24)),
    "thick slices": ((14, 90, 90), (5.0, 0.8, 0.8), (8, 40, 40)),
    "tiny": ((5, 6, 30), (1.0, 1.0, 1.0), (16, 16, 16)),
    "picture": ((1, 80, 100), (1.0, 1.0, 1.0), (32, 32)),
}


@pytest.mark.parametrize("spatial", [Spatial(flip=True), WILD, BENT])
@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize("share", [0.3, 0.5])
def test_views_overlap_as_promised(record, share, spatial):
    shape, spacing, crop = RECORDS[record]
    data = source(np.zeros((1, *shape), dtype=np.float32), spacing_mm=spacing)
    view = View(crop=crop, count=2, spatial=spatial)
    axes = len(crop)
    for seed in range(150):
        first, other = views_of(seed, data, view, overlap=share)
        assert (overlap(first, other) >= share - 1e-9).all()
        assert seen_by_first(first, other) >= share**axes


def test_small_crops_lie_in_the_first_view_and_large_ones_around_it():
    data = source(np.zeros((1, 80, 80, 80), dtype=np.float32))
    large, small = (View(crop=(n,) * 3, count=c) for n, c in ((32, 2), (12, 6)))
    for seed in range(50):
        first, second, *local = views_of(seed, data, large, small, overlap=1.0)
        assert np.array_equal(first["place"], second["place"])
        assert all((overlap(first, view) == 1).all() for view in local)
        first, *around = views_of(seed, data, small, large, overlap=1.0)
        assert all((overlap(view, first) == 1).all() for view in around[-2:])


def test_multi_crop_has_sizes_and_counts_of_the_spec():
    views = views_of(
        0, source(), View(crop=(16, 16, 16), count=2), View(crop=(8, 8, 8), count=6), overlap=0.5
    )
    assert [view["x"].shape[1] for view in views] == [16] * 2 + [8] * 6
    assert len({view["x"].tobytes() for view in views[2:]}) > 1


def test_overlap_leaves_room_for_different_places():
    data = source(np.zeros((1, 80, 80, 80), dtype=np.float32))
    shifts = [
        np.abs(np.subtract(*(v["place"][:, 3] for v in views_of(seed, data, View(
            crop=(24,) * 3, count=2), overlap=0.5))))
        for seed in range(100)
    ]  # fmt: skip
    assert np.max(shifts) == 12
    assert 5 < np.mean(shifts) < 7


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (4.0, 1.0, 1.0)])
def test_a_landmark_in_two_views_is_the_same_voxel_of_the_record(spacing):
    # A blob that no crop cuts: its centre of mass in each view leads back to the same voxel.
    centre = np.array([13.0, 31.0, 29.0])
    far = np.indices((26, 60, 60)) - centre[:, None, None, None]
    blob = np.exp(-(far**2).sum(0) / 2 / 1.5**2)[None].astype(np.float32)
    data = source(blob, spacing_mm=spacing, fill=(0.0,), foreground=centre[None].astype(int))
    turned = Spatial(rotate_deg=10, scale=(0.8, 1.25), flip=True)
    found = 0
    for seed in range(30):
        for view in views_of(
            seed, data, View(crop=(22, 48, 48), count=2, spatial=turned), overlap=0.9
        ):
            x = view["x"][0]
            if x.sum() < 0.98 * blob.sum() * abs(1 / np.linalg.det(view["place"][:, :3])):
                continue  # cut by the border
            mass = np.array([(np.indices(x.shape)[k] * x).sum() / x.sum() for k in range(3)])
            np.testing.assert_allclose(in_record(view["place"], mass), centre, atol=0.2)
            found += 1
    assert found > 20


def test_the_inverse_warp_maps_the_grid_of_one_view_onto_the_other():
    data = source(np.zeros((1, 60, 60, 60), dtype=np.float32))
    first, other = views_of(3, data, View(crop=(20,) * 3, count=2, spatial=WILD), overlap=0.5)
    points, _ = grid_of(first)
    there = in_view(other["place"], in_record(first["place"], points))
    back = in_view(first["place"], in_record(other["place"], there))
    np.testing.assert_allclose(back, points, atol=1e-9)


def test_place_reads_the_shown_values_of_the_record():
    ramp = np.indices((40, 40, 40)).astype(np.float32)
    for seed in range(10):
        view = one_view(seed, source(ramp), crop=(16, 16, 16), spatial=WILD)
        points, size = grid_of(view)
        places = in_record(view["place"], points)
        inside = ((places >= 0) & (places <= 39)).all(1)
        shown = view["x"].reshape(3, -1).T
        np.testing.assert_allclose(shown[inside], places[inside], atol=1e-3)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_places_of_slices_are_voxels_of_the_volume(plane):
    ramp = np.indices((20, 24, 28)).astype(np.float32)
    turned = Spatial(rotate_deg=10)
    view = views_of(1, source(ramp), View(crop=(8, 8), spatial=turned), plane=plane)[0]
    points, _ = grid_of(view)
    places = in_record(view["place"], points)
    inside = ((places >= 0) & (places <= np.array([19, 23, 27]))).all(1)
    np.testing.assert_allclose(view["x"].reshape(3, -1).T[inside], places[inside], atol=1e-3)


def test_labels_move_with_the_image():
    blobs = smooth_field(np.random.default_rng(0).normal(size=(1, 7, 7, 7)), (24, 24, 24)) > 0
    labels = blobs.astype(np.uint8)
    data = source(labels.astype(np.float32), fill=(0.0,), read_labels=lambda a, b: labels[
        :, a[0]:b[0], a[1]:b[1], a[2]:b[2]])  # fmt: skip
    bent = Spatial(rotate_deg=15, scale=(0.9, 1.1), elastic_mm=2.0, flip=True)
    for seed in range(5):
        view = one_view(seed, data, crop=(12, 12, 12), spatial=bent)
        x, label = view["x"][0], view["label"]
        assert label[x > 0.999].all()
        assert not label[x < 0.001].any()
        assert ((x > 0.999) | (x < 0.001)).mean() > 0.3


def test_foreground_crops_hold_the_wanted_voxel():
    point = np.array([[18, 2, 25]])
    for seed in range(20):
        for spatial in (Spatial(), Spatial(rotate_deg=20, scale=(0.7, 1.4))):
            data = source(foreground=point)
            view = one_view(seed, data, foreground=1.0, spatial=spatial)
            place = in_view(view["place"], point.astype(float))[0]
            assert ((place > -0.5 - 1e-9) & (place < 7.5 + 1e-9)).all()


def test_equal_seeds_give_equal_views_and_others_differ():
    options = {
        "mask": MaskSpec(token_size=(4, 4, 4), ratio=(0.5, 0.5)),
        "spatial": Spatial(rotate_deg=10, elastic_mm=1.0, flip=True),
        "intensity": ALL_CHANGES,
    }
    one, again, other = (one_view(s, source(modality="MR"), **options) for s in (1, 1, 2))
    assert all(np.array_equal(one[key], again[key]) for key in one)
    assert not np.array_equal(one["x"], other["x"])


def test_neutral_view_is_bitwise_the_record():
    view = one_view(0, source(), crop=(20, 24, 28))
    assert np.array_equal(view["x"], VOLUME)
    assert view["x"].dtype == np.float32


@pytest.mark.parametrize("shape", [(30, 30, 30), (1, 60, 60)])
def test_no_augmented_view_equals_its_plain_crop(shape):
    volume = np.random.default_rng(1).normal(size=(1, *shape)).astype(np.float32)
    crop = (12, 12) if shape[0] == 1 else (12, 12, 12)
    data = source(volume, modality="MR")
    for seed in range(20):
        plain = one_view(seed, data, crop=crop)["x"]
        for changed in (
            {"intensity": ALL_CHANGES},
            {"spatial": Spatial(rotate_deg=10, scale=(0.8, 1.25))},
            {"spatial": Spatial(elastic_mm=2.0)},
        ):
            view = one_view(seed, data, crop=crop, **changed)["x"]
            assert view.dtype == np.float32
            assert np.isfinite(view).all()
            assert not np.array_equal(view, plain)


def test_tissue_is_looked_for_in_every_view():
    volume = np.full((1, 40, 40, 40), -10.0, dtype=np.float32)
    volume[:, :20] = 1.0
    data = source(volume, air=(0.0,))
    views = (View(crop=(12, 12, 12)), View(crop=(8, 8, 8), count=3))

    def shares(least):
        return np.array([
            [view["tissue"].mean() for view in views_of(s, data, *views, min_tissue=least)]
            for s in range(60)
        ])  # fmt: skip

    some, wanted = shares(0.0), shares(0.5)
    assert (some.mean(0) < 0.65).all()
    assert (wanted.mean(0) > 0.7).all()


@pytest.mark.parametrize("modality", ["MR", "CT", "US", "unknown"])
def test_constant_and_tiny_records_give_finite_views(modality):
    for volume in (np.full((1, 3, 3, 3), 0.5), np.zeros((1, 20, 20, 20))):
        data = source(volume.astype(np.float32), fill=(0.0,), modality=modality)
        spatial = Spatial(rotate_deg=15, scale=(0.8, 1.25), elastic_mm=2.0)
        view = one_view(0, data, spatial=spatial, intensity=ALL_CHANGES)
        assert np.isfinite(view["x"]).all()
        assert view["x"].dtype == np.float32


def test_gentle_changes_keep_what_is_seen():
    blobs = smooth_field(np.random.default_rng(0).normal(size=(1, 7, 7, 7)), (32, 32, 32))
    for seed in range(20):
        views = (one_view(seed, source(blobs), crop=(32,) * 3, intensity=i) for i in (
            Intensity(), GENTLE))  # fmt: skip
        plain, changed = (view["x"].ravel() for view in views)
        assert np.corrcoef(plain, changed)[0, 1] > 0.9


def test_target_blocks_come_with_the_mask_of_their_context():
    targets = TargetSpec(token_size=(4, 4, 4))
    view = one_view(0, source(np.zeros((1, 24, 24, 24), np.float32)), crop=(24,) * 3,
                    targets=targets)  # fmt: skip
    assert view["targets"].shape == (4, 37)  # int(0.175 * 216)
    assert view["mask"][view["targets"]].all()
    assert (~view["mask"]).sum() == 216 - 4 * 37
