"""What a DICOM header says beside the pixels: units and free labels, never free text."""

import pydicom
import pytest
from pydicom.uid import CTImageStorage, PositronEmissionTomographyImageStorage

from tests.readers.dicom_files import grouped, voxels, write_slices

CT = {
    "SOPClassUID": CTImageStorage,
    "Modality": "CT",
    "RescaleSlope": "1",
    "RescaleIntercept": "-1024",
}
PET = {
    "SOPClassUID": PositronEmissionTomographyImageStorage,
    "Modality": "PT",
    "RescaleSlope": lambda k: f"{0.5 + k}",
    "RescaleIntercept": "0",
}


def record(folder, **tags):
    for file in write_slices(folder, voxels(), **tags):
        dataset = pydicom.dcmread(file)
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.save_as(file)
    (found,), refused = grouped(folder)
    assert refused == {}
    return found


@pytest.mark.parametrize(
    ("tags", "units"),
    [
        (CT, "HU"),
        ({**CT, "RescaleType": "HU"}, "HU"),
        ({**CT, "RescaleType": "US"}, ""),
        ({**CT, "RescaleType": "Z_EFF"}, "Z_EFF"),
        ({**CT, "RescaleType": "DOE JANE"}, ""),
        ({**PET, "Units": "BQML"}, "BQML"),
        ({**PET, "Units": "GML"}, "GML"),
        ({**PET, "Units": "DOE"}, ""),
        ({}, ""),
    ],
)
def test_units_are_those_that_the_header_states(tmp_path, tags, units):
    assert record(tmp_path, **tags).units == units


def test_labels_come_from_fixed_lists(tmp_path):
    found = record(
        tmp_path,
        Manufacturer="SIEMENS Healthineers",
        BodyPartExamined="Head-Neck",
        ScanningSequence=["GR", "IR"],
        SequenceVariant=["SK", "SP", "MP"],
        ContrastBolusAgent="Gadovist for Jane Doe",
        StudyDate="20200131",
        Laterality="L",
    )
    assert found.labels == {
        "body_part": "headneck",
        "laterality": "L",
        "vendor": "siemens",
        "sequence": "IR_GR_MP",
        "contrast": "yes",
        "date": "20200131",
    }


def test_free_text_in_a_coded_tag_is_no_label(tmp_path):
    found = record(
        tmp_path,
        Manufacturer="Jane Doe Imaging",
        BodyPartExamined="DOE JANE",
        ScanningSequence="DOE",
        Laterality="JANE DOE",
        StudyDate="",
    )
    assert found.labels == {}


def test_copies_of_a_scan_have_one_object_hash_and_parts_their_own(tmp_path):
    for seed, echo in enumerate(["1", "2"]):
        write_slices(tmp_path / "a", voxels(seed), EchoTime=echo)
    (tmp_path / "b").mkdir()
    for file in (tmp_path / "a").iterdir():
        (tmp_path / "b" / file.name).write_bytes(file.read_bytes())
    first, copy = (grouped(tmp_path / name)[0] for name in "ab")
    assert [one.objects for one in first] == [one.objects for one in copy]
    assert first[0].objects != first[1].objects
