"""The lean header parser gives pydicom's tags, or says that it does not know."""

import io
import struct
import warnings
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import config
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medssl.readers import _dicom_places
from medssl.readers._dicom_lean import lean_elements
from medssl.readers._dicom_places import Unusual
from medssl.readers._dicom_tags import PydicomElements, tags_of
from medssl.readers.dicom import matches

PLAIN_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings(), config.disable_value_validation():
        warnings.simplefilter("ignore")
        yield


def lean_tags(content):
    """Tags of the lean parser; None = handed over."""
    try:
        elements = lean_elements(io.BytesIO(content), len(content))
        return None if elements is None else tags_of(elements)
    except Unusual:
        return None


def pydicom_tags(content):
    dataset = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True, force=True)
    return tags_of(PydicomElements(dataset))


def encoded(dataset, syntax=ExplicitVRLittleEndian):
    dataset.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def ct():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(get_testdata_file("CT_small.dcm"))


def compare(paths):
    """(files, handed over, modalities of those that were not); fails on any difference."""
    files, handed, plain = 0, [], []
    for path in paths:
        with path.open("rb") as file:
            if not matches(path, file.read(4096)):
                continue
        files += 1
        content = path.read_bytes()
        tags = lean_tags(content)
        if tags is None:
            handed.append(path.name)
            continue
        assert repr(tags) == repr(pydicom_tags(content)), path.name
        plain.append(tags["modality"])
    return files, handed, plain


def test_equals_pydicom_on_the_files_it_ships_or_hands_over():
    folder = Path(get_testdata_file("CT_small.dcm")).parent
    files, handed, plain = compare(sorted(p for p in folder.rglob("*") if p.is_file()))
    assert files > 80 and len(handed) < files / 2
    assert {"CT_small.dcm", "MR_small.dcm", "MR_small_implicit.dcm"}.isdisjoint(handed)
    assert {"MR_small_bigendian.dcm", "image_dfl.dcm", "badVR.dcm"} <= set(handed)


@pytest.mark.real
def test_equals_pydicom_on_every_file_of_the_data_or_hands_over(medssl_data):
    files, handed, plain = compare(sorted(p for p in medssl_data.rglob("*") if p.is_file()))
    assert files > 500
    assert len(handed) <= 0.1 * files, handed
    assert plain.count("CT") > 50 and plain.count("MR") > 250


@pytest.mark.parametrize("syntax", PLAIN_SYNTAXES)
def test_nested_and_undefined_sequences_are_stepped_over(syntax):
    dataset = ct()
    inner = Dataset()
    inner.PatientID, inner.Rows, inner.SOPInstanceUID = "inner", 7, "1.2.3"
    for depth in range(6):
        outer = Dataset()
        outer.ReferencedStudySequence = Sequence([inner, Dataset(), inner])
        outer["ReferencedStudySequence"].is_undefined_length = depth % 2 == 0
        outer.is_undefined_length_sequence_item = depth % 3 == 0
        inner = outer
    for keyword in ("RequestAttributesSequence", "IconImageSequence"):
        setattr(dataset, keyword, Sequence([inner]))
        dataset[keyword].is_undefined_length = True
    content = encoded(dataset, syntax)
    assert lean_tags(content) == pydicom_tags(content)
    assert lean_tags(content)["patient"] == dataset.PatientID != "inner"


@pytest.mark.parametrize("name", ["MR_small_bigendian.dcm", "image_dfl.dcm"])
def test_other_codings_are_left_to_pydicom(name):
    assert lean_tags(Path(get_testdata_file(name)).read_bytes()) is None


def element(tag, vr, value):
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


@pytest.mark.parametrize(
    "extra",
    {
        "a tag twice": element(0x00100020, b"LO", b"somebody else "),
        "an odd length": element(0x00090011, b"LO", b"odd"),
        "an unknown VR": element(0x00090011, b"XX", b"ab"),
        "implicit in between": struct.pack("<HHI", 9, 0x11, 2) + b"ab",
        "a stray delimiter": struct.pack("<HHI", 0xFFFE, 0xE00D, 0),
        "a sequence without end": struct.pack("<HH2sHI", 9, 0x11, b"SQ", 0, 0xFFFFFFFF),
        "bytes of undefined length": struct.pack("<HH2sHI", 9, 0x11, b"OB", 0, 0xFFFFFFFF),
        "a length beyond the file": struct.pack("<HH2sHI", 9, 0x11, b"OB", 0, 0x7FFFFFFE),
    }.items(),
    ids=lambda pair: pair[0],
)
def test_the_unusual_is_left_to_pydicom(extra):
    content = encoded(ct())
    pixels = content.rindex(b"\xe0\x7f\x10\x00")
    assert lean_tags(content[:pixels] + content[pixels:]) is not None
    assert lean_tags(content[:pixels] + extra[1] + content[pixels:]) is None


