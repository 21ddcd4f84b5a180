"""Several volumes in one series: what tells them apart, and what must not."""

import shutil

import numpy as np
import pydicom
import pytest

from medssl.readers._dispatch import load
from tests.readers.dicom_files import AXIAL, grouped, voxels, write_slices


def parts(folder):
    found, refused = grouped(folder)
    assert refused == {}
    return [one.part for one in found]


def edit(path, **tags):
    dataset = pydicom.dcmread(path)
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)


@pytest.mark.parametrize(
    ("keyword", "values", "named"),
    [
        ("EchoTime", ["4.92", "7.38"], ["EchoTime=4.92", "EchoTime=7.38"]),
        ("DiffusionBValue", [0.0, 1000.0], ["DiffusionBValue=0", "DiffusionBValue=1000"]),
        (
            "TemporalPositionIdentifier",
            ["1", "2"],
            ["TemporalPositionIdentifier=1", "TemporalPositionIdentifier=2"],
        ),
        ("AcquisitionNumber", ["3", "4"], ["AcquisitionNumber=3", "AcquisitionNumber=4"]),
        (
            "ImageType",
            [["ORIGINAL", "PRIMARY", "M", "WATER"], ["ORIGINAL", "PRIMARY", "P", "FAT"]],
            ["ImageType=M_WATER", "ImageType=P_FAT"],
        ),
        ("InversionTime", ["100", "900"], ["InversionTime=100", "InversionTime=900"]),
        ("FlipAngle", ["3", "18"], ["FlipAngle=18", "FlipAngle=3"]),
        # Free text in some scanners, so its order is the name.
        (
            "ConvolutionKernel",
            ["B30f", "B70f"],
            ["ConvolutionKernelRank=1", "ConvolutionKernelRank=2"],
        ),
        (
            "AcquisitionTime",
            ["101530.5", "101542.5"],
            ["AcquisitionTimeRank=1", "AcquisitionTimeRank=2"],
        ),
    ],
)
def test_the_tag_that_differs_names_the_parts(tmp_path, keyword, values, named):
    for seed, value in enumerate(values):
        write_slices(tmp_path / "s", voxels(seed), **{keyword: value})
    found, refused = grouped(tmp_path)
    assert ([one.part for one in found], refused) == (named, {})
    stored = {load(one)[0].tobytes() for one in found}
    assert stored == {voxels(seed).tobytes() for seed in range(len(values))}


def test_a_private_b_value_splits_like_the_standard_one(tmp_path):
    for seed, value in enumerate(["0", "800"]):
        for file in write_slices(tmp_path / "s", voxels(seed)):
            dataset = pydicom.dcmread(file)
            block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
            block.add_new(0x0C, "IS", value)
            dataset.save_as(file)
    assert parts(tmp_path) == ["DiffusionBValue=0", "DiffusionBValue=800"]


def test_tags_that_differ_between_unique_positions_split_nothing(tmp_path):
    write_slices(
        tmp_path / "s",
        voxels(),
        AcquisitionNumber=lambda k: str(k % 2),
        AcquisitionTime=lambda k: f"1015{10 + k}",
        EchoTime=lambda k: f"{30 + 0.01 * k}",
    )
    assert parts(tmp_path) == [""]


def test_field_map_with_two_magnitudes_and_a_phase_is_three_volumes(tmp_path):
    phase = ["ORIGINAL", "PRIMARY", "P"]
    for seed, (echo, kind) in enumerate(
        [("4.92", None), ("7.38", None), ("7.38", phase), ("4.92", phase)]
    ):
        tags = {} if kind is None else {"ImageType": kind}
        write_slices(tmp_path / "s", voxels(seed), EchoTime=echo, **tags)
    assert parts(tmp_path) == [
        *("EchoTime=4.92;ImageType=M", "EchoTime=4.92;ImageType=P"),
        *("EchoTime=7.38;ImageType=M", "EchoTime=7.38;ImageType=P"),
    ]


def test_phases_of_contrast_at_shifted_positions_are_two_volumes(tmp_path):
    shifted = AXIAL.copy()
    shifted[2, 3] += 0.9  # the slices of the second run lie between those of the first
    write_slices(tmp_path / "s", voxels(1), AcquisitionNumber="1")
    write_slices(tmp_path / "s", voxels(2), shifted, AcquisitionNumber="2")
    assert parts(tmp_path) == ["AcquisitionNumber=1", "AcquisitionNumber=2"]


