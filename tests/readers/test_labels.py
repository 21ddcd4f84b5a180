"""DICOM SEG: the same voxels at the same place as highdicom reads, and what is refused."""

import itertools

import nibabel as nib
import numpy as np
import pydicom
import pytest

import medssl
from medssl.core.errors import ReadError
from medssl.core.geometry import Geometry, Reorientation
from medssl.readers.labels import label_record, labels_on_grid
from tests.readers.label_files import canonical, highdicom_volume, series, write_seg
from tests.scans import oblique, save_dicom, save_nifti, stored_as

SHAPE = (9, 8, 7)
LABELS = np.zeros(SHAPE, np.uint8)
LABELS[2:5, 1:6, 2:5], LABELS[4:7, 5:8, 1:3] = 1, 2
IMAGE = np.arange(LABELS.size).reshape(SHAPE) % 900
AFFINE = oblique()
TURNS = list(
    itertools.product(itertools.permutations(range(3)), itertools.product((False, True), repeat=3))
)
GRID = Geometry.of_volume(AFFINE)


@pytest.fixture
def sources(tmp_path):
    return series(save_dicom(tmp_path / "ct", IMAGE, AFFINE), AFFINE)


@pytest.fixture
def seg(tmp_path, sources):
    return write_seg(tmp_path / "seg.dcm", sources, LABELS)


def edit(path, change):
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def reason(path, geometry=GRID, shape=SHAPE, **more):
    with pytest.raises(ReadError) as caught:
        labels_on_grid(path, geometry, shape, **more)
    assert "alpha" not in caught.value.what  # a segment's name is free text
    return caught.value.reason


@pytest.mark.parametrize("case", TURNS[::7])
@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP", "FRACTIONAL"])
def test_a_seg_is_read_as_highdicom_reads_it(tmp_path, case, kind):
    turned, affine = stored_as(case, LABELS, AFFINE)
    sources = series(save_dicom(tmp_path / "ct", np.zeros(turned.shape), affine), affine)
    path = write_seg(tmp_path / "seg.dcm", sources, np.ascontiguousarray(turned), kind)
    ours, theirs = medssl.read(path), nib.as_closest_canonical(highdicom_volume(path))
    voxels, place = canonical(ours.array[0], ours.geometry.affine)
    np.testing.assert_array_equal(labels_on_grid(path, GRID, SHAPE).labels_DHW, LABELS)
    np.testing.assert_array_equal(voxels, np.asarray(theirs.dataobj))
    np.testing.assert_allclose(place, theirs.affine, atol=1e-4)


@pytest.mark.parametrize("case", TURNS[::3])
def test_any_axis_order_comes_back_to_the_images_grid_unchanged(tmp_path, case):
    turned, affine = stored_as(case, LABELS, AFFINE)
    path = save_nifti(tmp_path / "label.nii.gz", np.ascontiguousarray(turned), affine)
    found = labels_on_grid(path, GRID, SHAPE)
    np.testing.assert_array_equal(found.labels_DHW, LABELS)
    assert found.residual_mm < 1e-3 and found.flags == ()


def test_empty_slices_left_out_are_background(tmp_path, seg):
    assert medssl.read(seg).shape == (1, 5, 8, 7)
    found = labels_on_grid(seg, GRID, SHAPE)
    np.testing.assert_array_equal(found.labels_DHW, LABELS)
    assert found.names == {0: "background", 1: "alpha", 2: "beta"}
    assert label_record(seg).references and "alpha" not in str(label_record(seg).flags)


def test_a_segment_in_one_slice_has_its_place(tmp_path, sources):
    labels = np.zeros_like(LABELS)
    labels[6, 2:4, 3] = 1
    path = write_seg(tmp_path / "thin.dcm", sources, labels)
    np.testing.assert_array_equal(labels_on_grid(path, GRID, SHAPE).labels_DHW, labels)
    assert "single_slice" in label_record(path).flags


def test_slices_missing_between_are_background(tmp_path, sources):
    labels = np.zeros_like(LABELS)
    labels[[1, 2, 7], 3, 3] = 1
    path = write_seg(tmp_path / "far.dcm", sources, labels)
    edit(path, drop_spacing)
    np.testing.assert_array_equal(labels_on_grid(path, GRID, SHAPE).labels_DHW, labels)


def drop_spacing(one):
    measures = one.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    if "SpacingBetweenSlices" in measures:
        del measures.SpacingBetweenSlices


