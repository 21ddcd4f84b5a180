"""Names that identify are counted, names of the trade are not."""

from pathlib import PurePath

import pytest

from medssl.archive._name_risk import count_kinds, kinds_of


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("DOE^JOHN", {"name"}),
        ("Müller, Hans", {"name"}),
        ("ct_Thorax_Schmidt_Anna", {"name"}),
        ("Schmidt_Anna", {"name"}),
        ("Smith-Jones.dcm", {"name"}),
        ("1961-03-12", {"date"}),
        ("19610312_ct", {"date"}),
        ("12.03.61.zip", {"date"}),
        ("MRN4711042.nii.gz", {"number"}),
        ("4711042", {"number"}),
        ("IM00001.dcm", set()),
        ("CT_Thorax", set()),
        ("Series_Axial_Brain", set()),
        ("hippocampus_001.nii.gz", set()),
        ("imagesTr", set()),
        ("1.2.840.113619.2.5.1762583153.215519.978957063.78", set()),
        ("", set()),
    ],
)
def test_kinds(name, kinds):
    assert kinds_of(name) == kinds


def test_a_folder_counts_once_however_many_files_it_holds():
    paths = [PurePath("DOE^JOHN") / "19610312" / f"{k}.dcm" for k in range(50)]
    assert count_kinds(paths) == {"name": 1, "date": 1}
