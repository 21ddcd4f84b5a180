"""Where voxels lie, checked against nibabel and SimpleITK."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from medssl.core.errors import ReadError
from medssl.core.geometry import (
    Geometry,
    Reorientation,
    axis_codes,
    check_affine,
    corners_mm,
    grid_distance_mm,
    resized_affine,
    spacing_of,
    to_array_order,
    to_voxel_order,
)
from tests.core.orientations import CASES, SHAPE_DHW, affine_of, volume

TILTED = (12.0, -20.0, 8.0)
# nibabel and we agree on the closest axes only where one axis is clearly the closest.
angles = st.floats(-25, 25)
tilts = st.tuples(angles, angles, angles)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("tilt", [(0, 0, 0), TILTED])
def test_reorientation_is_nibabels_closest_canonical(case, tilt):
    affine = affine_of(case, tilt)
    expected = nib.as_closest_canonical(nib.Nifti1Image(to_voxel_order(volume()), affine))
    turn = Reorientation.to_ras(affine)
    np.testing.assert_array_equal(to_voxel_order(turn.apply(volume())), expected.dataobj)
    np.testing.assert_allclose(turn.affine(affine, SHAPE_DHW), expected.affine, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_undo_brings_back_every_voxel(case):
    turn = Reorientation.to_ras(affine_of(case, TILTED))
    channels = np.stack([volume(), -volume()])
    np.testing.assert_array_equal(turn.undo(turn.apply(channels)), channels)


@pytest.mark.parametrize("case", CASES)
def test_axis_codes_are_nibabels(case):
    assert axis_codes(affine_of(case)) == "".join(nib.aff2axcodes(affine_of(case)))


@given(
    case=st.sampled_from(CASES),
    tilt=tilts,
    voxel=st.tuples(*map(st.integers, (0, 0, 0), (8, 6, 4))),
)
def test_a_voxel_keeps_its_place_in_the_patient(case, tilt, voxel):
    affine = affine_of(case, tilt)
    turn = Reorientation.to_ras(affine)
    i, j, k = voxel
    marked = np.zeros(SHAPE_DHW)
    marked[k, j, i] = 1
    found = np.argwhere(to_voxel_order(turn.apply(marked)))[0]
    moved = turn.affine(affine, SHAPE_DHW) @ [*found, 1]
    np.testing.assert_allclose(moved, affine @ [i, j, k, 1], atol=1e-9)


@pytest.mark.parametrize("tilt", [(0, 0, 0), TILTED])
def test_corners_are_simpleitks(tilt):
    affine = affine_of(CASES[17], tilt)
    image = sitk.GetImageFromArray(volume())
    lps = np.diag([-1, -1, 1]) @ affine[:3]
    spacing = np.linalg.norm(lps[:, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:, 3].tolist())
    w, h, d = image.GetSize()
    grid = [(i, j, k) for i in (0, w - 1) for j in (0, h - 1) for k in (0, d - 1)]
    expected = np.array([image.TransformIndexToPhysicalPoint(index) for index in grid]) * [
        -1,
        -1,
        1,
    ]
    np.testing.assert_allclose(corners_mm(affine, SHAPE_DHW), expected, atol=1e-6)


def test_spacing_is_in_array_order():
    assert spacing_of(np.diag([0.5, 0.6, 3.0, 1.0])) == pytest.approx((3.0, 0.6, 0.5))


def test_moving_the_origin_moves_every_corner_by_as_much():
    affine = affine_of(CASES[3], TILTED)
    moved = affine.copy()
    moved[:3, 3] += [3, 4, 12]
    assert grid_distance_mm(affine, moved, SHAPE_DHW) == pytest.approx(13.0)


@given(case=st.sampled_from(CASES), tilt=tilts, new=st.tuples(*[st.integers(1, 40)] * 3))
def test_resizing_keeps_the_field_of_view(case, tilt, new):
    affine = affine_of(case, tilt)
    resized = resized_affine(affine, SHAPE_DHW, new)
    for edge in ([-0.5] * 3, [8.5, 6.5, 4.5]):
        inner = np.array(edge) == -0.5
        same = np.where(inner, -0.5, np.array(new[::-1]) - 0.5)
        np.testing.assert_allclose(resized @ [*same, 1], affine @ [*edge, 1], atol=1e-9)
    back = resized_affine(resized, new, SHAPE_DHW)
    np.testing.assert_allclose(back, affine, atol=1e-9)


def test_channels_come_first_in_array_order():
    assert to_array_order(np.zeros((9, 7, 5, 2))).shape == (2, 5, 7, 9)


def _with(row, column, value):
    affine = affine_of(CASES[0])
    affine[row, column] = value
    return affine


BROKEN = {
    "NaN": _with(0, 3, np.nan),
    "infinite": _with(1, 1, np.inf),
    "flat": np.diag([1.0, 1.0, 0.0, 1.0]),
    "two axes coincide": np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
    "perspective": _with(3, 0, 0.1),
    "three rows": np.eye(4)[:3],
}


@pytest.mark.parametrize("affine", BROKEN.values(), ids=BROKEN.keys())
def test_broken_affines_are_refused(affine):
    with pytest.raises(ReadError) as caught:
        check_affine(affine)
    assert caught.value.reason == "bad_geometry"


def test_a_sheared_affine_is_kept_as_it_is():
    sheared = _with(0, 2, 0.4)  # gantry tilt
    np.testing.assert_array_equal(Geometry.of_volume(sheared).affine, sheared)