def test_trigger_times_that_drift_from_slice_to_slice_are_ranked(tmp_path):
    for phase in range(3):
        write_slices(tmp_path / "s", voxels(phase), TriggerTime=lambda k, p=phase: 100 * p + k)
    found, _ = grouped(tmp_path)
    assert [one.part for one in found] == [f"TriggerTimeRank={n}" for n in (1, 2, 3)]
    for phase, one in enumerate(found):
        np.testing.assert_array_equal(load(one)[0], voxels(phase))


def test_passes_that_only_instance_numbers_tell_apart_are_flagged(tmp_path):
    for seed in range(2):
        write_slices(tmp_path / "s", voxels(seed), InstanceNumber=lambda k, s=seed: 5 * s + k + 1)
    found, _ = grouped(tmp_path)
    assert [one.flags for one in found] == [("order_by_instance_number",)] * 2
    np.testing.assert_array_equal(load(found[1])[0], voxels(1))


def test_an_incomplete_pass_is_not_divided_by_guessing(tmp_path):
    write_slices(tmp_path / "s", voxels(0), InstanceNumber=lambda k: k + 1)
    write_slices(tmp_path / "s", voxels(1), skip=(2,), InstanceNumber=lambda k: k + 6)
    found, refused = grouped(tmp_path)
    assert (found, list(refused)) == ([], ["duplicate_position"])


def test_every_time_point_of_a_series_is_a_record(tmp_path):
    for time in range(10):
        write_slices(tmp_path / "s", voxels(time), TemporalPositionIdentifier=str(time + 1))
    assert len(parts(tmp_path)) == 10


def test_matrices_spacings_and_orientations_are_named_by_what_differs(tmp_path):
    write_slices(tmp_path / "s", voxels())
    write_slices(tmp_path / "s", voxels(shape=(4, 16, 10)))
    assert parts(tmp_path) == ["Matrix=16x10", "Matrix=8x10"]


def test_parts_never_hold_free_text(tmp_path):
    for seed, kind in enumerate(["DOE JANE 1970", "ROE"]):
        write_slices(tmp_path / "s", voxels(seed), ImageType=["ORIGINAL", "PRIMARY", kind])
    assert parts(tmp_path) == ["ImageType=1", "ImageType=2"]


def test_localizers_and_other_short_stacks_have_their_own_reasons(tmp_path):
    write_slices(tmp_path / "a", voxels()[:1], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_slices(tmp_path / "b", voxels()[:2], SeriesInstanceUID="1.2.3.5")
    found, refused = grouped(tmp_path)
    assert (found, sorted(refused)) == ([], ["localizer", "too_few_slices"])


def test_a_stray_slice_does_not_spoil_its_series(tmp_path):
    write_slices(tmp_path / "s", voxels(shape=(12, 8, 10)))
    write_slices(tmp_path / "s", voxels()[:1], ImageType=["DERIVED", "SECONDARY", "MPR"])
    (found,), refused = grouped(tmp_path)
    assert found.part == "ImageType=ORIGINAL_PRIMARY_M"
    assert [len(files) for files in refused.values()] == [1]


@pytest.mark.parametrize("uids", [{}, {"StudyInstanceUID": "", "SeriesInstanceUID": ""}])
def test_two_patients_under_one_series_id_are_two_records(tmp_path, uids):
    for seed, patient in enumerate(["DOE-7", "ROE-4"]):
        write_slices(tmp_path / "s", voxels(seed), PatientID=patient, **uids)
    found, refused = grouped(tmp_path)
    assert ([one.part for one in found], refused) == (["PatientIDRank=1", "PatientIDRank=2"], {})
    assert [one.patient for one in found] == ["DOE-7", "ROE-4"]
    for seed, one in enumerate(found):
        np.testing.assert_array_equal(load(one)[0], voxels(seed))


def test_the_same_objects_under_two_patients_are_known_as_copies(tmp_path):
    for file in write_slices(tmp_path / "a", voxels(), PatientID="DOE-7"):
        (tmp_path / "b").mkdir(exist_ok=True)
        copy = shutil.copy(file, tmp_path / "b" / file.name)
        edit(copy, PatientID="ROE-4")
    found, refused = grouped(tmp_path)
    assert ([one.patient for one in found], refused) == (["DOE-7", "ROE-4"], {})
    assert found[0].objects == found[1].objects != ""


def test_objects_that_an_anonymiser_gave_one_uid_are_no_copies_of_each_other(tmp_path):
    for seed in (0, 1):
        for file in write_slices(tmp_path / str(seed), voxels(seed), SeriesInstanceUID=f"1.{seed}"):
            edit(file, SOPInstanceUID="1.2.840.1")
    found, refused = grouped(tmp_path)
    assert ([one.objects for one in found], refused) == (["", ""], {})
