"""A DICOM header under the Basic Profile, sequences included.

Besides the rows of the table: what nobody can vouch for goes (private attributes, attributes of no
known edition, values that do not have the shape of their type), every UID that is not registered
is replaced, every person's name and every date or time is dummy or empty wherever it stands, and
free text that the profile keeps is emptied where it repeats an identifier of the same header.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from pydicom._uid_dict import UID_dictionary
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from medssl.archive.identity import hash_id
from medssl.archive.profile import EDITION, Action, action_of
from medssl.readers._dicom_open import PARSE_ERRORS

_PATIENT_NAME, _PATIENT_ID, _PATIENT_BIRTH_DATE = 0x00100010, 0x00100020, 0x00100030
_ACCESSION_NUMBER, _OTHER_PATIENT_IDS = 0x00080050, 0x00101000
_IDENTIFIERS = {_PATIENT_ID, _PATIENT_BIRTH_DATE, _ACCESSION_NUMBER, _OTHER_PATIENT_IDS}
_TEXT = {"LO", "SH", "ST", "LT", "UC", "UT", "CS"}
_DUMMY: dict[str, object] = {
    **dict.fromkeys(("LO", "SH", "ST", "LT", "UC", "UT", "PN"), "removed"),
    **dict.fromkeys(("AE", "CS"), "REMOVED"),
    **dict.fromkeys(("OB", "OW", "OB or OW", "UN"), b"\0\0"),
    "AS": "000Y",
    "DA": "19000101",
    "DT": "19000101000000",
    "TM": "000000",
    "UR": "urn:removed",
    "DS": "0",
    "IS": "0",
}
_SHAPE = {
    "CS": re.compile(r"[A-Z0-9_ ]{0,16}"),
    "DS": re.compile(r"[-+0-9.eE ]{0,32}"),
    "IS": re.compile(r"[-+0-9 ]{0,20}"),
}
_NUMBERS = {"DS", "IS", "US", "SS", "UL", "SL", "FL", "FD", "UV", "SV"}
_WORD = re.compile(r"[^\W_]+")


class HeaderCleaner:
    """Cleans headers with one secret key: equal keys give equal pseudonyms."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def person(self, dataset: Dataset) -> str:
        """Pseudonym of the patient: from the id, else the name, else the study."""
        for keyword in ("PatientID", "PatientName", "StudyInstanceUID"):
            value = str(dataset.get(keyword, "") or "").strip("\0 ")
            if value:
                return hash_id(self._key, "patient", value)
        return ""

    def uid(self, uid: str) -> str:
        """The replacement of a UID (2.25, PS3.5 B.2), the same for all files; registered stay."""
        text = uid.strip("\0 ")
        if not text or text in UID_dictionary:
            return text
        digest = hmac.new(self._key, b"uid\0" + text.encode("utf-8", "replace"), hashlib.sha256)
        return f"2.25.{uuid.UUID(bytes=digest.digest()[:16], version=5).int}"

    def clean(self, dataset: Dataset) -> None:
        """Apply the profile in place and note in the header that it was applied.

        Raises:
            RecursionError: sequences are nested beyond reason.
        """
        person = self.person(dataset)
        self._clean(dataset, _words(dataset), scrub=False)
        for tag in (_PATIENT_NAME, _PATIENT_ID):
            if tag in dataset:
                dataset[tag].value = person
        _mark(dataset)

    def _clean(self, dataset: Dataset, words: frozenset[str], *, scrub: bool) -> None:
        for tag in list(dataset.keys()):
            action = action_of(tag)
            if action == "X" or not _is_known(tag):
                del dataset[tag]
                continue
            try:
                element = dataset[tag]
                if scrub and action != "U" and element.VR in _DUMMY:
                    action = "D"
                kept = self._kept(element, action, words, scrub=scrub)
            except RecursionError:
                raise
            except PARSE_ERRORS:
                kept = None
            if kept is None:
                del dataset[tag]
            else:
                dataset[tag] = kept

    def _kept(
        self, element: DataElement, action: Action | None, words: frozenset[str], *, scrub: bool
    ) -> DataElement | None:
        """What takes the element's place; ``None`` = nothing."""
        tag, vr = element.tag, dictionary_VR(element.tag)
        if vr == "SQ":
            return self._sequence(element, action, words, scrub=scrub)
        if vr == "UI":
            return DataElement(tag, vr, [self.uid(str(one)) for one in _values(element)])
        if action is None:
            action = _unlisted(element, vr, words)
        if action is None:
            return element
        if action == "X":
            return None
        if action == "Z" or not _values(element):
            return DataElement(tag, vr, b"" if vr in {"OB", "OW", "UN"} else "")
        if tag == _PATIENT_ID:
            return DataElement(tag, vr, hash_id(self._key, "patient", str(element.value)))
        return DataElement(tag, vr, _DUMMY[vr])

    def _sequence(
        self, element: DataElement, action: Action | None, words: frozenset[str], *, scrub: bool
    ) -> DataElement | None:
        if element.VR != "SQ":
            return None
        if action == "Z":
            return DataElement(element.tag, "SQ", Sequence())
        for item in element.value:
            # A dummy sequence keeps its items, every text, name and date in them is a dummy.
            self._clean(item, words, scrub=scrub or action == "D")
        return element


