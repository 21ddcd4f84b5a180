"""NIfTI: geometry against SimpleITK, values against nibabel, and every way to be broken."""

import gzip

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medssl.core.errors import ReadError
from medssl.core.geometry import Reorientation, corners_mm, to_voxel_order
from medssl.readers._read import read
from tests.core.orientations import CASES, affine_of, volume

AFFINE = affine_of(CASES[0], (10, -5, 3))


def image(voxels_WHD=None, affine=AFFINE, *, sform=1, qform=1):
    voxels_WHD = to_voxel_order(volume()) if voxels_WHD is None else voxels_WHD
    out = nib.Nifti1Image(voxels_WHD, affine)
    out.header.set_sform(affine, code=sform)
    out.header.set_qform(affine, code=qform)
    return out


def save(path, out):
    """Write header and voxels as they are (nibabel's own saving would correct the header)."""
    header = out.header.copy()
    header["vox_offset"] = len(header.binaryblock) + 4
    header["magic"] = b"n+1" if len(header.binaryblock) == 348 else header["magic"]
    voxels = np.asarray(out.dataobj).astype(header.get_data_dtype())
    content = header.binaryblock + bytes(4) + voxels.tobytes(order="F")
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def reason(path):
    with pytest.raises(ReadError) as caught:
        _ = read(path).array
    assert str(path) not in caught.value.what
    return caught.value.reason


def itk_corners_mm(itk):
    """Corner voxel centres by SimpleITK, LPS turned to RAS."""
    w, h, d = itk.GetSize()
    index = [(i, j, k) for i in (0, w - 1) for j in (0, h - 1) for k in (0, d - 1)]
    points = [itk.TransformIndexToPhysicalPoint(one) for one in index]
    return np.array(points) * [-1, -1, 1]


@pytest.mark.parametrize("tilt_deg", [(0, 0, 0), (12, -7, 31)])
def test_all_48_orientations_lie_where_simpleitk_puts_them(tmp_path, tilt_deg):
    for case in CASES:
        path = save(tmp_path / "x.nii.gz", image(affine=affine_of(case, tilt_deg)))
        ours, itk = read(path), sitk.ReadImage(str(path))
        np.testing.assert_array_equal(ours.array[0], sitk.GetArrayFromImage(itk))
        corners = corners_mm(ours.geometry.affine, ours.shape)
        np.testing.assert_allclose(corners, itk_corners_mm(itk), atol=1e-3)


def test_the_centroid_of_a_blob_is_where_it_was_put(tmp_path):
    centre_vox, shape = np.array([9.3, 7.6, 8.2]), (20, 16, 18)
    away = np.indices(shape).T - centre_vox
    blob = np.exp(-0.5 * (away**2).sum(-1) / 4).T.astype(np.float32)
    ours = read(save(tmp_path / "blob.nii", image(blob)))
    weights = to_voxel_order(ours.array[0])
    centroid = (np.indices(shape) * weights).reshape(3, -1).sum(1) / weights.sum()
    found_mm, put_mm = (
        nib.affines.apply_affine(ours.geometry.affine, v) for v in (centroid, centre_vox)
    )
    assert np.linalg.norm(found_mm - put_mm) < 0.1 * 0.7  # a tenth of the smallest voxel


def test_the_sform_rules_and_a_differing_qform_is_flagged(tmp_path):
    out = image()
    moved = AFFINE.copy()
    moved[0, 3] += 0.2
    out.header.set_qform(moved, code=2)
    sample = read(save(tmp_path / "x.nii", out))
    np.testing.assert_allclose(sample.geometry.affine, AFFINE, atol=1e-5)
    assert flags(tmp_path / "x.nii") == ("sform_qform_differ",)


def test_the_qform_counts_when_the_sform_code_is_zero(tmp_path):
    path = save(tmp_path / "x.nii", image(sform=0, qform=1))
    np.testing.assert_allclose(read(path).geometry.affine, AFFINE, atol=1e-4)
    assert flags(path) == ()


def test_voxel_sizes_alone_are_no_geometry(tmp_path):
    sample = read(save(tmp_path / "x.nii", image(sform=0, qform=0)))
    assert sample.geometry.affine is None
    assert sample.geometry.spacing_mm is None


def test_metres_become_millimetres(tmp_path):
    metres = np.diag([1e-3, 1e-3, 1e-3, 1]) @ AFFINE
    out = image(affine=metres)
    out.header.set_xyzt_units(xyz="meter")
    path = save(tmp_path / "x.nii", out)
    np.testing.assert_allclose(read(path).geometry.affine, AFFINE, atol=1e-3)


def test_scaling_is_applied_once(tmp_path):
    out = image(to_voxel_order(volume()).astype(np.int16))
    out.header.set_slope_inter(2.0, -1024.0)
    path = save(tmp_path / "x.nii", out)
    np.testing.assert_array_equal(read(path).array[0], volume() * 2 - 1024)


