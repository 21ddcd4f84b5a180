"""A lean parser for plain DICOM headers: the tags asked for, without pydicom's data set.

It reads the head of a little endian file, notes where every top-level element lies and decodes a
value when it is asked for. What is unusual in any way it leaves to pydicom (:class:`Unusual`), so
that both give the same tags or only pydicom does.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from functools import cache
from typing import BinaryIO

from pydicom.datadict import dictionary_VR, tag_for_keyword

from medssl.readers._dicom_open import PixelElement
from medssl.readers._dicom_places import (
    SHORT_VRS,
    UNDEFINED,
    Places,
    Short,
    Unusual,
    element_at,
    find_places,
    header_at,
    raw_tag,
)

# Most headers end within the first block; one that takes more than the last is left to pydicom.
_BLOCKS = (2**14, 2**17, 2**20)

_PLAIN_TEXT_VRS = frozenset(b"AE AS CS DA DT TM UI".split())
_CHARSET_VRS = frozenset(b"LO SH UC".split())
_NUMBER_TEXT_VRS = frozenset(b"DS IS".split())
_TEXT_VRS = _PLAIN_TEXT_VRS | _CHARSET_VRS | _NUMBER_TEXT_VRS
_NUMBERS = {
    vr: struct.Struct(f"<{code}")
    for vr, code in zip((b"US", b"SS", b"UL", b"SL", b"FL", b"FD"), "HhIifd", strict=True)
}
_ENCODINGS = {
    b"": "latin-1",
    b"ISO_IR 6": "latin-1",
    b"ISO_IR 100": "latin-1",
    b"ISO_IR 192": "utf-8",
}
_PRINTABLE = re.compile(rb"[ -~]*[\0 ]*")
_NO_CONTROLS = re.compile(rb"[ -~\xa0-\xff]*[\0 ]*")
_NO_CONTROLS_UTF8 = re.compile(rb"[ -~\x80-\xff]*[\0 ]*")
_NUMBER_SIGNS = b"0123456789+-.eE \\"
_MAX_NUMBER_TEXT = 256

_PIXEL_KEYWORDS = {
    b"\xe0\x7f\x10\x00": "PixelData",
    b"\xe0\x7f\x08\x00": "FloatPixelData",
    b"\xe0\x7f\x09\x00": "DoubleFloatPixelData",
}
_CHARACTER_SET = raw_tag(0x00080005)


class LeanElements:
    """:class:`medssl.readers._dicom_tags.Elements` over the bytes of a header.

    Raises:
        Unusual: by every method, where pydicom's answer cannot be told for certain.
    """

    def __init__(self, places: Places) -> None:
        self._data = places.data
        self._places = places.elements
        self._meta = places.meta
        self._implicit = places.implicit
        self._end = places.end
        # Sizes, bits and the kind of image are asked for by several rules.
        self._texts: dict[str, str] = {}
        self._numbers: dict[str, list[float] | None] = {}

    def has(self, keyword: str) -> bool:
        raw = _known(keyword)[0]
        return raw in self._places or raw in self._meta

    def text(self, keyword: str) -> str:
        try:
            return self._texts[keyword]
        except KeyError:
            text = self._texts[keyword] = self._text(keyword)
            return text

    def _text(self, keyword: str) -> str:
        vr, value = self._value(keyword)
        if not value:
            return ""
        if vr in _NUMBERS:
            numbers = self._unpacked(vr, value)
            if len(numbers) != 1 or vr in {b"FL", b"FD"}:
                raise Unusual
            return str(numbers[0])
        text = self._decoded(vr, value).rstrip("\0 ")
        if "\\" not in text:
            return text.lstrip("\0 ")
        return "\\".join([part.strip("\0 ") for part in text.split("\\")])

    def numbers(self, keyword: str, count: int | None = None) -> list[float] | None:
        try:
            numbers = self._numbers[keyword]
        except KeyError:
            numbers = self._numbers[keyword] = self._all_numbers(keyword)
        if numbers is None or (count is not None and len(numbers) != count):
            return None
        return numbers

    def _all_numbers(self, keyword: str) -> list[float] | None:
        vr, value = self._value(keyword)
        if not value:
            return None
        if vr in _NUMBER_TEXT_VRS:
            numbers = _parsed(value)
        elif vr in _NUMBERS:
            numbers = [float(one) for one in self._unpacked(vr, value)]
        else:
            raise Unusual
        return numbers if numbers is not None and all(map(math.isfinite, numbers)) else None

    def bytes_at(self, tag: int) -> bytes:
        at = self._places.get(raw_tag(tag))
        if at is None:
            return b""
        vr, start, length = element_at(self._data, at, self._implicit)
        if length == UNDEFINED or vr == b"SQ":
            raise Unusual
        return self._data[start : start + length]

    def items(self, keyword: str) -> Sequence[LeanElements]:
        if self.has(keyword):
            raise Unusual
        return []

    def pixels(self) -> PixelElement | None:
        """Where the pixel data lie; ``None`` if there are none."""
        if self._end == len(self._data):
            return None
        try:
            vr, start, length = element_at(self._data, self._end, self._implicit)
        except struct.error:
            raise Unusual from None  # the block ends here
        keyword = _PIXEL_KEYWORDS[self._data[self._end : self._end + 4]]
        vr_text = "OW" if self._implicit else vr.decode()
        return PixelElement(keyword, vr_text, start, None if length == UNDEFINED else length)

    def _value(self, keyword: str) -> tuple[bytes, bytes]:
        raw, vr = _known(keyword)
        at, implicit = self._places.get(raw), self._implicit
        if at is None:
            at, implicit = self._meta.get(raw), False
            if at is None:
                return vr, b""
        if not implicit:
            _, vr, length = header_at(self._data, at)
            if vr in SHORT_VRS:  # nearly all that are asked for
                return vr, self._data[at + 8 : at + 8 + length]
        _, start, length = element_at(self._data, at, implicit)
        if length == UNDEFINED:
            raise Unusual
        return vr, self._data[start : start + length]

    def _decoded(self, vr: bytes, value: bytes) -> str:
        if vr not in _TEXT_VRS:
            raise Unusual
        if _PRINTABLE.fullmatch(value):
            return value.decode("ascii")
        if vr not in _CHARSET_VRS:
            raise Unusual
        encoding = _ENCODINGS.get(self._character_set())
        clean = _NO_CONTROLS_UTF8 if encoding == "utf-8" else _NO_CONTROLS
        if encoding is None or not clean.fullmatch(value):
            raise Unusual
        try:
            return value.decode(encoding)
        except UnicodeDecodeError:
            raise Unusual from None

    def _character_set(self) -> bytes:
        at = self._places.get(_CHARACTER_SET)
        if at is None:
            return b""
        _, start, length = element_at(self._data, at, self._implicit)
        return self._data[start : start + length].strip(b"\0 ")

    def _unpacked(self, vr: bytes, value: bytes) -> tuple[float, ...]:
        number = _NUMBERS[vr]
        if len(value) == number.size:
            return number.unpack(value)
        if len(value) % number.size:
            raise Unusual
        return tuple(one for (one,) in number.iter_unpack(value))


def lean_elements(file: BinaryIO, size: int) -> LeanElements | None:
    """The elements of a file that stands at its start; ``None`` = let pydicom read it.

    Args:
        file: a Part 10 file or a bare data set that starts with group 8.
        size: bytes of the file.
    """
    data = b""
    for block in _BLOCKS:
        data += file.read(block - len(data))
        try:
            return LeanElements(find_places(data, whole=len(data) == size))
        except (Short, struct.error):
            if len(data) >= size:
                return None
        except Unusual:
            return None
    return None


def _parsed(value: bytes) -> list[float] | None:
    """Decimal numbers of a DS or IS value; ``None`` if one of them is empty."""
    if len(value) > _MAX_NUMBER_TEXT:
        raise Unusual
    value = value.rstrip(b"\0 ")
    if value.translate(None, _NUMBER_SIGNS):
        raise Unusual
    parts = value.split(b"\\")
    try:
        return [float(part) for part in parts]
    except ValueError:
        if any(not part.strip() for part in parts):
            return None
        raise Unusual from None


@cache
def _known(keyword: str) -> tuple[int, bytes]:
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return raw_tag(tag), dictionary_VR(tag).encode()
