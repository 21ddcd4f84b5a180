"""What users of other readers suffer from, one test per pain, and hostile numbers."""

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import CTImageStorage, RLELossless

from medssl.readers._base import Policy
from medssl.readers._dispatch import load
from tests.readers.dicom_files import (
    AXIAL,
    frame,
    grouped,
    image,
    set_tags,
    voxels,
    write_enhanced,
    write_slices,
)
from tests.readers.test_dicom_geometry import tilted


def edit(path, **tags):
    set_tags(pydicom.dcmread(path), **tags).save_as(path)


def test_pain_1_a_multiframe_file_without_geometry_gets_no_affine(tmp_path):
    dataset = set_tags(image(voxels(), CTImageStorage), NumberOfFrames=5, Modality="CT")
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert grouped(tmp_path) == ([], {"unsupported_multiframe": [str(tmp_path / "a.dcm")]})


def test_pain_2_instance_numbers_that_lie_do_not_order_slices(tmp_path):
    write_slices(tmp_path, voxels(), InstanceNumber=lambda k: [3, 1, 5, 2, 4][k])
    (found,), _ = grouped(tmp_path)
    np.testing.assert_array_equal(load(found)[0], voxels())


def test_pain_3_spacing_is_never_averaged_over_a_missing_slice(tmp_path):
    write_slices(tmp_path, voxels(shape=(8, 4, 5)), skip=(3,))
    assert grouped(tmp_path)[0] == []
    for gaps in ("split", "resample"):
        for one in grouped(tmp_path, Policy(gaps=gaps))[0]:
            assert one.geometry.spacing_mm[0] == pytest.approx(2.5)


def test_pain_4_a_tilted_head_ct_is_sheared_not_upright(tmp_path):
    write_slices(tmp_path, voxels(), tilted())
    (found,), _ = grouped(tmp_path)
    np.testing.assert_allclose(found.geometry.affine, tilted(), atol=1e-4)


def test_pain_5_echoes_and_phases_of_one_series_are_volumes_named_by_their_tag(tmp_path):
    for seed, echo in enumerate(["2.46", "4.92"]):
        write_slices(tmp_path / "s", voxels(seed), EchoTime=echo)
    assert [one.part for one in grouped(tmp_path)[0]] == ["EchoTime=2.46", "EchoTime=4.92"]


def test_pain_6_localizers_and_other_matrices_do_not_disturb_the_volume(tmp_path):
    survey = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    write_slices(tmp_path / "s", voxels())
    write_slices(tmp_path / "s", voxels(shape=(1, 16, 16)), ImageType=survey)
    sagittal = AXIAL[:, [1, 2, 0, 3]]
    write_slices(tmp_path / "s", voxels(shape=(2, 8, 10)), sagittal, ImageType=survey)
    (found,), refused = grouped(tmp_path)
    assert found.shape == (1, 5, 8, 10)
    assert {reason: len(files) for reason, files in refused.items()} == {"localizer": 3}


def test_pain_7_spacing_of_an_enhanced_file_comes_from_its_frame_positions(tmp_path):
    wide = AXIAL.copy()
    wide[:3, 2] *= 2  # 5 mm apart, while SliceThickness says 9 and SpacingBetweenSlices 1
    own = [frame(wide, k) for k in range(5)]
    for groups in own:
        groups.PixelMeasuresSequence[0].SpacingBetweenSlices = 1.0
    write_enhanced(tmp_path / "a.dcm", voxels(), own)
    assert grouped(tmp_path)[0][0].geometry.spacing_mm == pytest.approx((5.0, 1.3, 0.7))


@pytest.mark.parametrize(
    ("keyword", "values"),
    [
        ("PixelSpacing", ["0", "0.7"]),
        ("PixelSpacing", ["-1.3", "0.7"]),
        ("ImageOrientationPatient", ["0"] * 6),
        ("ImageOrientationPatient", ["2", "0", "0", "0", "1", "0"]),
    ],
)
def test_impossible_geometry_is_refused(tmp_path, keyword, values):
    write_slices(tmp_path, voxels(), **{keyword: values})
    found, refused = grouped(tmp_path)
    assert (found, list(refused)) == ([], ["bad_geometry"])


