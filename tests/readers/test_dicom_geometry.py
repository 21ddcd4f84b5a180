"""Gaps and tilted gantries: closed forms and SimpleITK."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from medssl.core.geometry import corners_mm
from medssl.readers._base import Policy
from medssl.readers._dispatch import load
from tests.core.orientations import CASES, affine_of
from tests.readers.dicom_files import AXIAL, grouped, place, voxels, write_slices

TILT_DEG = 14.0


def tilted(affine=AXIAL, degrees=TILT_DEG):
    """Slices that lean by this angle along their columns, at the same distance."""
    out = affine.copy()
    down = affine[:3, 1] / np.linalg.norm(affine[:3, 1])
    out[:3, 2] += np.tan(np.radians(degrees)) * np.linalg.norm(affine[:3, 2]) * down
    return out


def ramp(affine, shape=(6, 24, 20)):
    """A field that is linear in the world: linear interpolation reproduces it."""
    index = np.moveaxis(np.indices(shape), 0, -1)[..., ::-1]
    return index @ affine[:3, :3].T @ [3.0, 11.0, 7.0] + 1000


@pytest.mark.parametrize("turn_deg", [(0, 0, 0), (20, -9, 41)])
@pytest.mark.parametrize("case", CASES[::7])
def test_a_sheared_stack_keeps_its_sheared_affine(tmp_path, case, turn_deg):
    affine = tilted(affine_of(case, turn_deg))
    write_slices(tmp_path / "s", voxels(), affine)
    (found,), _ = grouped(tmp_path)
    # The stack may run either way along its normal.
    ours, true = (corners_mm(a, found.shape) for a in (found.geometry.affine, affine))
    apart_mm = np.linalg.norm(ours[:, None] - true[None], axis=2)
    assert apart_mm.min(0).max() < 1e-4
    assert found.flags == ("gantry_tilt_deg=14.0",)


def test_the_tilt_comes_from_positions_not_from_the_tilt_tag(tmp_path):
    write_slices(tmp_path / "upright", voxels(), GantryDetectorTilt="20")
    write_slices(tmp_path / "leaning", voxels(), tilted(), SeriesInstanceUID="1.9")
    found, _ = grouped(tmp_path)
    assert sorted(one.flags for one in found) == [(), ("gantry_tilt_deg=14.0",)]


@pytest.mark.parametrize("degrees", [TILT_DEG, -TILT_DEG])
def test_a_tilted_ramp_resampled_upright_is_the_ramp(tmp_path, degrees):
    affine = tilted(degrees=degrees)
    field = np.round(ramp(affine))
    write_slices(tmp_path / "s", field, affine)
    (found,), _ = grouped(tmp_path, Policy(tilt="resample"))
    upright = found.geometry.affine[:3, :3] / np.linalg.norm(found.geometry.affine[:3, :3], axis=0)
    np.testing.assert_allclose(upright.T @ upright, np.eye(3), atol=1e-9)
    assert "tilt_resampled" in found.flags
    x_DHW = load(found)[0]
    world = np.moveaxis(np.indices(x_DHW.shape), 0, -1)[..., ::-1] @ found.geometry.affine[:3, :3].T
    expected = (world + found.geometry.affine[:3, 3] - affine[:3, 3]) @ [3.0, 11.0, 7.0] + 1000
    inside = ndimage.binary_erosion(x_DHW > field.min(), np.ones((1, 3, 1)))
    assert inside.mean() > 0.5
    assert np.abs(x_DHW - expected)[inside].max() < 1.0  # each stored value was rounded


def test_nothing_is_cut_off_a_stack_made_upright(tmp_path):
    x_DHW = np.zeros((5, 8, 10), np.int16)
    x_DHW[:, 3, 4] = 1000
    write_slices(tmp_path / "s", x_DHW, tilted())
    (found,), _ = grouped(tmp_path, Policy(tilt="resample"))
    np.testing.assert_allclose(load(found)[0].sum(axis=(1, 2)), 1000, rtol=1e-6)


def test_a_missing_slice_is_quarantined_split_or_resampled(tmp_path):
    x_DHW = np.round(ramp(AXIAL, (8, 4, 5))).astype(np.int16)
    write_slices(tmp_path, x_DHW, skip=(3,))
    assert grouped(tmp_path)[0] == []
    assert list(grouped(tmp_path)[1]) == ["gap"]
    split, refused = grouped(tmp_path, Policy(gaps="split"))
    assert [(one.part, one.shape[1]) for one in split] == [("Stack=1", 3), ("Stack=2", 4)]
    assert refused == {}
    np.testing.assert_array_equal(load(split[1])[0], x_DHW[4:])
    assert split[1].geometry.affine[:3, 3] == pytest.approx((AXIAL @ [0, 0, 4, 1])[:3])
    (filled,), _ = grouped(tmp_path, Policy(gaps="resample"))
    assert filled.shape == (1, 8, 4, 5)
    assert "gap_resampled" in filled.flags
    np.testing.assert_allclose(filled.geometry.affine, AXIAL, atol=1e-5)
    np.testing.assert_allclose(load(filled)[0], x_DHW, atol=1.0)


def test_slices_beside_a_gap_that_make_no_stack_are_named(tmp_path):
    write_slices(tmp_path, voxels(shape=(8, 4, 5)), skip=(2, 4))
    (found,), refused = grouped(tmp_path, Policy(gaps="split"))
    assert (found.part, found.shape[1], len(refused["gap"])) == ("Stack=1", 3, 3)


def test_a_step_too_fine_to_fill_a_long_gap_stays_a_gap(tmp_path):
    for k, z in enumerate([0.0, 0.02, 50.0, 90.0]):
        affine = AXIAL.copy()
        affine[2, 3] += z
        write_slices(tmp_path, voxels(k)[:1], affine)
    found, refused = grouped(tmp_path, Policy(gaps="resample"))
    assert (found, list(refused)) == ([], ["gap"])


@pytest.mark.parametrize("case", CASES[::5])
@pytest.mark.parametrize("turn_deg", [(0, 0, 0), (20, -9, 41)])
def test_voxels_lie_where_simpleitk_puts_them(tmp_path, case, turn_deg):
    x_DHW = voxels()
    write_slices(tmp_path / "s", x_DHW, affine_of(case, turn_deg))
    (found,), _ = grouped(tmp_path)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "s")))
    itk = reader.Execute()
    ours = load(found)[0]
    blob = np.unravel_index(ours.argmax(), ours.shape)
    place_mm = found.geometry.affine @ [*blob[::-1], 1]
    index = itk.TransformPhysicalPointToIndex([*(-place_mm[:2]), place_mm[2]])
    assert itk[index] == ours.max()
    assert sorted(itk.GetSpacing()) == pytest.approx(sorted(found.geometry.spacing_mm), rel=1e-6)


def test_a_slice_pushed_sideways_is_no_gap(tmp_path):
    x, y, z = (float(v) for v in place(AXIAL, 2)[0])
    places = {2: [x + 5, y, z]}
    write_slices(
        tmp_path, voxels(), ImagePositionPatient=lambda k: places.get(k, place(AXIAL, k)[0])
    )
    for gaps in ("quarantine", "resample"):
        found, refused = grouped(tmp_path, Policy(gaps=gaps))
        assert (found, list(refused)) == ([], ["bad_geometry"])


def test_a_volume_that_lost_its_last_slice_says_so(tmp_path):
    *_, last = write_slices(tmp_path, voxels())
    last.write_bytes(last.read_bytes()[:-20])
    (found,), refused = grouped(tmp_path)
    assert (found.shape[1], list(refused)) == (4, ["truncated"])
    assert found.flags == ("slices_refused=1",)
