"""NRRD and MetaImage: SimpleITK writes, we read the same; and every way to be broken."""

import bz2
import zlib

import numpy as np
import pytest
import SimpleITK as sitk

from medssl.core.errors import ReadError
from medssl.core.geometry import corners_mm
from medssl.readers._dispatch import group_headers, load, read_header
from medssl.readers._read import read
from tests.core.orientations import CASES, affine_of
from tests.readers.test_nifti import itk_corners_mm

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
NAMES = ["x.nrrd", "x.nhdr", "x.mha", "x.mhd"]
VOXELS = np.random.default_rng(5).integers(-1000, 3000, (5, 6, 7)).astype(np.int16)


def itk_image(voxels=VOXELS, affine=None, vector=False):
    """SimpleITK image of an array (D, H, W[, C]) whose RAS affine is given."""
    image = sitk.GetImageFromArray(voxels, isVector=vector)
    lps = LPS @ (affine_of(CASES[0], (10, -5, 3)) if affine is None else affine)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def written(folder, name, image=None, *, packed=False):
    sitk.WriteImage(itk_image() if image is None else image, str(folder / name), packed)
    return folder / name


def edited(path, old, new):
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    return path


def reason(path):
    with pytest.raises(ReadError) as caught:
        _ = read(path).array
    assert str(path) not in caught.value.what
    return caught.value.reason


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("packed", [False, True])
def test_all_48_orientations_are_where_simpleitk_puts_them(tmp_path, name, packed):
    for case in CASES:
        affine = affine_of(case, (12, -7, 31))
        path = written(tmp_path, name, itk_image(affine=affine), packed=packed)
        ours, itk = read(path), sitk.ReadImage(str(path))
        np.testing.assert_array_equal(ours.array[0], VOXELS)
        corners = corners_mm(ours.geometry.affine, ours.shape)
        np.testing.assert_allclose(corners, itk_corners_mm(itk), atol=1e-3)


@pytest.mark.parametrize("name", ["x.nrrd", "x.mha"])
@pytest.mark.parametrize(
    "dtype",
    [*(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)), "float32", "float64"],
)
def test_every_number_format_keeps_its_values(tmp_path, name, dtype):
    voxels = np.abs(VOXELS).astype(dtype) if dtype.startswith("u") else VOXELS.astype(dtype)
    ours = read(written(tmp_path, name, itk_image(voxels)))
    assert ours.array.dtype == dtype
    np.testing.assert_array_equal(ours.array[0], voxels)


@pytest.mark.parametrize("name", NAMES)
def test_a_vector_axis_becomes_channels(tmp_path, name):
    colour = np.random.default_rng(0).integers(0, 255, (4, 5, 6, 3)).astype(np.uint8)
    ours = read(written(tmp_path, name, itk_image(colour, vector=True)))
    np.testing.assert_array_equal(ours.array, np.moveaxis(colour, -1, 0))


def test_big_endian_mha_and_nrrd(tmp_path):
    big = VOXELS.astype(">i2").tobytes()
    mha = written(tmp_path, "x.mha")
    edited(mha, b"BinaryDataByteOrderMSB = False", b"BinaryDataByteOrderMSB = True")
    edited(mha, VOXELS.tobytes(), big)
    nrrd = written(tmp_path, "x.nrrd")
    edited(nrrd, b"endian: little", b"endian: big")
    edited(nrrd, VOXELS.tobytes(), big)
    for path in (mha, nrrd):
        np.testing.assert_array_equal(read(path).array[0], VOXELS)


def test_bzip2_and_byte_skip_in_nrrd(tmp_path):
    path = edited(written(tmp_path, "x.nrrd"), b"encoding: raw", b"encoding: bz2")
    edited(path, VOXELS.tobytes(), bz2.compress(VOXELS.tobytes()))
    np.testing.assert_array_equal(read(path).array[0], VOXELS)
    path = edited(written(tmp_path, "x.nrrd"), b"encoding: raw", b"encoding: raw\nbyte skip: -1")
    edited(path, VOXELS.tobytes(), b"junk" + VOXELS.tobytes())
    np.testing.assert_array_equal(read(path).array[0], VOXELS)


@pytest.mark.parametrize(
    ("space", "turn"),
    [("right-anterior-superior", (1, 1)), ("LAS", (-1, 1)), ("left-posterior-superior", (-1, -1))],
)
def test_nrrd_spaces_differ_in_the_signs_of_x_and_y(tmp_path, space, turn):
    head = f"""NRRD0005
type: uint8
dimension: 3
space: {space}
sizes: 3 3 3
space directions: (2,0,0) (0,3,0) (0,0,4)
encoding: raw
space origin: (10,20,30)

"""
    path = tmp_path / "x.nrrd"
    path.write_bytes(head.encode() + bytes(range(27)))
    affine = read(path).geometry.affine
    np.testing.assert_array_equal(affine[:3, 3], [10 * turn[0], 20 * turn[1], 30])
    np.testing.assert_array_equal(np.diag(affine)[:3], [2 * turn[0], 3 * turn[1], 4])