@pytest.mark.parametrize("word", [b"NaN", b"Inf", b"1e999"])
@pytest.mark.parametrize("keyword", ["PixelSpacing", "ImagePositionPatient"])
def test_numbers_that_are_not_finite_are_refused(tmp_path, word, keyword):
    for file in write_slices(tmp_path, voxels()):
        old = pydicom.dcmread(file).get_item(keyword).value
        parts = old.split(b"\\")
        parts[0] = word.ljust(len(parts[0]))[: max(len(parts[0]), len(word))]
        new = b"\\".join(parts).strip()
        file.write_bytes(file.read_bytes().replace(old, new[: len(old)].ljust(len(old)), 1))
    found, refused = grouped(tmp_path)
    assert (found, list(refused)) == ([], ["bad_geometry"])


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"Rows": 7}, "frames_mismatch"),
        ({"Rows": 9}, "truncated"),
        ({"Columns": 5}, "frames_mismatch"),
        ({"BitsStored": 14}, "bad_pixel_format"),
        ({"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, "frames_mismatch"),
    ],
)
def test_a_header_that_contradicts_its_pixels_is_refused_at_the_index(tmp_path, tags, reason):
    write_slices(tmp_path, voxels(), **tags)
    found, refused = grouped(tmp_path)
    assert (found, list(refused)) == ([], [reason])


@pytest.mark.parametrize(("kept", "reason"), [(-1, "truncated"), (-172, "no_pixels")])
def test_a_cut_file_is_refused_at_the_index(tmp_path, kept, reason):
    file = write_slices(tmp_path, voxels())[2]
    file.write_bytes(file.read_bytes()[:kept])
    assert grouped(tmp_path)[1][reason] == [str(file)]


@pytest.mark.parametrize(
    ("keyword", "values"),
    [
        ("PatientID", "AB"),
        ("FrameOfReferenceUID", ["1.2.3", "1.2.4"]),
        ("PhotometricInterpretation", ["MONOCHROME1", "MONOCHROME2"]),
    ],
)
def test_slices_that_contradict_each_other_are_no_volume(tmp_path, keyword, values):
    write_slices(tmp_path, voxels(), **{keyword: lambda k: values[k == 4]})
    found, refused = grouped(tmp_path)
    assert (found, list(refused)) == ([], ["header_contradiction"])


def test_a_volume_larger_than_the_cap_is_refused_before_it_is_allocated(tmp_path):
    own = [frame(k=k) for k in range(5)]
    path = write_enhanced(tmp_path / "a.dcm", voxels(), own)
    dataset = set_tags(pydicom.dcmread(path), Rows=65535, Columns=65535)
    dataset.file_meta.TransferSyntaxUID = RLELossless
    dataset.PixelData = encapsulate([bytes(64)] * 5)
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    assert grouped(tmp_path) == ([], {"too_large": [str(path)]})


def test_a_copy_in_the_same_folder_is_named_and_nothing_else_changes(tmp_path):
    file = write_slices(tmp_path, voxels())[0]
    (tmp_path / "zz copy.dcm").write_bytes(file.read_bytes())
    (found,), refused = grouped(tmp_path)
    assert refused == {"duplicate_file": [str(tmp_path / "zz copy.dcm")]}
    np.testing.assert_array_equal(load(found)[0], voxels())


def test_objects_that_share_a_uid_but_not_a_place_are_no_copies(tmp_path):
    write_slices(tmp_path, voxels(), SOPInstanceUID="1.2.3.99")
    (found,), refused = grouped(tmp_path)
    assert (found.shape, refused) == ((1, 5, 8, 10), {})
