"""DICOM series: geometry and values against SimpleITK, and every series that must be refused."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless

from medssl.archive._phantom_dicom import write_ct_series
from medssl.core.errors import ReadError
from medssl.core.geometry import corners_mm, to_voxel_order
from medssl.readers._dispatch import group_headers, read_header, walk
from medssl.readers._read import read
from tests.core.orientations import CASES, affine_of

HU = np.random.default_rng(1).integers(-1000, 1500, (6, 8, 10)).astype(np.float32)
AFFINE = affine_of(CASES[3], (15, -20, 8))


@pytest.fixture
def series(tmp_path):
    return write(tmp_path / "series")


def write(folder, affine=AFFINE, hu=HU):
    rng = np.random.default_rng(0)
    return write_ct_series(folder, hu, affine, patient="P1", series_number=3, rng=rng)


def edit(path, **values):
    dataset = pydicom.dcmread(path)
    for keyword, value in values.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path)


def grouped(folder):
    return group_headers([read_header(file) for file in walk(folder)])


def reasons(folder):
    found, refused = grouped(folder)
    assert found == []
    files = [file for one in refused for file in one.files]
    assert sorted(files) == [str(file) for file in walk(folder)]  # nothing is lost
    return {one.reason for one in refused}


def by_itk(folder):
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def same_place(sample, itk):
    """Corners of ours and of SimpleITK's volume, sorted: the slice axis may run either way."""
    w, h, d = itk.GetSize()
    index = [(i, j, k) for i in (0, w - 1) for j in (0, h - 1) for k in (0, d - 1)]
    theirs = np.array([itk.TransformIndexToPhysicalPoint(one) for one in index]) * [-1, -1, 1]
    ours = corners_mm(sample.geometry.affine, sample.shape)
    apart_mm = np.linalg.norm(ours[:, None] - theirs[None], axis=2)
    return apart_mm.min(0).max() < 1e-3 and apart_mm.min(1).max() < 1e-3


@pytest.mark.parametrize("case", CASES[::5])
@pytest.mark.parametrize("tilt_deg", [(0, 0, 0), (20, -9, 41)])
def test_values_and_corners_agree_with_simpleitk(tmp_path, case, tilt_deg):
    write(tmp_path / "s", affine_of(case, tilt_deg))
    sample, itk = read(tmp_path / "s"), by_itk(tmp_path / "s")
    np.testing.assert_array_equal(sample.array[0], sitk.GetArrayFromImage(itk))
    assert same_place(sample, itk)


def test_the_centroid_of_a_blob_is_where_it_was_put(tmp_path):
    centre_vox, shape = np.array([9.3, 7.6, 8.2]), (20, 16, 18)
    away = np.indices(shape).T - centre_vox
    blob = 3000 * np.exp(-0.5 * (away**2).sum(-1) / 4)  # (D, H, W)
    write(tmp_path / "s", AFFINE, np.round(blob))
    sample = read(tmp_path / "s")
    weights = to_voxel_order(sample.array[0]).astype(float)
    centroid = (np.indices(weights.shape) * weights).reshape(3, -1).sum(1) / weights.sum()
    found_mm = sample.geometry.affine @ [*centroid, 1]
    assert np.linalg.norm(found_mm - AFFINE @ [*centre_vox, 1]) < 0.07  # a tenth of 0.7 mm


def test_thickness_is_not_spacing(series):
    assert read(series[0].parent).geometry.spacing_mm == pytest.approx((2.5, 1.3, 0.7), abs=1e-6)


def test_instance_numbers_play_no_part(series):
    before = read(series[0].parent).array.copy()
    for number, file in enumerate(series):
        edit(file, InstanceNumber=(7 * number) % 4)
    np.testing.assert_array_equal(read(series[0].parent).array, before)


def test_each_slice_is_rescaled_with_its_own_numbers(series):
    for number, file in enumerate(series):
        edit(file, RescaleSlope=0.5 + number, RescaleIntercept=number)
    itk = sitk.GetArrayFromImage(by_itk(series[0].parent))
    np.testing.assert_allclose(read(series[0].parent).array[0], itk, rtol=1e-6)