def test_nrrd_in_micrometres_and_in_unknown_units(tmp_path):
    path = written(tmp_path, "x.nrrd", itk_image(affine=np.diag([500.0, 500, 500, 1])))
    edited(path, b"encoding", b'space units: "um" "um" "um"\nencoding')
    assert read(path).geometry.spacing_mm == pytest.approx((0.5, 0.5, 0.5))
    assert read(edited(path, b'"um" "um" "um"', b'"px" "px" "px"')).geometry.affine is None


def test_nrrd_time_gives_one_record_per_time_point(tmp_path):
    path = tmp_path / "x.nrrd"
    voxels = np.arange(2 * 3 * 4 * 5, dtype="<i2").reshape(2, 5, 4, 3)
    for vectors, kinds, content in (
        ("(1,0,0) (0,1,0) (0,0,1) none", "domain domain domain time", voxels),
        ("none (1,0,0) (0,1,0) (0,0,1)", "time domain domain domain", np.moveaxis(voxels, 0, -1)),
    ):
        sizes = " ".join(map(str, content.shape[::-1]))
        head = f"NRRD0005\ntype: short\ndimension: 4\nspace: LPS\nsizes: {sizes}\nendian: little\n"
        head += f"space directions: {vectors}\nkinds: {kinds}\nspace origin: (0,0,0)\n"
        path.write_bytes(f"{head}encoding: raw\n\n".encode() + content.tobytes())
        found, _ = group_headers([read_header(path)])
        assert [one.part for one in found] == ["Time=0", "Time=1"]
        for time, one in enumerate(found):
            np.testing.assert_array_equal(load(one)[0], voxels[time])


def test_voxel_sizes_alone_are_no_geometry(tmp_path):
    mha = edited(written(tmp_path, "x.mha"), b"TransformMatrix", b"SomethingElse")
    nrrd = edited(written(tmp_path, "x.nrrd"), b"space: left", b"comment: left")
    assert read(mha).geometry.affine is None
    assert read(nrrd).geometry.affine is None


@pytest.mark.parametrize("name", ["../x.raw", "/etc/passwd", "a/x.raw", "..", "C:\\x.raw", "a\\b"])
def test_a_data_file_outside_the_folder_is_not_opened(tmp_path, name):
    (tmp_path / "a").mkdir()
    for place in (tmp_path / "x.raw", tmp_path / "a" / "x.raw"):
        place.write_bytes(bytes(VOXELS.nbytes))
    inner = tmp_path / "in"
    inner.mkdir()
    mhd = edited(
        written(inner, "x.mhd"), b"ElementDataFile = x.raw", f"ElementDataFile = {name}".encode()
    )
    nhdr = edited(written(inner, "x.nhdr"), b"data file: x.raw", f"data file: {name}".encode())
    assert reason(mhd) == reason(nhdr) == "unsafe_path"


@pytest.mark.parametrize("name", ["x.mhd", "x.nhdr"])
def test_a_data_file_that_is_missing_short_or_long_is_refused(tmp_path, name):
    path = written(tmp_path, name)
    data = tmp_path / "x.raw"
    content = data.read_bytes()
    data.write_bytes(content[:-1])
    assert reason(path) == "truncated"
    data.write_bytes(content + b"\0")
    assert reason(path) == "extra_bytes"
    data.unlink()
    assert reason(path) == "missing_file"


@pytest.mark.parametrize("name", ["x.mha", "x.nrrd"])
@pytest.mark.parametrize("packed", [False, True])
def test_truncated_and_overlong_files_are_refused(tmp_path, name, packed):
    path = written(tmp_path, name, packed=packed)
    content = path.read_bytes()
    path.write_bytes(content[:-9])
    assert reason(path) in {"truncated", "corrupt"}
    if not packed:
        path.write_bytes(content + b"\0")
        assert reason(path) == "extra_bytes"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (b"DimSize = 7 6 5", b"DimSize = 7 6 4", "extra_bytes"),
        (b"DimSize = 7 6 5", b"DimSize = 70000 60000 50000", "truncated"),
        (b"DimSize = 7 6 5", b"DimSize = -7 6 5", "not_mha"),
        (b"DimSize = 7 6 5", b"DimSize = 7 6 1e9", "not_mha"),
        (b"DimSize = 7 6 5", b"DimSize = 105 2 1", "too_few_slices"),
        (b"NDims = 3", b"NDims = 2", "unsupported_dimensions"),
        (b"MET_SHORT", b"MET_LONG", "unsupported_dtype"),
        (b"BinaryData = True", b"BinaryData = False", "unsupported_layout"),
        (b"ElementDataFile = LOCAL", b"ElementDataFile = LIST", "unsupported_layout"),
        (b"NDims = 3", b"NDims = 3\nNDims = 3", "not_mha"),
        (b"ObjectType = Image", b"ObjectType = Tube", "not_mha"),
    ],
)
def test_an_mha_header_that_lies_is_refused(tmp_path, old, new, expected):
    assert reason(edited(written(tmp_path, "x.mha"), old, new)) == expected