def test_a_header_cut_short_is_left_to_pydicom():
    content = encoded(ct())
    pixels = content.rindex(b"\xe0\x7f\x10\x00")
    assert lean_tags(content[:pixels]) == pydicom_tags(content[:pixels])  # nothing is missing
    for end in range(pixels - 400, pixels, 7):
        tags = lean_tags(content[:end])
        assert tags is None or tags == pydicom_tags(content[:end])


@pytest.mark.parametrize("name", ["PatientID", "InstitutionName"])
@pytest.mark.parametrize(
    ("charset", "text", "known"),
    [
        ("ISO_IR 100", "Krankenhaus Köln", True),
        ("ISO_IR 192", "Łódź 医院", True),
        ("ISO_IR 144", "больница", False),
        (["", "ISO 2022 IR 87"], "病院", False),
        ("", "Köln", True),
    ],
)
def test_letters_of_other_alphabets_are_exact_or_left_to_pydicom(name, charset, text, known):
    dataset = ct()
    dataset.SpecificCharacterSet = charset or "ISO_IR 100"
    setattr(dataset, name, text)
    content = encoded(dataset)
    if not charset:  # bytes above 127 that no character set explains
        content = content.replace(b"ISO_IR 100", b"ISO_IR 6  ")
    tags = lean_tags(content)
    assert (tags is not None) == known
    assert tags is None or tags == pydicom_tags(content)


@settings(max_examples=150, deadline=None)
@given(
    keyword=st.sampled_from(["PatientID", "ImageType", "EchoTime", "SeriesNumber", "PixelSpacing"]),
    value=st.text(" 0123456789+-.eE\\AB_\0\t", max_size=24).map(str.encode),
    syntax=st.sampled_from(PLAIN_SYNTAXES),
)
def test_any_value_is_what_pydicom_makes_of_it(keyword, value, syntax):
    dataset = ct()
    setattr(dataset, keyword, "1\\1" if keyword == "PixelSpacing" else "1")
    held = b"1\\1 " if keyword == "PixelSpacing" else b"1 "
    tag = dataset[keyword].tag
    content = encoded(dataset, syntax)
    vr = dataset[keyword].VR.encode()
    value += b" " * (len(value) % 2)
    for head, new in (
        (struct.pack("<HH2sH", tag.group, tag.elem, vr, len(held)), element(tag, vr, value)),
        (
            struct.pack("<HHI", tag.group, tag.elem, len(held)),
            struct.pack("<HHI", tag.group, tag.elem, len(value)) + value,
        ),
    ):
        content = content.replace(head + held, new)
    tags = lean_tags(content)
    assert tags is None or repr(tags) == repr(pydicom_tags(content))


class Counting(io.BytesIO):
    taken = 0

    def read(self, size=-1):
        content = super().read(size)
        self.taken += len(content)
        return content


def test_the_pixels_are_not_read():
    content = encoded(ct()) + bytes(2**22)
    file = Counting(content)
    assert lean_elements(file, len(content)) is not None
    assert file.taken <= 2**14


def test_a_long_header_is_read_on():
    dataset = ct()
    dataset.add_new(0x00091001, "OB", bytes(50_000))
    content = encoded(dataset)
    assert lean_tags(content) == pydicom_tags(content)
    dataset.add_new(0x00091001, "OB", bytes(2**21))
    assert lean_tags(encoded(dataset)) is None


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_guess_from_the_last_header_is_as_exact_as_a_walk(data):
    headers = []
    for _ in range(4):
        dataset = ct()
        for keyword in ("PatientID", "ImageType", "InstanceNumber", "StudyDate", "SliceLocation"):
            text = data.draw(st.sampled_from(["1", "12", "1234", "1234567"]))
            setattr(dataset, keyword, text)
        for keyword in data.draw(st.sets(st.sampled_from(["KVP", "StationName", "PatientSex"]))):
            del dataset[keyword]
        dataset.add_new(0x00091001, "OB", bytes(data.draw(st.sampled_from([2, 4]))))
        headers.append(encoded(dataset))
    for content in headers:
        guessed = _dicom_places.find_places(content, whole=True)
        _dicom_places._last = None
        walked = _dicom_places.find_places(content, whole=True)
        assert (guessed.elements, guessed.end) == (walked.elements, walked.end)


def test_slices_of_a_series_are_guessed(monkeypatch):
    slices = []
    for k in range(8, 12):
        dataset = ct()
        dataset.InstanceNumber, dataset.SOPInstanceUID = k, f"1.2.3.{k}"
        dataset.ImagePositionPatient = [0, 0, k * 1.25]
        slices.append(encoded(dataset))
    _dicom_places.find_places(slices[0], whole=True)
    monkeypatch.setattr(_dicom_places, "_place", pytest.fail)
    for content in slices[1:]:
        assert lean_tags(content) == pydicom_tags(content)