def test_large_whole_slopes_do_not_overflow(series):
    for file in series:
        edit(file, RescaleSlope=2_000_000, RescaleIntercept=0)
    itk = sitk.GetArrayFromImage(by_itk(series[0].parent))
    np.testing.assert_array_equal(read(series[0].parent).array[0], itk)


def test_monochrome1_changes_the_display_not_the_measurement(series):
    expected = read(series[0].parent).array.copy()
    for file in series:
        edit(file, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(read(series[0].parent).array, expected)


def test_bits_above_bits_stored_are_not_pixels(series):
    expected = read(series[0].parent).array.copy()
    for file in series:
        dataset = pydicom.dcmread(file)
        dataset.PixelData = (dataset.pixel_array | 0xA000).astype("<u2").tobytes()
        dataset.save_as(file)
    np.testing.assert_array_equal(read(series[0].parent).array, expected)


def test_run_length_coding_changes_nothing(series):
    expected = read(series[0].parent).array.copy()
    for file in series:
        dataset = pydicom.dcmread(file)
        dataset.compress(RLELossless)
        dataset.save_as(file)
    np.testing.assert_array_equal(read(series[0].parent).array, expected)


def test_a_missing_slice_is_a_gap(series):
    series[2].unlink()
    assert reasons(series[0].parent) == {"gap"}


def test_a_small_wobble_is_recorded_a_large_one_refused(series):
    position = np.array(pydicom.dcmread(series[2]).ImagePositionPatient, dtype=float)
    step = position - np.array(pydicom.dcmread(series[1]).ImagePositionPatient, dtype=float)
    edit(series[2], ImagePositionPatient=[*(position + 0.03 * step)])  # 0.075 mm of 2.5 mm
    (found,), _ = grouped(series[0].parent)
    assert found.flags == ("position_residual_mm=0.075",)
    edit(series[2], ImagePositionPatient=[*(position + 0.06 * step)])  # 0.15 mm
    assert reasons(series[0].parent) == {"gap"}


def test_two_slices_at_one_position_are_refused(series):
    (series[0].parent / "copy.dcm").write_bytes(series[2].read_bytes())
    edit(series[0].parent / "copy.dcm", SOPInstanceUID="1.2.3")
    assert reasons(series[0].parent) == {"duplicate_position"}


def test_a_series_copied_into_another_folder_is_one_volume_and_its_copies_are_named(tmp_path):
    for file in write(tmp_path / "a"):
        (tmp_path / "b").mkdir(exist_ok=True)
        (tmp_path / "b" / file.name).write_bytes(file.read_bytes())
    (found,), refused = grouped(tmp_path)
    assert found.shape == (1, *HU.shape)
    assert [one.reason for one in refused] == ["duplicate_file"] * len(HU)


def test_two_orientations_in_one_series_are_two_volumes(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b", affine_of(CASES[9]))
    found, refused = grouped(tmp_path)
    assert (len(found), refused) == (2, [])


def test_slices_that_fan_out_are_no_volume(tmp_path):
    for number in range(4):
        tilted = affine_of(CASES[0], (15 * number, 0, 0))
        write(tmp_path / f"{number}", tilted, HU[:1])
    assert reasons(tmp_path) == {"too_few_slices"}


def test_two_slices_are_no_volume(tmp_path):
    write(tmp_path / "s", hu=HU[:2])
    assert reasons(tmp_path) == {"too_few_slices"}


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("ImagePositionPatient", None),
        ("ImageOrientationPatient", None),
        ("ImageOrientationPatient", [1, 0, 0, 0, 0.9, 0]),
        ("PixelSpacing", ["0", "1"]),
    ],
)
def test_geometry_that_is_missing_or_false_is_refused(series, keyword, value):
    for file in series:
        edit(file, **{keyword: value})
    assert reasons(series[0].parent) == {"bad_geometry"}


