"""What the header of a JPEG, JPEG-LS or JPEG 2000 stream says, and whether the stream is whole."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

from medssl.core.errors import ReadError
from medssl.readers._dicom_values import PixelFormat

Colour = Literal["RGB", "YBR", ""]
Coding = Literal["sequential", "lossless", "ls", "2000", "other"]
# SOF0-15 and SOF55 (JPEG-LS), less DHT, JPG and DAC that share the range.
_SOF = ({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}) | {0xF7}
# Baseline, extended and progressive are one to a decoder of lossy JPEG.
_CODINGS: dict[int, Coding] = {
    **dict.fromkeys((0xC0, 0xC1, 0xC2), "sequential"),
    0xC3: "lossless",
    0xF7: "ls",
}
# Transfer syntaxes; all others are JPEG 2000.
_OF_SYNTAX: dict[str, Coding] = {
    "1.2.840.10008.1.2.4.50": "sequential",
    "1.2.840.10008.1.2.4.51": "sequential",
    "1.2.840.10008.1.2.4.57": "lossless",
    "1.2.840.10008.1.2.4.70": "lossless",
    "1.2.840.10008.1.2.4.80": "ls",
    "1.2.840.10008.1.2.4.81": "ls",
}
_JPEG_START, _J2K_START, _END = b"\xff\xd8", b"\xff\x4f", b"\xff\xd9"
_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  \r\n\x87\n"


@dataclass(frozen=True)
class Codestream:
    """Frame header of a stream (ISO/IEC 10918-1 B.2.2, 14495-1 C.2.2, 15444-1 A.5.1)."""

    rows: int
    columns: int
    components: int
    precision: int
    coding: Coding
    colour: Colour
    """What markers of the stream say; empty = nothing."""


def starts_image(fragment: bytes) -> bool:
    """Whether a stream begins here; a later fragment of one does not."""
    return fragment[:2] in {_JPEG_START, _J2K_START} or fragment[:12] == _JP2_SIGNATURE


def ends_image(stream: bytes) -> bool:
    """Whether the end marker is there: without it the last rows are missing.

    A padding byte may follow it.
    """
    return stream.rstrip(b"\0\xff")[-2:] == _END


def unwrapped(stream: bytes) -> bytes:
    """A JPEG 2000 stream without the JP2 file around it, which DICOM does not allow (PS3.5 A.4.4).

    Decoders parse broken wrappers for ever.
    """
    start = stream.find(_J2K_START + b"\xff\x51") if stream[:12] == _JP2_SIGNATURE else 0
    return stream[max(start, 0) :]


def read_codestream(stream: bytes) -> Codestream | None:
    """The frame header; ``None`` if there is none."""
    try:
        if stream[:2] == _J2K_START:
            return _j2k(stream)
        return _jpeg(stream) if stream[:2] == _JPEG_START else None
    except (struct.error, IndexError, ValueError):
        return None


def check_stream(stream: bytes, wanted: PixelFormat, syntax: str) -> str:
    """The colour model that a stream states, if it is whole and of the header's image.

    Raises:
        ReadError: ``corrupt_pixels``, ``truncated``.
    """
    header = read_codestream(stream)
    if header is None or header.coding != _OF_SYNTAX.get(syntax, "2000"):
        raise ReadError("corrupt_pixels", "a frame is not of the coding that the header names")
    if not ends_image(stream):
        raise ReadError("truncated", "the compressed data of a frame end early")
    size = (header.rows, header.columns, header.components)
    if size != (wanted.rows, wanted.columns, wanted.samples):
        what = f"a frame of {size} rows, columns, channels; the header says "
        what += f"{(wanted.rows, wanted.columns, wanted.samples)}"
        raise ReadError("corrupt_pixels", what)
    if header.precision > wanted.bits_allocated:
        what = f"{header.precision} bits in the stream, {wanted.bits_allocated} in the header"
        raise ReadError("corrupt_pixels", what)
    return header.colour


def _j2k(stream: bytes) -> Codestream:
    width, height, left, top = struct.unpack(">4L", stream[8:24])
    (components,) = struct.unpack(">H", stream[40:42])
    precision = (stream[42] & 0x7F) + 1
    # The decoder undoes the component transform by itself.
    return Codestream(height - top, width - left, components, precision, "2000", "")


def _jpeg(stream: bytes) -> Codestream:
    at, colour = 2, ""
    transform: int | None = None
    while True:
        marker = stream[at + 1]
        if stream[at] != 0xFF:
            raise ValueError
        if marker == 0xFF:
            at += 1
            continue
        (length,) = struct.unpack(">H", stream[at + 2 : at + 4])
        body = stream[at + 4 : at + 2 + length]
        if marker in _SOF:
            break
        if marker == 0xE0 and body.startswith(b"JFIF\0"):
            colour = "YBR"
        if marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            transform = body[11]
        at += 2 + length
    precision, rows, columns, components = struct.unpack(">BHHB", body[:6])
    coding = _CODINGS.get(marker, "other")
    if components != 3:
        return Codestream(rows, columns, components, precision, coding, "")
    ids = bytes(body[6::3])[:3]
    if transform is not None:
        colour = "YBR" if transform == 1 else "RGB"
    elif ids in {b"RGB", b"rgb"}:
        colour = "RGB"
    return Codestream(rows, columns, components, precision, coding, _checked(colour))


def _checked(colour: str) -> Colour:
    return "YBR" if colour == "YBR" else "RGB" if colour == "RGB" else ""
