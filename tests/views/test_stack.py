"""Stacks of slices: one grid per sample, cut alike, never mixed; what is missing is not inside."""

import numpy as np
import pytest
from pydantic import ValidationError

from medssl.core.seeding import generator
from medssl.core.viewspec import Intensity, MaskSpec, Spatial, TargetSpec, View, ViewSpec
from medssl.views.stack import draw_slices, moved
from tests.views.sources import VOLUME, in_record, reader, source, views_of

CROP = (12, 16)
# Every voxel of a slice has the number of its slice.
NUMBERED = np.broadcast_to(np.arange(20.0)[:, None, None], (1, 20, 24, 28)).astype(np.float32)
TURNED = Spatial(rotate_deg=15, scale=(1.0, 1.4))


def stacks(seed, record, *, stack=6, overlap=0.5, **of_view):
    return views_of(seed, record, View(crop=CROP, count=2, **of_view), stack=stack, overlap=overlap)


def numbers(view):
    """Slices of the record, by ``place``."""
    rows = np.zeros((len(view["inside"]), 3))
    rows[:, 0] = np.arange(len(rows))
    return in_record(view["place"], rows)[view["inside"], 0].astype(int)


@pytest.mark.parametrize("seed", range(20))
def test_a_slice_shows_one_slice_of_the_volume_however_it_is_turned(seed):
    for view in stacks(seed, source(NUMBERED), spatial=TURNED):
        d, h, w = np.indices((6, *CROP)).reshape(3, -1)
        places = in_record(view["place"], np.stack([d, h, w], -1))
        known = ((places > 0) & (places < [19.5, 23, 27])).all(1)
        np.testing.assert_allclose(view["x"].ravel()[known], places[known, 0], atol=1e-5)


def test_slices_are_cut_alike_and_voxels_are_those_of_the_record():
    for view in stacks(1, source()):
        d, h, w = np.indices((6, *CROP)).reshape(3, -1)
        places = in_record(view["place"], np.stack([d, h, w], -1)).astype(int)
        np.testing.assert_array_equal(view["x"][0].ravel(), VOLUME[0][tuple(places.T)])


@pytest.mark.parametrize("depth", [6, 7, 13, 40, 400])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 1.0])
def test_views_share_slices_of_one_grid(depth, overlap):
    rng = generator(0)
    for _ in range(200):
        first = draw_slices(rng, depth, 6)
        other = moved(rng, first, depth, overlap)
        shared = set(first.numbers) & set(other.numbers)
        assert len(shared) >= max(overlap * 6, depth in {6, 7})
        assert (first.step, first.count) == (other.step, other.count)
        assert min(first.numbers + other.numbers) >= 0
        assert max(first.numbers + other.numbers) < depth


def test_slices_lie_far_apart_and_the_whole_volume_is_seen():
    rng = generator(1)
    drawn = [draw_slices(rng, 41, 6) for _ in range(500)]
    assert {s.step for s in drawn} == {3, 4, 5, 6, 7}  # half of 41 slices is 3 steps of 5, all 8
    assert set(range(41)) == {n for s in drawn for n in s.numbers}


def test_views_differ_in_their_slices():
    pairs = [stacks(seed, source(NUMBERED)) for seed in range(60)]
    shifts = {other["place"][0, 3] - first["place"][0, 3] for first, other in pairs}
    assert len(shifts) > 3
    assert 0 in shifts


@pytest.mark.parametrize("depth", [1, 4])
def test_what_a_short_record_lacks_is_fill_and_not_inside(depth):
    volume = VOLUME[:, :depth]
    for view in stacks(2, source(volume), mask=MaskSpec(token_size=(1, *CROP), ratio=(0.5, 0.5))):
        assert view["x"].shape == (1, 6, *CROP)
        assert view["inside"].tolist() == [True] * depth + [False] * (6 - depth)
        assert (view["x"][:, depth:] == -10).all()
        assert not view["tissue"][:, depth:].any()
        assert view["tissue"][:, :depth].all()
        assert not view["mask"][depth:].any()
        assert view["mask"].sum() == depth // 2
        assert (view["offset_mm"][depth:] == 0).all()