def test_not_a_number_in_a_position_is_refused(series):
    for file in series:
        first = str(pydicom.dcmread(file).ImagePositionPatient[0]).encode()
        file.write_bytes(file.read_bytes().replace(first, b"NaN".ljust(len(first)), 1))
    assert reasons(series[0].parent) == {"bad_geometry"}


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("NumberOfFrames", 6, "unsupported_multiframe"),
        ("ImageType", ["ORIGINAL", "PRIMARY", "MOSAIC"], "unsupported_mosaic"),
        ("SamplesPerPixel", 3, "unsupported_colour"),
        ("RescaleSlope", "0", "bad_scaling"),
        ("Rows", 80, "truncated"),
    ],
)
def test_what_this_reader_does_not_read_says_so(series, keyword, value, expected):
    for file in series:
        edit(file, **{keyword: value})
    assert reasons(series[0].parent) == {expected}


def test_reports_are_ignored_by_kind(series):
    dataset = pydicom.dcmread(series[0])
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    dataset.save_as(series[0])
    assert read_header(series[0]).ignored == "dicom_sr"


@pytest.mark.parametrize(("content", "expected"), [(b"", "empty_file"), (b"dear Dr", "not_dicom")])
def test_a_text_renamed_to_dcm_is_not_dicom(tmp_path, content, expected):
    (tmp_path / "x.dcm").write_bytes(content)
    with pytest.raises(ReadError) as caught:
        read_header(tmp_path / "x.dcm")
    assert caught.value.reason == expected


def test_a_syntax_without_decoder_is_named(series):
    for file in series:
        dataset = pydicom.dcmread(file)
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"
        dataset.PixelData = encapsulate([bytes(16)])
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(file)
    assert reasons(series[0].parent) == {"no_decoder:1.2.840.10008.1.2.4.100"}


def test_a_series_without_ids_is_one_per_folder(series):
    for file in series:
        edit(file, SeriesInstanceUID=None, StudyInstanceUID=None)
    (found,), refused = grouped(series[0].parent)
    assert (found.flags, refused) == (("no_series_id",), [])


@pytest.mark.real
def test_an_oblique_mr_series_agrees_with_simpleitk(medssl_data):
    folder = medssl_data / "mr_oblique_series/dicom"
    sample, itk = read(folder), by_itk(folder)
    np.testing.assert_array_equal(sample.array[0], sitk.GetArrayFromImage(itk))
    w, h, d = itk.GetSize()
    first = np.array(itk.TransformIndexToPhysicalPoint((w - 1, h - 1, 0))) * [-1, -1, 1]
    np.testing.assert_allclose(
        sample.geometry.affine @ [w - 1, h - 1, 0, 1], [*first, 1], atol=1e-3
    )
    # SimpleITK takes the first gap for all; we take the mean of gaps that vary by 0.1 mm.
    assert sample.geometry.spacing_mm[0] == pytest.approx(7.0, abs=0.01)


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("slicecount", "too_few_slices"),
        ("sliceincrement", "gap"),
        ("sliceorientation", "too_few_slices"),
    ],
)
def test_known_bad_series_are_refused_with_the_right_reason(medssl_data, folder, expected):
    found, refused = group_headers(
        read_header(file)
        for file in walk(medssl_data / "dicom_conversion/failing" / folder)
        if ".nii" not in file.name
    )
    assert (found, {one.reason for one in refused}) == ([], {expected})


@pytest.mark.real
def test_a_real_ct_lies_on_the_grid_of_its_segmentation(medssl_data):
    sample = read(medssl_data / "ct_organs/example_ct_dicom")
    labels = read(medssl_data / "ct_organs/example_seg_dicom.nii.gz")
    ours, theirs = (corners_mm(s.geometry.affine, s.shape) for s in (sample, labels))
    apart_mm = np.linalg.norm(ours[:, None] - theirs[None], axis=2)
    assert apart_mm.min(0).max() < 1e-2