@pytest.mark.parametrize("bad", [b"nan", b"inf", b"0", b"1e30", b"-1"])
def test_impossible_geometry_is_refused(tmp_path, bad):
    spacing = itk_image(affine=np.diag([2.0, 2, 2, 1]))
    mha = edited(
        written(tmp_path, "x.mha", spacing), b"ElementSpacing = 2", b"ElementSpacing = " + bad
    )
    assert reason(mha) == "bad_geometry"
    if bad != b"-1":  # a direction may be negative
        nrrd = edited(written(tmp_path, "x.nrrd", spacing), b"(-2,", b"(" + bad + b",")
        assert reason(nrrd) == "bad_geometry"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (b"sizes: 7 6 5", b"sizes: 7 6 4", "extra_bytes"),
        (b"sizes: 7 6 5", b"sizes: 70000 60000 50000", "truncated"),
        (b"sizes: 7 6 5", b"sizes: 7 6", "not_nrrd"),
        (b"type: short", b"type: block", "unsupported_dtype"),
        (b"encoding: raw", b"encoding: ascii", "unsupported_layout"),
        (b"endian: little\n", b"", "not_nrrd"),
        (b"dimension: 3", b"dimension: 3\ndimension: 3", "not_nrrd"),
        (b"kinds: domain", b"kinds: vector", "not_nrrd"),
        (b"NRRD000", b"NRRX000", "not_nrrd"),
    ],
)
def test_a_nrrd_header_that_lies_is_refused(tmp_path, old, new, expected):
    assert reason(edited(written(tmp_path, "x.nrrd"), old, new)) == expected


@pytest.mark.parametrize("name", ["x.mha", "x.nrrd"])
def test_a_stream_that_inflates_to_more_than_the_header_says(tmp_path, name):
    path = written(tmp_path, name, packed=True)
    old, new = (b"DimSize = 7 6 5", b"DimSize = 7 6 4")
    edited(path, *((old, new) if name == "x.mha" else (b"sizes: 7 6 5", b"sizes: 7 6 4")))
    assert reason(path) == "extra_bytes"


def test_a_bomb_in_mha_allocates_nothing(tmp_path):
    path = edited(written(tmp_path, "x.mha"), b"DimSize = 7 6 5", b"DimSize = 30000 30000 30000")
    edited(path, b"CompressedData = False", b"CompressedData = True")
    edited(path, VOXELS.tobytes(), zlib.compress(bytes(10**6)))
    assert reason(path) == "truncated"


@pytest.mark.parametrize("name", ["x.nrrd", "x.mha"])
def test_simpleitk_and_we_agree_on_what_we_both_read(tmp_path, name):
    path = written(tmp_path, name, packed=True)
    back = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(read(path).array[0], sitk.GetArrayFromImage(back))


@pytest.mark.parametrize("name", ["x.mhd", "x.nhdr"])
def test_header_and_data_are_one_record_and_both_have_an_outcome(tmp_path, name):
    written(tmp_path, name)
    headers = [read_header(path) for path in sorted(tmp_path.iterdir())]
    found, refused = group_headers(headers)
    assert [len(one.files) for one in found] == [2]
    assert not refused
    np.testing.assert_array_equal(read(tmp_path / "x.raw").array[0], VOXELS)
    (tmp_path / name).write_bytes(b"damaged")
    assert reason(tmp_path / name) == reason(tmp_path / "x.raw")


def test_two_headers_may_share_their_data(tmp_path):
    written(tmp_path, "x.mhd")
    written(tmp_path, "x.nhdr")
    found, _ = group_headers([read_header(path) for path in sorted(tmp_path.iterdir())])
    assert sorted(one.format for one in found) == ["mha", "nrrd"]
    files = [file for one in found for file in one.files]
    assert len(files) == len(set(files)) == 3
    for one in found:
        np.testing.assert_array_equal(load(one)[0], VOXELS)


def test_raw_data_without_a_header_is_not_claimed(tmp_path):
    (tmp_path / "x.raw").write_bytes(bytes(99))
    assert read_header(tmp_path / "x.raw").ignored == "binary"
