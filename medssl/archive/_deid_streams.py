"""Compressed frames without what they say beside the picture: comments and application data."""

from __future__ import annotations

from collections.abc import Callable

_J2K_COMMENT, _J2K_TILE = 0x64, 0x90
_JPEG_COMMENT, _JPEG_SCAN = 0xFE, 0xDA
# JFIF and Adobe say how colours are coded, APP8 holds colour transforms of JPEG-LS.
_KEPT_APPS = {0xE0, 0xE8, 0xEE}
_APPS = range(0xE0, 0xF0)
_END = b"\xff\xd9"
_JP2 = b"\x00\x00\x00\x0cjP  \r\n\x87\n"


def without_comments(stream: bytes) -> bytes:
    """The same picture, bit for bit, without comment and application segments.

    JPEG and JPEG-LS (ISO/IEC 10918-1 B.1.1, 14495-1 C.1.1) and JPEG 2000 code streams
    (15444-1 A.1); other streams come back as they are.
    """
    if stream[:2] == b"\xff\xd8":
        return _filtered(stream, _JPEG_SCAN, _is_jpeg_remark)
    if stream[:12] == _JP2:
        # A file instead of a code stream: its boxes may hold any text.
        stream = stream[stream.find(b"\xff\x4f\xff\x51") :]
    if stream[:4] == b"\xff\x4f\xff\x51":
        return _filtered(stream, _J2K_TILE, lambda marker: marker == _J2K_COMMENT)
    return stream


def _is_jpeg_remark(marker: int) -> bool:
    return marker == _JPEG_COMMENT or (marker in _APPS and marker not in _KEPT_APPS)


def _filtered(stream: bytes, last: int, drop: Callable[[int], bool]) -> bytes:
    """Copy the segments before marker ``last`` but for those to drop, then all up to the end."""
    stream = stream[: stream.rfind(_END) + len(_END)] if _END in stream else stream
    kept, at = [stream[:2]], 2
    while at + 4 <= len(stream) and stream[at] == 0xFF and stream[at + 1] != last:
        if stream[at + 1] == 0xFF:  # fill byte
            at += 1
            continue
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        if not drop(stream[at + 1]):
            kept.append(stream[at:end])
        at = end
    return b"".join([*kept, stream[at:]])
