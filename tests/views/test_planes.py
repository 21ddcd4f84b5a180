"""Slices of volumes: the axis that is cut, and where their pixels lie in the volume."""

import numpy as np
import pytest

from medssl.core.geometry import cut_axis, plane_axis
from tests.views.sources import SHAPE, VOLUME, in_record, one_view, reader, source

CROP = (8, 10)


@pytest.mark.parametrize(
    ("spacing_mm", "axis"),
    [
        ((5.0, 0.5, 0.5), 0),
        ((0.9, 6.0, 0.9), 1),
        ((0.9, 0.9, 6.0), 2),
        ((1.0, 1.0, 1.0), 0),
        ((1.0, 1.001, 1.0), 0),  # rounding of a header is no direction
        ((1.0, 2.0, 2.0), 1),
    ],
)
def test_volumes_are_cut_as_they_were_acquired(spacing_mm, axis):
    assert plane_axis("acquired", spacing_mm) == axis


@pytest.mark.parametrize(("plane", "axis"), [("axial", 0), ("coronal", 1), ("sagittal", 2)])
def test_named_planes_are_axes_of_a_ras_volume(plane, axis):
    assert plane_axis(plane, (1.0, 5.0, 1.0)) == axis


def test_a_picture_is_cut_along_its_only_slice():
    assert cut_axis("sagittal", (1, 20, 30), None) == 0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_pixels_of_a_slice_are_voxels_of_the_volume(axis):
    spacing_mm = tuple(4.0 if k == axis else 1.0 for k in range(3))
    view = one_view(3, source(spacing_mm=spacing_mm), crop=CROP)
    rows, columns = np.indices(CROP).reshape(2, -1)
    places = in_record(view["place"], np.stack([0 * rows, rows, columns], -1))
    assert np.ptp(places[:, axis]) == 0
    d, h, w = places.round().astype(int).T
    np.testing.assert_allclose(view["x"][0].ravel(), VOLUME[0, d, h, w])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_labels_are_cut_with_their_volume(axis):
    labels = (VOLUME > 0).astype(np.uint8)
    foreground = np.argwhere(labels[0])[:1]
    spacing_mm = tuple(4.0 if k == axis else 1.0 for k in range(3))
    record = source(spacing_mm=spacing_mm, read_labels=reader(labels), foreground=foreground)
    view = one_view(1, record, crop=CROP, foreground=1.0)
    np.testing.assert_array_equal(view["label"], view["x"][0] > 0)
    assert view["place"][axis, 3] == foreground[0, axis]  # the slice of the labelled voxel


def test_slices_of_air_are_avoided():
    volume = np.full((1, 30, 24, 28), -10.0, np.float32)
    volume[:, ::2] = 1.0
    seeds = range(40)
    kept = [one_view(s, source(volume), crop=CROP, min_tissue=0.5)["tissue"].any() for s in seeds]
    plain = [one_view(s, source(volume), crop=CROP)["tissue"].any() for s in seeds]
    assert np.mean(kept) > 0.85 > np.mean(plain)


def test_every_slice_is_seen():
    seen = {one_view(s, source(), crop=CROP)["place"][0, 3] for s in range(300)}
    assert seen == set(range(SHAPE[0]))