def test_offsets_are_in_mm_about_the_middle():
    view = stacks(3, source(NUMBERED, spacing_mm=(2.5, 1.0, 1.0)))[0]
    found = numbers(view)
    np.testing.assert_allclose(view["offset_mm"], 2.5 * (found - found.mean()), rtol=1e-6)
    assert view["offset_mm"].dtype == np.float32


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_stacks_run_along_the_axis_of_acquisition(axis):
    spacing_mm = tuple(4.0 if k == axis else 1.0 for k in range(3))
    for view in stacks(4, source(spacing_mm=spacing_mm)):
        d, h, w = np.indices((6, *CROP)).reshape(3, -1)
        places = in_record(view["place"], np.stack([d, h, w], -1)).astype(int)
        np.testing.assert_array_equal(view["x"][0].ravel(), VOLUME[0][tuple(places.T)])
        assert np.ptp(places[:, axis]) == np.ptp(view["offset_mm"]) / 4


def test_position_is_the_middle_of_the_stack_in_the_plane_of_the_crop():
    for view in stacks(5, source(NUMBERED)):
        _, h, w = in_record(view["place"], np.array([[0, 5.5, 7.5]]))[0]
        middle = np.array([numbers(view).mean(), h, w])
        np.testing.assert_allclose(view["position"], (middle + 0.5) / (20, 24, 28), atol=1e-6)


def test_grey_values_change_within_a_slice_alone():
    change = Intensity(blur=(2.0, 2.0), low_resolution=(2.0, 2.0), noise_probability=1.0)
    for view in stacks(6, source(NUMBERED), intensity=change):
        for k, number in enumerate(numbers(view)):
            np.testing.assert_allclose(view["x"][0, k], number, atol=1e-4)


def test_every_slice_has_its_own_noise():
    noisy = Intensity(noise=1.0, noise_probability=1.0)
    x = stacks(7, source(), intensity=noisy)[0]["x"][0]
    plain = stacks(7, source())[0]["x"][0]
    noise = x - plain
    assert abs(np.corrcoef(noise.reshape(6, -1)) - np.eye(6)).max() < 0.3
    assert noise.std() > 0


def test_channels_stay_apart():
    two = np.concatenate([NUMBERED, 100 + NUMBERED])
    for view in stacks(8, source(two)):
        np.testing.assert_array_equal(view["x"][1], 100 + view["x"][0])


def test_labels_are_cut_with_their_slices():
    labels = (VOLUME > 0).astype(np.uint8)
    for view in stacks(9, source(read_labels=reader(labels))):
        np.testing.assert_array_equal(view["label"], view["x"][0] > 0)


def test_in_plane_overlap_holds_too():
    large = source(np.zeros((1, 10, 60, 60), np.float32))
    shifts = [
        np.abs(np.subtract(*(v["place"][1:, 3] for v in stacks(s, large)))) for s in range(60)
    ]
    assert (np.max(shifts, 0) <= np.array(CROP) / 2).all()
    assert (np.max(shifts, 0) > 3).all()


@pytest.mark.parametrize(
    "of_view",
    [
        {"crop": (4, *CROP)},
        {"twin": True},
        {"tiles": (2, 2)},
        {"segments": 5},
        {"targets": TargetSpec(token_size=(4, 4))},
        {"mask": MaskSpec(token_size=(4, 4))},
    ],
)
def test_views_that_make_no_stack_are_refused(of_view):
    with pytest.raises(ValidationError, match="stack"):
        ViewSpec(views=(View(**{"crop": CROP, **of_view}),), stack=4)


@pytest.mark.parametrize("of_all", [{"style": (0.1, 0.2)}, {"partitions": 3}, {"foreground": 0.5}])
def test_specs_that_make_no_stack_are_refused(of_all):
    with pytest.raises(ValidationError, match="a stack has neither"):
        ViewSpec(views=(View(crop=CROP),), stack=4, **of_all)
