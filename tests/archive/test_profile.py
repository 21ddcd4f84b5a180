"""Every row of PS3.15 Table E.1-1 is applied, at the top and inside sequences."""

from collections import Counter

import pytest
from pydicom import config
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from medssl.archive._deid_header import HeaderCleaner
from medssl.archive.profile import action_of, rows

PLANTED = {
    "AE": "PLANTEDAE", "AS": "061Y", "CS": "PLANTED", "DA": "19610203", "DS": "1961.0203",
    "DT": "19610203040506", "IS": "19610203", "LO": "planted", "LT": "planted", "OB": b"planted!",
    "PN": "Planted^Person", "SH": "planted", "ST": "planted", "TM": "040506.5", "UC": "planted",
    "UI": "1.2.3.1961", "UN": b"planted!", "UR": "http://planted.example", "US": 1961,
    "UT": "planted",
}  # fmt: skip
NUMERIC = {"US"}


def tag_of_row(tag):
    if tag == "private":
        return Tag(0x00091001)
    return Tag(int(tag.replace("x", "0"), 16))


def planted(tag):
    vr = "LO" if tag.group & 1 else "OB" if tag.group >> 8 == 0x50 else dictionary_VR(tag)
    vr = vr.split(" or ")[0]
    if vr != "SQ":
        return DataElement(tag, vr, PLANTED[vr])
    item = Dataset()
    item.StudyDescription, item.CodeMeaning = "planted study", "planted text"
    item.PatientName, item.StudyDate = "Planted^Person", "19610203"
    item.ReferencedSOPInstanceUID = "1.2.3.1961"
    return DataElement(tag, "SQ", Sequence([item]))


def image(tag):
    """An image with the element at its top and in a sequence of a sequence that stays."""
    inner, outer, top = Dataset(), Dataset(), Dataset()
    top.Rows, top.Modality = 4, "CT"
    outer.SourceImageSequence = Sequence([inner])
    top.SharedFunctionalGroupsSequence = Sequence([outer])
    for where in (inner, top):
        where[tag] = planted(tag)
    return top


def in_sequence(dataset):
    return dataset.SharedFunctionalGroupsSequence[0].SourceImageSequence[0]


def test_the_table_has_the_rows_of_its_edition():
    # Counts of the 2024b table, found equal in two independent extractions of the standard.
    assert Counter(action for _, action, _ in rows()) == {
        "X": 384, "D": 92, "U": 54, "Z": 42, "X/D": 22, "X/Z": 11, "X/Z/D": 8, "Z/D": 6, "X/Z/U*": 2
    }  # fmt: skip
    assert len({tag for tag, _, _ in rows()}) == 621


@pytest.mark.parametrize(("tag", "action", "name"), rows(), ids=[r[0] for r in rows()])
def test_every_row_is_applied_at_every_depth(tag, action, name):
    with config.disable_value_validation():
        dataset = image(tag_of_row(tag))
        HeaderCleaner(b"key").clean(dataset)
        for where in (dataset, in_sequence(dataset)):
            assert_applied(where, tag_of_row(tag), action)


def assert_applied(dataset, tag, action):
    element = dataset.get(tag)
    if "X" in action.split("/") and element is None:
        return
    assert action != "X", "must be gone"
    if tag.group < 8:  # file meta and command elements are never inside a data set
        assert element is None
        return
    assert "planted" not in str(element).lower()
    assert "1961" not in str(element)
    assert b"planted" not in bytes(element.value if isinstance(element.value, bytes) else b"")
    if action in {"D", "U", "X/Z/U*"}:
        assert element.value not in (None, "", b"")
        assert element.VR != "SQ" or len(element.value) == 1
    if action == "U":
        assert str(element.value).startswith("2.25.")


def test_every_choice_of_the_table_is_one_that_any_object_type_allows():
    last = {"X/Z": "Z", "X/D": "D", "Z/D": "D", "X/Z/D": "D"}
    for tag, action, _ in rows():
        if action in last:
            assert action_of(tag_of_row(tag)) == last[action]
