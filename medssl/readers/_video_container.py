"""Video containers told by their first bytes, and where a file that was cut short should end."""

from __future__ import annotations

from typing import BinaryIO

# FFmpeg's name of the one demuxer that may open the file: its playlist and network formats never.
_MAGIC = (
    (b"RIFF", "avi"),
    (b"\x1aE\xdf\xa3", "matroska"),
    (b"\x00\x00\x01\xba", "mpeg"),
    (b"\x00\x00\x01\xb3", "mpegvideo"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
)
_MP4_FIRST_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"}
_STILL_BRANDS = {b"heic", b"heix", b"heif", b"mif1", b"msf1", b"avif", b"jp2 ", b"jpx ", b"crx "}
_TS_PACKET = 188


def container_of(head: bytes) -> str:
    """Demuxer for a file that starts like this; empty if it is no video container."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name if name != "avi" or head[8:11] == b"AVI" else ""
    if head[4:8] in _MP4_FIRST_BOXES:
        return "" if head[4:8] == b"ftyp" and head[8:12] in _STILL_BRANDS else "mov"
    return "mpegts" if _is_transport_stream(head) else ""


def _is_transport_stream(head: bytes) -> bool:
    """A sync byte every 188 bytes (192 with time codes), perhaps behind a part of a packet."""
    for step in (_TS_PACKET, _TS_PACKET + 4):
        for start in range(step):
            if len(head) > start + 7 * step and set(head[start : start + 8 * step : step]) == {
                0x47
            }:
                return True
    return False


def is_cut_short(file: BinaryIO, container: str, size: int) -> bool:
    """Whether the container says that the file should be longer than it is."""
    file.seek(0)
    if container == "mov":
        return _mp4_end(file, size) > size
    if container == "avi":
        return 8 + int.from_bytes(file.read(8)[4:], "little") > size + 1
    if container == "matroska":
        return _matroska_end(file) > size
    return False


def _mp4_end(file: BinaryIO, size: int) -> int:
    at = 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1 and len(head) == 16:
            length = int.from_bytes(head[8:], "big")
        if length == 0:
            return size  # the last box reaches to the end, wherever that is
        if length < 8:
            return at
        at += length
    return at


def _matroska_end(file: BinaryIO) -> int:
    """End of the segment, 0 if it does not say (live streams)."""
    head = file.read(4096)
    start = head.find(b"\x18\x53\x80\x67")
    if start < 0 or len(head) < start + 12:
        return 0
    first = head[start + 4]
    width = 9 - first.bit_length()
    if width > 8:
        return 0
    length = int.from_bytes(head[start + 4 : start + 4 + width], "big") & ((1 << 7 * width) - 1)
    return 0 if length == (1 << 7 * width) - 1 else start + 4 + width + length
