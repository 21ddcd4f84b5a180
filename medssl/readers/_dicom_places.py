"""Where the elements of a little endian DICOM header lie (PS3.5 chapter 7), without their values.

Sequences are stepped over. Whatever is unusual is left to pydicom by :class:`Unusual`.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from functools import cache

from pydicom.datadict import dictionary_VR

from medssl.readers._dicom_layout import Layout, worth_it

_IMPLICIT = "1.2.840.10008.1.2"
_EXPLICIT = re.compile(r"1\.2\.840\.10008\.1\.2\.(1|4\.\d+|5)")
_PREAMBLE = 132
UNDEFINED = 0xFFFFFFFF
_MAX_DEPTH = 16
# Marks a header with a sequence of undefined length: its places cannot be guessed.
_UNDEFINED_SEQUENCE = -1
_FIRST_GROUP = 8

# VRs with 2 and with 4 bytes of length, PS3.5 table 7.1-1 and 7.1-2.
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_CAPITALS = re.compile(rb"[A-Z]{2}")

header_at = struct.Struct("<I2sH").unpack_from
_two = struct.Struct("<II").unpack_from
_one = struct.Struct("<I").unpack_from


def raw_tag(tag: int) -> int:
    """A tag as its four bytes in the file read as one little endian number."""
    return tag >> 16 | (tag & 0xFFFF) << 16


_STOP = frozenset(map(raw_tag, (0x7FE00008, 0x7FE00009, 0x7FE00010)))
_ITEM, _ITEM_END, _SEQUENCE_END = map(raw_tag, (0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD))
_DELIMITERS = frozenset((_ITEM, _ITEM_END, _SEQUENCE_END))
_SYNTAX = raw_tag(0x00020010)


class Unusual(Exception):  # noqa: N818 - no error: the signal that pydicom shall read this file
    """The lean parser does not answer for this header."""


class Short(Exception):  # noqa: N818
    """The block ends before the header does."""


@dataclass(frozen=True)
class Places:
    """Offset of each element before the pixels, by :func:`raw_tag`.

    Attributes:
        elements: of the data set, which is implicit or explicit.
        meta: of group 2, always explicit.
        end: where the pixel data begin; the end of the file if there are none.
    """

    data: bytes
    elements: dict[int, int]
    meta: dict[int, int]
    implicit: bool
    end: int


def find_places(data: bytes, *, whole: bool) -> Places:
    """Walk a header.

    Args:
        data: the start of the file.
        whole: whether it is all of the file.

    Raises:
        Unusual: pydicom shall read this file.
        Short: the header is longer than ``data``, or truncated.
        struct.error: as ``Short``.
    """
    at, meta = 0, dict[int, int]()
    if data[128:132] == b"DICM":
        at = _read_meta(data, meta)
        _, start, length = element_at(data, meta[_SYNTAX], implicit=False)
        implicit = _is_implicit(data[start : start + length].rstrip(b"\0 ").decode("latin-1"))
        # Some files are not what they say.
        if implicit == bool(_CAPITALS.fullmatch(data, at + 4, at + 6)):
            raise Unusual
    elif data[:2] == b"\x08\x00":
        implicit = data[4:6] not in SHORT_VRS and data[4:6] not in LONG_VRS
    else:
        raise Unusual
    elements, end = _place_implicit(data, at) if implicit else _guessed_or_placed(data, at)
    if end == len(data) and not whole:
        raise Short
    # A command set before the data, or a delimiter between its elements.
    if next(iter(elements), 0) & 0xFFFF < _FIRST_GROUP or _DELIMITERS & elements.keys():
        raise Unusual
    return Places(data, elements, meta, implicit, end)


def _is_implicit(syntax: str) -> bool:
    if syntax == _IMPLICIT:
        return True
    if not _EXPLICIT.fullmatch(syntax):
        raise Unusual
    return False


def _read_meta(data: bytes, meta: dict[int, int]) -> int:
    """Note the places of group 2 (always explicit); returns where it ends."""
    at = _PREAMBLE
    while data[at : at + 2] == b"\x02\x00":
        raw, vr, _ = header_at(data, at)
        _, start, length = element_at(data, at, implicit=False)
        if raw in meta or length & 1 or not (vr in SHORT_VRS or vr in LONG_VRS):
            raise Unusual
        meta[raw] = at
        at = start + length
    if _SYNTAX not in meta:
        raise Unusual
    return at


_Elements = tuple[dict[int, int], int]
# The layout of the header before this one, most likely a slice of the same series.
_last: Layout | None = None


def _guessed_or_placed(data: bytes, at: int) -> _Elements:
    """Explicit elements before the pixels, and where those start."""
    global _last  # noqa: PLW0603 - a guess; it is checked
    guess = _last.places(data, at) if _last is not None else None
    if guess is not None:
        return guess
    long: list[int] = []
    elements, end = _place(data, at, long)
    if worth_it(elements) and end + 8 <= len(data) and _UNDEFINED_SEQUENCE not in long:
        _last = Layout(data, elements, end, long)
    return elements, end


def _place(data: bytes, at: int, long: list[int]) -> _Elements:
    """Walk; notes the indices of elements with 4 bytes of length."""
    # One look-up finds the pixels and tags that come twice.
    places = dict.fromkeys(_STOP, 0)
    end = len(data)
    while at < end:
        raw, vr, length = header_at(data, at)
        if raw in places:
            return _stopped(places, raw, at)
        places[raw] = at
        if vr in SHORT_VRS:
            at += 8
        elif vr in LONG_VRS:
            long.append(len(places) - len(_STOP) - 1)
            length = _one(data, at + 8)[0]
            at += 12
        else:
            raise Unusual
        if not length & 1:
            at += length
        elif length == UNDEFINED and vr == b"SQ":
            long.append(_UNDEFINED_SEQUENCE)
            at = _past_sequence(data, at, implicit=False, depth=0)
        else:
            raise Unusual
    return _checked_end(places, at, end)


def _place_implicit(data: bytes, at: int) -> _Elements:
    places = dict.fromkeys(_STOP, 0)
    end = len(data)
    while at < end:
        raw, length = _two(data, at)
        if raw in places:
            return _stopped(places, raw, at)
        places[raw] = at
        at += 8
        if not length & 1:
            at += length
        elif length == UNDEFINED and _may_be_sequence(raw):
            at = _past_sequence(data, at, implicit=True, depth=0)
        else:
            raise Unusual
    return _checked_end(places, at, end)


def _stopped(places: dict[int, int], raw: int, at: int) -> _Elements:
    if raw not in _STOP:
        raise Unusual  # the same tag twice
    for stop in _STOP:
        del places[stop]
    return places, at


def _checked_end(places: dict[int, int], at: int, end: int) -> _Elements:
    if at > end:
        raise Short
    for stop in _STOP:
        del places[stop]
    return places, at


def _past_sequence(data: bytes, at: int, *, implicit: bool, depth: int) -> int:
    """Where a sequence of undefined length ends."""
    if depth > _MAX_DEPTH:
        raise Unusual
    first = True
    while True:
        raw, length = _two(data, at)
        at += 8
        if raw == _SEQUENCE_END:
            # pydicom takes an empty one of an unknown tag for bytes.
            if length or first:
                raise Unusual
            return at
        if raw != _ITEM:
            raise Unusual
        first = False
        at = _past_item(data, at, length, implicit=implicit, depth=depth)


def _past_item(data: bytes, at: int, item_bytes: int, *, implicit: bool, depth: int) -> int:
    end = None if item_bytes == UNDEFINED else at + item_bytes
    while end is None or at < end:
        if end is None and _two(data, at)[0] == _ITEM_END:
            if _two(data, at)[1]:
                raise Unusual
            return at + 8
        vr, start, length = element_at(data, at, implicit)
        if not length & 1:
            at = start + length
        elif length == UNDEFINED and (_may_be_sequence(_one(data, at)[0]) or vr == b"SQ"):
            at = _past_sequence(data, start, implicit=implicit, depth=depth + 1)
        else:
            raise Unusual
    if at != end:
        raise Unusual
    return at


def element_at(data: bytes, at: int, implicit: bool) -> tuple[bytes, int, int]:
    """VR (empty if implicit), start and length of the value at a place."""
    if implicit:
        return b"", at + 8, _one(data, at + 4)[0]
    _, vr, length = header_at(data, at)
    if vr in SHORT_VRS:
        return vr, at + 8, length
    if vr in LONG_VRS:
        return vr, at + 12, _one(data, at + 8)[0]
    raise Unusual


@cache
def _may_be_sequence(raw: int) -> bool:
    """Whether an element of undefined length without VR is a sequence for pydicom too."""
    try:
        return dictionary_VR(raw_tag(raw)) == "SQ"
    except KeyError:
        return True