def test_names_give_the_values(seg):
    names = {0: "background", 4: "beta", 9: "alpha"}
    found = labels_on_grid(seg, GRID, SHAPE, names=names)
    np.testing.assert_array_equal(found.labels_DHW, np.array([0, 9, 4])[LABELS])
    assert found.names == names and found.flags == ()
    found = labels_on_grid(seg, GRID, SHAPE, names={0: "background", 1: "beta"})
    np.testing.assert_array_equal(found.labels_DHW, LABELS == 2)
    assert found.flags == ("segments_left_out=1",)


def test_overlapping_segments_are_channels_and_no_label_map(tmp_path, sources):
    stacked = np.stack([LABELS > 0, LABELS == 2], axis=-1).astype(np.uint8)
    path = write_seg(tmp_path / "both.dcm", sources, stacked)
    assert label_record(path).flags == ("overlapping_segments",)
    array = medssl.read(path).array
    np.testing.assert_array_equal(array.sum(axis=(1, 2, 3)), stacked.sum(axis=(0, 1, 2)))
    assert reason(path) == "overlapping_labels"
    alone = labels_on_grid(path, GRID, SHAPE, names={0: "background", 1: "beta"})
    np.testing.assert_array_equal(alone.labels_DHW, LABELS == 2)


def test_overlap_that_is_not_stated_is_looked_at(seg):
    edit(seg, lambda one: setattr(one, "SegmentsOverlap", "UNDEFINED"))
    assert label_record(seg).shape[0] == 2 and "overlap_unstated" in label_record(seg).flags
    np.testing.assert_array_equal(labels_on_grid(seg, GRID, SHAPE).labels_DHW, LABELS)


@pytest.mark.parametrize("largest", [255, 100])
def test_half_of_the_largest_fraction_is_inside(tmp_path, sources, largest):
    shares = np.zeros((*SHAPE, 1))
    shares[2, 2, 2:6, 0] = [0.3, 0.49, 0.51, 1.0]
    path = write_seg(
        tmp_path / "f.dcm", sources, shares, "FRACTIONAL", max_fractional_value=largest
    )
    found = labels_on_grid(path, GRID, SHAPE)
    assert found.labels_DHW[2, 2].tolist() == [0, 0, 0, 0, 1, 1, 0]
    assert "fractional_threshold=0.5" in found.flags


def test_segment_numbers_may_leave_holes(seg):
    def renumber(one):
        one.SegmentSequence[1].SegmentNumber = 7
        for frame in one.PerFrameFunctionalGroupsSequence:
            identity = frame.SegmentIdentificationSequence[0]
            if identity.ReferencedSegmentNumber == 2:
                identity.ReferencedSegmentNumber = 7

    edit(seg, renumber)
    found = labels_on_grid(seg, GRID, SHAPE)
    np.testing.assert_array_equal(found.labels_DHW, np.array([0, 1, 7])[LABELS])
    assert found.names[7] == "beta"


def test_300_segments_are_read_whole_and_not_squeezed_into_a_byte(tmp_path, sources):
    labels = np.zeros(SHAPE, np.uint16)
    labels.ravel()[:300] = np.arange(1, 301)
    path = write_seg(tmp_path / "many.dcm", sources, labels, "LABELMAP")
    assert label_record(path).dtype == "uint16" and medssl.read(path).array.max() == 300
    assert reason(path) == "unknown_label_values"
    chosen = labels_on_grid(path, GRID, SHAPE, names={0: "background", 5: "s300"})
    np.testing.assert_array_equal(chosen.labels_DHW == 5, labels == 300)


@pytest.mark.parametrize(("shift_voxels", "flagged"), [(0.002, False), (0.05, True), (-0.05, True)])
def test_a_small_shift_is_taken_and_flagged(tmp_path, shift_voxels, flagged):
    moved = AFFINE.copy()
    moved[:3, 3] += shift_voxels * AFFINE[:3, 0]
    path = save_nifti(tmp_path / "label.nii.gz", LABELS, moved)
    found = labels_on_grid(path, GRID, SHAPE)
    np.testing.assert_array_equal(found.labels_DHW, LABELS)
    assert any(flag.startswith("label_moved_mm") for flag in found.flags) is flagged
    assert found.residual_mm == pytest.approx(abs(shift_voxels) * 0.9, abs=1e-4)


