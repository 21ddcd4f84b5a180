"""NIfTI pairs, time series and channels, axes off right angles, headers that contradict."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.spatial.transform import Rotation

from medssl.core.errors import ReadError
from medssl.core.geometry import corners_mm, to_voxel_order
from medssl.readers import nifti
from medssl.readers._dispatch import group_headers, load, read_header
from medssl.readers._read import read, read_folder
from tests.readers.test_nifti import AFFINE, flags, image, reason, save

SERIES = np.random.default_rng(1).integers(0, 900, (5, 6, 7, 4)).astype(np.int16)


def series(path, *, unit="sec", step=2.0, intent=None):
    out = image(SERIES)
    out.header.set_xyzt_units("mm", unit)
    out.header["pixdim"][4] = step
    if intent:
        out.header["intent_code"] = intent
    return save(path, out)


def records(path):
    found, refused = group_headers([read_header(path)])
    assert not refused
    return found


def content(path):
    """The records of a file as (part, voxels)."""
    return [(one.part, load(one)) for one in records(path)]


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
@pytest.mark.parametrize(("unit", "step"), [("sec", 2.0), ("msec", 800.0), ("usec", 5e5)])
def test_a_time_axis_gives_one_record_per_time_point(tmp_path, name, unit, step):
    found = content(series(tmp_path / name, unit=unit, step=step))
    assert [part for part, _ in found] == ["Time=0", "Time=1", "Time=2", "Time=3"]
    for time, (_, voxels) in enumerate(found):
        np.testing.assert_array_equal(voxels[0], SERIES[..., time].T)


@pytest.mark.parametrize(
    ("unit", "step"),
    [("sec", 1.0), ("sec", 0.0), ("unknown", 2.0), ("hz", 2.0), ("sec", -2.0), ("sec", np.nan)],
)
def test_an_axis_that_may_not_be_time_becomes_channels(tmp_path, unit, step):
    path = series(tmp_path / "x.nii.gz", unit=unit, step=step)
    (_, voxels), *others = content(path)
    assert not others
    np.testing.assert_array_equal(voxels, SERIES.T)
    assert flags(path) == ("4d_as_channels",)


def test_the_intent_of_a_time_series_counts_where_the_step_says_nothing(tmp_path):
    assert len(records(series(tmp_path / "x.nii", step=1.0, intent=2001))) == 4


@pytest.mark.parametrize("key", ["modality", "channel_names"])
def test_a_data_set_that_names_channels_wins_over_the_header(tmp_path, key):
    folder = tmp_path / "imagesTr"
    folder.mkdir()
    (tmp_path / "dataset.json").write_text(json.dumps({key: {"0": "FLAIR", "1": "T1w"}}))
    assert read(series(folder / "x.nii.gz")).shape == (4, 7, 6, 5)
    (tmp_path / "dataset.json").write_text(json.dumps({key: {"0": "BOLD"}}))
    assert len(records(folder / "x.nii.gz")) == 4


def test_simpleitk_writes_4d_without_saying_what_the_fourth_axis_is(tmp_path):
    path = tmp_path / "x.nii.gz"
    sitk.WriteImage(sitk.JoinSeries([sitk.GetImageFromArray(v.T) for v in SERIES.T]), str(path))
    assert len(records(path)) == 1


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_pair_of_header_and_image_is_one_record(tmp_path, kind, ending):
    voxels = SERIES[..., 0]
    nib.save(kind(voxels, AFFINE), tmp_path / f"x.img{ending}")
    for path in (tmp_path / f"x.img{ending}", tmp_path / f"x.hdr{ending}"):
        np.testing.assert_array_equal(read(path).array[0], voxels.T)
        np.testing.assert_allclose(read(path).geometry.affine, AFFINE, atol=1e-5)
    found, _ = group_headers(map(read_header, sorted(tmp_path.iterdir())))
    assert [len(one.files) for one in found] == [2]
    assert len(list(read_folder(tmp_path))) == 1


def test_half_a_pair_and_analyze_are_refused(tmp_path):
    nib.save(nib.Nifti1Pair(SERIES[..., 0], AFFINE), tmp_path / "x.img")
    whole = (tmp_path / "x.img").read_bytes()
    (tmp_path / "x.img").write_bytes(whole[:-1])
    assert reason(tmp_path / "x.hdr") == reason(tmp_path / "x.img") == "truncated"
    (tmp_path / "x.img").unlink()
    assert reason(tmp_path / "x.hdr") == "missing_file"
    nib.save(nib.AnalyzeImage(SERIES[..., 0], AFFINE), tmp_path / "old.img")
    assert reason(tmp_path / "old.hdr") == reason(tmp_path / "old.img") == "unsupported_analyze"


def test_an_img_without_hdr_is_not_claimed(tmp_path):
    (tmp_path / "disk.img").write_bytes(bytes(5000))
    assert read_header(tmp_path / "disk.img").ignored


def skewed(cosine):
    """1 mm grid whose first two axes meet at arccos(cosine)."""
    affine = np.eye(4)
    affine[:2, 1] = [cosine, np.sqrt(1 - cosine**2)]
    affine[:3, :3] = (
        Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_matrix() @ affine[:3, :3]
    )
    return affine


def test_rounding_of_the_directions_is_repaired_to_the_nearest_rotation(tmp_path):
    affine = skewed(5e-4)
    path = save(tmp_path / "x.nii", image(np.ones((100, 100, 9), np.uint8), affine, qform=0))
    repaired = read(path).geometry.affine
    directions = repaired[:3, :3]
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-12)
    # Each axis turns by half the angle: a corner of the 99 mm square moves by
    # 49.5 * angle / sqrt 2.
    moved = np.linalg.norm(
        corners_mm(repaired, (9, 100, 100)) - corners_mm(affine, (9, 100, 100)), axis=1
    )
    assert moved.max() == pytest.approx(49.5 * 5e-4 / np.sqrt(2), rel=0.01)
    (flag,) = flags(path)
    name, _, value = flag.partition("=")
    assert name == "orthonormalised_mm"
    assert float(value) == pytest.approx(moved.max(), rel=0.01)


@pytest.mark.parametrize(("cosine", "expected"), [(0.2, ("sheared",)), (1e-6, ()), (0.0, ())])
def test_a_real_shear_is_kept_and_rounding_of_a_micrometre_left_alone(tmp_path, cosine, expected):
    affine = skewed(cosine)
    path = save(tmp_path / "x.nii", image(affine=affine, qform=0))
    assert flags(path) == expected
    np.testing.assert_allclose(read(path).geometry.affine, affine, atol=1e-6)


def mutated(path, **fields):
    out = image(SERIES)
    for name, value in fields.items():
        out.header[name] = value
    return save(path, out)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"bitpix": 8}, "not_nifti"),
        ({"dim": [3, 5, 6, 7, 4, 1, 1, 1]}, "not_nifti"),
        ({"dim": [4, 5, 6, 7, 3, 1, 1, 1]}, "extra_bytes"),
        ({"dim": [4, 5, 6, 7, 5, 1, 1, 1]}, "truncated"),
        ({"dim": [4, 5, -6, 7, 4, 1, 1, 1]}, "not_nifti"),
        ({"dim": [9, 5, 6, 7, 4, 1, 1, 1]}, "not_nifti"),
        ({"scl_slope": 1e38}, "bad_scaling"),
        ({"scl_slope": 1.0, "scl_inter": np.inf}, "bad_scaling"),
        ({"srow_x": [1e12, 0, 0, 0]}, "bad_geometry"),
        ({"srow_x": [0, 0, 0, 0]}, "bad_geometry"),
    ],
)
@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_a_header_that_contradicts_itself_or_the_file_is_refused(tmp_path, name, fields, expected):
    assert reason(mutated(tmp_path / name, **fields)) == expected


def test_vox_offset_inside_the_header_is_refused(tmp_path):
    path = save(tmp_path / "x.nii", image())
    raw = bytearray(path.read_bytes())
    raw[108:112] = np.float32(96).tobytes()
    path.write_bytes(raw)
    assert reason(path) == "not_nifti"


def test_pixdim_that_is_not_the_spacing_is_flagged(tmp_path):
    out = image()
    out.header["pixdim"][1] = 3.0
    out.header["qform_code"] = 0
    assert flags(save(tmp_path / "x.nii", out)) == ("pixdim_differs",)


def test_a_check_sum_that_is_cut_off_is_a_truncation(tmp_path):
    path = tmp_path / "x.nii.gz"
    path.write_bytes(gzip.compress(image().to_bytes())[:-6])
    assert reason(path) == "truncated"


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    voxels=arrays.arrays(
        st.sampled_from(["i2", "u2", "f4", "u1", "i4", "f8"]),
        st.tuples(*[st.integers(3, 6)] * 3),
        elements={"allow_nan": False},
    ),
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.05, 12)] * 3),
    origin=st.tuples(*[st.floats(-900, 900)] * 3),
    packed=st.booleans(),
)
def test_any_volume_reads_as_nibabel_reads_it(tmp_path, voxels, angles, spacing, origin, packed):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * spacing
    affine[:3, 3] = origin
    path = tmp_path / ("h.nii.gz" if packed else "h.nii")
    nib.save(nib.Nifti1Image(voxels, affine), path)
    sample = read(path)
    np.testing.assert_array_equal(to_voxel_order(sample.array[0]), voxels)
    theirs = nib.load(path).affine
    apart = corners_mm(sample.geometry.affine, sample.shape) - corners_mm(theirs, sample.shape)
    assert np.abs(apart).max() < 1e-3


@settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(field=st.integers(0, 347), value=st.integers(0, 255))
def test_any_byte_of_the_header_changed_is_read_or_refused(tmp_path, field, value):
    path = save(tmp_path / "h.nii", image())
    raw = bytearray(path.read_bytes())
    raw[field] = value
    path.write_bytes(raw)
    try:
        found, _ = nifti.group([nifti.header(path)])
        x = nifti.load(found[0])
    except ReadError:
        return
    assert x.shape == found[0].shape
    assert x.size * np.dtype(image().get_data_dtype()).itemsize <= len(raw) * 2