def test_a_fourth_axis_becomes_channels(tmp_path):
    voxels = np.arange(4 * 5 * 6 * 2, dtype=np.int16).reshape(4, 5, 6, 2)
    path = save(tmp_path / "x.nii.gz", image(voxels))
    sample = read(path)
    assert sample.shape == (2, 6, 5, 4)
    np.testing.assert_array_equal(sample.array[1], voxels[..., 1].T)
    assert flags(path) == ("4d_as_channels",)


def test_big_endian_and_nifti2_read_the_same(tmp_path):
    big = nib.Nifti1Image(to_voxel_order(volume()), AFFINE, nib.Nifti1Header(endianness=">"))
    two = nib.Nifti2Image(to_voxel_order(volume()), AFFINE)
    for out in (big, two):
        sample = read(save(tmp_path / "x.nii.gz", out))
        np.testing.assert_array_equal(sample.array[0], volume())
        np.testing.assert_allclose(sample.geometry.affine, AFFINE, atol=1e-5)


def test_gzip_in_several_members_is_whole(tmp_path):
    content = image().to_bytes()
    path = tmp_path / "x.nii.gz"
    path.write_bytes(gzip.compress(content[:700]) + gzip.compress(content[700:]))
    np.testing.assert_array_equal(read(path).array[0], volume())


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.99])
def test_a_truncated_file_is_refused_from_its_header(tmp_path, keep):
    noise = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
    for name in ("x.nii.gz", "x.nii"):
        whole = save(tmp_path / name, image(noise)).read_bytes()
        (tmp_path / name).write_bytes(whole[: int(keep * len(whole))])
        with pytest.raises(ReadError) as caught:
            read(tmp_path / name)
        assert caught.value.reason == "truncated"


def test_a_flipped_bit_in_the_stream_is_seen(tmp_path):
    path = save(tmp_path / "x.nii.gz", image())
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 0x40
    path.write_bytes(bytes(damaged))
    assert reason(path) in {"corrupt", "truncated"}


def test_a_header_that_asks_for_terabytes_allocates_nothing(tmp_path):
    out = image()
    out.header["dim"][1:4] = 30_000
    path = tmp_path / "x.nii.gz"
    path.write_bytes(gzip.compress(out.header.binaryblock + bytes(1000)))
    assert reason(path) == "truncated"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty_file"),
        (b"patient notes\n" * 50, "not_nifti"),
        (b"\x1f\x8b" + b"x" * 99, "corrupt"),
    ],
)
def test_what_is_no_nifti_says_so(tmp_path, content, expected):
    path = tmp_path / "x.nii.gz"
    path.write_bytes(content)
    assert reason(path) == expected


@pytest.mark.parametrize("field", ["srow_x", "srow_z"])
def test_nan_in_the_affine_is_refused(tmp_path, field):
    out = image()
    out.header[field][1] = np.nan
    assert reason(save(tmp_path / "x.nii", out)) == "bad_geometry"


def test_colour_complex_and_thin_volumes_are_refused(tmp_path):
    rgb = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert reason(save(tmp_path / "rgb.nii", image(rgb))) == "unsupported_dtype"
    complex_values = np.zeros((4, 4, 4), dtype=np.complex64)
    assert reason(save(tmp_path / "c.nii", image(complex_values))) == "unsupported_dtype"
    assert (
        reason(save(tmp_path / "2.nii", image(np.zeros((9, 9, 2), np.int16)))) == "too_few_slices"
    )
    vectors = np.zeros((4, 4, 4, 1, 3), dtype=np.float32)
    assert reason(save(tmp_path / "v.nii", image(vectors))) == "unsupported_dimensions"


@pytest.mark.real
def test_24_orientations_of_one_head_are_one_picture(medssl_data):
    files = sorted((medssl_data / "nifti_orientations").glob("*.nii.gz"))
    assert len(files) == 24
    reference = read(medssl_data / "nifti_orientations" / "RAS.nii.gz").array
    for file in files:
        sample = read(file)
        turned = Reorientation.to_ras(sample.geometry.affine).apply(sample.array)
        np.testing.assert_array_equal(turned, reference)


@pytest.mark.real
def test_hippocampus_files_agree_with_nibabel(medssl_data):
    for file in sorted((medssl_data / "hippocampus/imagesTr").glob("*.nii.gz"))[:12]:
        ours, theirs = read(file), nib.load(file)
        np.testing.assert_array_equal(to_voxel_order(ours.array[0]), theirs.get_fdata())
        np.testing.assert_allclose(ours.geometry.affine, theirs.affine, atol=1e-6)


def flags(path):
    from medssl.readers import nifti

    return nifti.group([nifti.header(path)])[0][0].flags