def test_a_larger_shift_is_refused_with_the_distance(tmp_path):
    moved = AFFINE.copy()
    moved[:3, 3] += 0.2 * AFFINE[:3, 0]
    path = save_nifti(tmp_path / "label.nii.gz", LABELS, moved)
    with pytest.raises(ReadError, match=r"0\.18 mm") as caught:
        labels_on_grid(path, GRID, SHAPE)
    assert caught.value.reason == "label_affine_mismatch" and caught.value.fix
    turned = oblique((21.0, -17.0, 8.0))
    assert reason(save_nifti(tmp_path / "t.nii.gz", LABELS, turned)) == "label_affine_mismatch"


def test_a_label_of_another_size_is_refused(tmp_path, seg, sources):
    assert reason(seg, shape=(9, 8, 8)) == "label_shape_mismatch"
    assert reason(save_nifti(tmp_path / "l.nii.gz", LABELS[:-1], AFFINE)) == "label_shape_mismatch"
    above = AFFINE.copy()
    above[:3, 3] += 4 * AFFINE[:3, 2]
    assert reason(seg, Geometry.of_volume(above)) == "label_shape_mismatch"
    assert reason(seg, Geometry(kind="volume")) == "geometry_unknown"


def cut_pixels(one):
    one.PixelData = one.PixelData[: len(one.PixelData) // 2]


def one_position_off(one):
    position = one.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0]
    position.ImagePositionPatient[2] += 0.6


def no_position(one):
    del one.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence


def twice(one):
    first, second = (one.PerFrameFunctionalGroupsSequence[k] for k in (0, 1))
    second.PlanePositionSequence = first.PlanePositionSequence


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (cut_pixels, "truncated"),
        (one_position_off, "gap"),
        (no_position, "geometry_unknown"),
        (twice, "duplicate_position"),
        (lambda one: setattr(one, "SegmentSequence", []), "broken_header"),
        (lambda one: setattr(one, "NumberOfFrames", 3), "broken_header"),
        (lambda one: one.SegmentSequence.pop(), "broken_header"),
        (lambda one: setattr(one, "SegmentationType", "DOE^JOHN"), "unsupported_segmentation"),
        (lambda one: setattr(one, "Rows", 65535), "truncated"),
        (lambda one: setattr(one, "BitsAllocated", 7), "unsupported_dtype"),
    ],
)
def test_a_seg_that_contradicts_itself_is_refused(seg, change, expected):
    edit(seg, change)
    assert reason(seg) == expected


def test_a_seg_without_references_is_read(seg):
    edit(seg, lambda one: one.__delattr__("ReferencedSeriesSequence"))
    assert label_record(seg).references == ()
    np.testing.assert_array_equal(labels_on_grid(seg, GRID, SHAPE).labels_DHW, LABELS)


@pytest.mark.real
@pytest.mark.parametrize("coding", ["", "_expb", "_j2k", "_deflate", "_nonbyte_aligned"])
def test_one_real_seg_in_five_codings(medssl_data, coding):
    folder = medssl_data / "dicom_codecs" / "pydicom_data"
    sample = medssl.read(folder / f"liver{coding}.dcm")
    # Voxel counts by slice as pydicom's own test data documentation and highdicom have them.
    assert sample.array.sum(axis=(0, 2, 3)).tolist() == [36233, 35645, 35220]
    assert sample.geometry.spacing_mm == pytest.approx((1.0, 0.810547, 0.810547))


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pydicom_data/liver_rle.dcm", "unsupported_dtype"),
        ("pydicom_data/liver_nonbyte_aligned_rle.dcm", "unsupported_dtype"),
        ("pydicom_test_files/liver_1frame.dcm", "broken_header"),
    ],
)
def test_real_segs_that_cannot_be_read_say_why(medssl_data, name, expected):
    with pytest.raises(ReadError) as caught:
        label_record(medssl_data / "dicom_codecs" / name)
    assert caught.value.reason == expected


@pytest.mark.real
def test_a_real_mask_lies_on_its_dicom_series(medssl_data):
    folder = medssl_data / "ct_organs"
    image = medssl.read(folder / "example_ct_dicom")
    found = labels_on_grid(folder / "example_seg_dicom.nii.gz", image.geometry, image.shape[1:])
    mask = nib.load(folder / "example_seg_dicom.nii.gz")  # LAS, the series is LPS
    turn = Reorientation.to_ras(image.geometry.affine)
    ours = turn.apply(found.labels_DHW).transpose()
    theirs = np.asarray(nib.as_closest_canonical(mask).dataobj)
    np.testing.assert_array_equal(ours, theirs)
    assert found.residual_mm < 0.01