def _is_known(tag: BaseTag) -> bool:
    """Groups 0 to 7 are no part of an image; all of an overlay goes with its pixels."""
    group = tag.group
    if group < 8 or tag.element == 0 or group >> 8 == 0x60:
        return False
    return dictionary_has_tag(tag)


def _unlisted(element: DataElement, vr: str, words: frozenset[str]) -> Action | None:
    """What becomes of an attribute that the table does not list; ``None`` = it stays."""
    known = vr.split(" or ")
    if element.VR not in known and not {element.VR, *known} <= _NUMBERS:
        return "X"
    if vr in {"PN", "AE"}:
        return "D"
    if vr in {"DA", "DT", "TM"}:
        return "Z"
    if vr in {"UR", "UN"}:
        return "X"
    texts = [str(one) for one in _values(element)]
    shape = _SHAPE.get(vr)
    if shape and not all(shape.fullmatch(text.strip("\0 ")) for text in texts):
        return "Z"
    # Group 28 says how pixels are coded; without its words they cannot be read.
    if vr in _TEXT and element.tag.group != 0x28 and _names_somebody(texts, words):
        return "Z"
    return None


def _names_somebody(texts: list[str], words: frozenset[str]) -> bool:
    for text in texts:
        if "\ufffd" in text or not words.isdisjoint(_WORD.findall(text.casefold())):
            return True
    return False


def _words(dataset: Dataset) -> frozenset[str]:
    """Words and numbers by which this header names people, long enough to mean somebody."""
    found: set[str] = set()
    for element in _elements(dataset):
        if element.VR == "PN" or element.tag in _IDENTIFIERS:
            for value in _values(element):
                parts = [str(value), *getattr(value, "components", ())]
                found.update(w for part in parts for w in _WORD.findall(part.casefold()))
    return frozenset(w for w in found if len(w) >= _shortest(w))


def _shortest(word: str) -> int:
    if word.isdigit():
        return 6
    return 4 if word.isascii() else 2


def _elements(dataset: Dataset) -> Iterator[DataElement]:
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
        except RecursionError:
            raise
        except PARSE_ERRORS:
            continue  # cleaning removes it
        if element.VR == "SQ":
            for item in element.value:
                yield from _elements(item)
        else:
            yield element


def _values(element: DataElement) -> list[Any]:
    value = element.value
    if value is None or value in ("", b""):
        return []
    return list(value) if isinstance(value, MultiValue | list) else [value]


def _mark(dataset: Dataset) -> None:
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = f"medssl: DICOM PS3.15 {EDITION} Basic Profile"
    dataset.DeidentificationMethodCodeSequence = Sequence(
        [_code("113100", "Basic Application Confidentiality Profile")]
    )
    dataset.LongitudinalTemporalInformationModified = "REMOVED"


def mark_pixels(dataset: Dataset) -> None:
    """Note that text outside the picture was removed from the pixels."""
    dataset.BurnedInAnnotation = "NO"
    codes: Iterable[Dataset] = dataset.DeidentificationMethodCodeSequence
    added = [*codes, _code("113101", "Clean Pixel Data Option")]
    dataset.DeidentificationMethodCodeSequence = Sequence(added)


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
    return code
