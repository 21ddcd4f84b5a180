"""What the header of a JPEG, JPEG-LS or JPEG 2000 stream says, and whether the stream is whole."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

Colour = Literal["RGB", "YBR", ""]
# SOF0-15 and SOF55 (JPEG-LS), less DHT, JPG and DAC that share the range.
_SOF = ({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}) | {0xF7}
_JPEG_START, _J2K_START, _END = b"\xff\xd8", b"\xff\x4f", b"\xff\xd9"
_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  \r\n\x87\n"


@dataclass(frozen=True)
class Codestream:
    """Frame header of a stream (ISO/IEC 10918-1 B.2.2, 14495-1 C.2.2, 15444-1 A.5.1)."""

    rows: int
    columns: int
    components: int
    precision: int
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


def read_codestream(stream: bytes) -> Codestream | None:
    """The frame header; ``None`` if there is none."""
    try:
        if stream[:12] == _JP2_SIGNATURE:
            return _j2k(stream[stream.index(_J2K_START + b"\xff\x51") :])
        if stream[:2] == _J2K_START:
            return _j2k(stream)
        return _jpeg(stream) if stream[:2] == _JPEG_START else None
    except (struct.error, IndexError, ValueError):
        return None


def _j2k(stream: bytes) -> Codestream:
    width, height, left, top = struct.unpack(">4L", stream[8:24])
    (components,) = struct.unpack(">H", stream[40:42])
    precision = (stream[42] & 0x7F) + 1
    # The decoder undoes the component transform by itself.
    return Codestream(height - top, width - left, components, precision, "")


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
    if components != 3:
        return Codestream(rows, columns, components, precision, "")
    ids = bytes(body[6::3])[:3]
    if transform is not None:
        colour = "YBR" if transform == 1 else "RGB"
    elif ids in {b"RGB", b"rgb"}:
        colour = "RGB"
    return Codestream(rows, columns, components, precision, _checked(colour))


def _checked(colour: str) -> Colour:
    return "YBR" if colour == "YBR" else "RGB" if colour == "RGB" else ""
