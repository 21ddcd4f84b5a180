"""Encapsulated pixel data: from fragments to the compressed stream of each frame (PS3.5 A.4)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, BinaryIO

from medssl.core.errors import ReadError
from medssl.readers._dicom_codestream import starts_image

_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
# Bytes that tell whether a fragment starts an image.
_LOOK = 12
_RLE_HEADER_BYTES = 64


@dataclass(frozen=True)
class Fragment:
    """Place of one fragment's value in the file."""

    offset: int
    length: int


def frame_fragments(
    file: BinaryIO, start: int, n_frames: int, dataset: Any
) -> list[list[Fragment]]:
    """The fragments of each frame.

    Frames are told apart by the extended or basic offset table, else by one fragment per frame,
    else by the fragments that start an image. A table that does not fit the fragments is refused,
    never repaired.

    Args:
        file: the stream that holds the pixel data.
        start: where the value of the pixel data begins.
        n_frames: as the header says.
        dataset: its header, for the extended offset table.

    Raises:
        ReadError: ``truncated``, ``corrupt_pixels``, ``frames_mismatch``.
    """
    table, fragments = _items(file, start)
    if not fragments:
        raise ReadError("corrupt_pixels", "the pixel data hold no fragment")
    offsets = _extended_offsets(dataset) or table
    if offsets:
        return _by_offsets(fragments, offsets, n_frames)
    firsts = [number for number, one in enumerate(fragments) if _starts(file, one)]
    if len(firsts) > n_frames or len(fragments) < n_frames:
        n = len(firsts) or len(fragments)
        raise ReadError("frames_mismatch", f"{n} frames found, the header says {n_frames}")
    if n_frames == 1:
        return [fragments]
    if len(fragments) == n_frames:
        return [[one] for one in fragments]
    if len(firsts) == n_frames and firsts[0] == 0:
        ends = [*firsts[1:], len(fragments)]
        return [fragments[a:b] for a, b in zip(firsts, ends, strict=True)]
    what = f"{len(fragments)} fragments cannot be divided into {n_frames} frames"
    raise ReadError("frames_mismatch", what)


def read_stream(file: BinaryIO, fragments: list[Fragment]) -> bytes:
    """The compressed stream of one frame."""
    parts = []
    for one in fragments:
        file.seek(one.offset)
        parts.append(file.read(one.length))
    return b"".join(parts)


def _items(file: BinaryIO, start: int) -> tuple[list[int], list[Fragment]]:
    """Basic offset table and fragments, up to the sequence delimiter."""
    file.seek(0, 2)
    end = file.tell()
    file.seek(start)
    items: list[Fragment] = []
    while True:
        head = file.read(8)
        if len(head) < 8:
            raise ReadError("truncated", "the pixel data end before their delimiter")
        if head[:4] == _END:
            break
        if head[:4] != _ITEM:
            raise ReadError("corrupt_pixels", "the pixel data are no sequence of fragments")
        one = Fragment(file.tell(), int.from_bytes(head[4:], "little"))
        if one.offset + one.length > end:
            raise ReadError("truncated", "a fragment runs past the end of the file")
        items.append(one)
        file.seek(one.offset + one.length)
    if not items or items[0].length % 4:
        raise ReadError("corrupt_pixels", "the basic offset table is missing or broken")
    packed = read_stream(file, items[:1])
    table = list(struct.unpack(f"<{len(packed) // 4}L", packed))
    return table, [one for one in items[1:] if one.length]


def _extended_offsets(dataset: Any) -> list[int]:
    packed = dataset.get("ExtendedOffsetTable")
    if not isinstance(packed, bytes):
        return []
    if len(packed) % 8:
        raise ReadError("corrupt_pixels", "the extended offset table is broken")
    return list(struct.unpack(f"<{len(packed) // 8}Q", packed))


def _by_offsets(
    fragments: list[Fragment], offsets: list[int], n_frames: int
) -> list[list[Fragment]]:
    """Offsets count from the first fragment's item tag, 8 bytes before its value."""
    if len(offsets) != n_frames:
        what = f"the offset table lists {len(offsets)} frames, the header says {n_frames}"
        raise ReadError("frames_mismatch", what)
    origin = fragments[0].offset
    numbers = {one.offset - origin: number for number, one in enumerate(fragments)}
    firsts = [numbers.get(offset, -1) for offset in offsets]
    if firsts[0] != 0 or any(b <= a for a, b in pairwise(firsts)):
        raise ReadError("corrupt_pixels", "the offset table does not point at the fragments")
    ends = [*firsts[1:], len(fragments)]
    return [fragments[a:b] for a, b in zip(firsts, ends, strict=True)]


def _starts(file: BinaryIO, fragment: Fragment) -> bool:
    file.seek(fragment.offset)
    return starts_image(file.read(min(_LOOK, fragment.length)))


def unpack_bits(stream: bytes, n_bytes: int) -> bytes:
    """A run-length coded frame of single bits, packed: one segment (PS3.5 G.3).

    Raises:
        ReadError: ``corrupt_pixels`` if it is not of ``n_bytes``.
    """
    if stream[:8] != struct.pack("<2L", 1, _RLE_HEADER_BYTES):
        raise ReadError("corrupt_pixels", "a frame of single bits is not one run-length segment")
    out = bytearray()
    at = _RLE_HEADER_BYTES
    while len(out) < n_bytes and at + 1 < len(stream):
        control = stream[at]
        if control < 128:
            out += stream[at + 1 : at + 2 + control]
            at += 2 + control
        else:
            # 128 is reserved: nothing.
            out += stream[at + 1 : at + 2] * (257 - control if control > 128 else 0)
            at += 2 if control > 128 else 1
    if not n_bytes <= len(out) <= n_bytes + 1:
        raise ReadError("corrupt_pixels", "a run-length frame is not of the header's size")
    return bytes(out[:n_bytes])
