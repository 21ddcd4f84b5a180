"""Inflate under caps: never a byte more than the header justifies, never a bomb."""

from __future__ import annotations

import bz2
import io
import lzma
import tempfile
from typing import Any, BinaryIO, Literal, cast

from isal import igzip_lib

from medssl.core.errors import ReadError
from medssl.readers._containers import check_inflation

Method = Literal["gzip", "zlib", "bzip2", "xz"]
_CHUNK = 2**20
_MAGIC: tuple[tuple[bytes, Method], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
)
_PAD = b"\0"
_ISAL_ERROR = cast(type[Exception], igzip_lib.error)
UNPACK_ERRORS = (_ISAL_ERROR, lzma.LZMAError, EOFError, OSError)


def gunzipped(head: bytes, wanted: int) -> bytes:
    """What a gzip file begins with, from its own first bytes; any other head as it is."""
    if not head.startswith(b"\x1f\x8b"):
        return head
    try:
        return bytes(inflate(io.BytesIO(head), wanted, ""))
    except ReadError:
        return head


def inflate(
    source: BinaryIO, wanted: int, where: str, *, skip: int = 0, method: Method = "gzip"
) -> bytearray:
    """``wanted`` bytes after the first ``skip`` of a stream; fewer if it is whole but shorter.

    If the stream goes on, one byte more comes back, to show it.

    Streams one behind the other (gzip members) are one. A check sum that is reached is verified.

    Raises:
        ReadError: ``corrupt``, ``truncated``.
    """
    found = bytearray()
    stream, packed = _decoder(method), source.read(_CHUNK)
    to_skip = skip
    while not stream.eof and (packed or not stream.needs_input):
        # One byte more than wanted, so that the check sum at the end is read too.
        room = min(to_skip, _CHUNK) or min(wanted - len(found) + 1, 64 * _CHUNK)
        try:
            part = stream.decompress(packed, room)
        except UNPACK_ERRORS as error:
            what = f"the {method} stream is damaged ({type(error).__name__})"
            raise ReadError("corrupt", what, where=where) from None
        if to_skip:
            to_skip -= len(part)
        else:
            found += part
        if len(found) > wanted:
            break
        stream, packed = _next(stream, source, method)
    if len(found) <= wanted and not stream.eof:
        raise ReadError("truncated", f"the {method} stream ends early", where=where)
    del found[wanted + 1 :]
    return found


def inflate_tar(packed: BinaryIO, size: int) -> tuple[BinaryIO, int]:
    """The tar inside a compressed tar, in a file without a name, and its size.

    An uncompressed one comes back as it is.

    Raises:
        ReadError: ``archive_bomb``.
        those of :data:`UNPACK_ERRORS`: the stream is damaged or ends early.
    """
    packed.seek(0)
    head = packed.read(8)
    packed.seek(0)
    method = next((name for magic, name in _MAGIC if head.startswith(magic)), None)
    if method is None:
        return packed, size
    target = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - the caller reads it
    stream, chunk = _decoder(method), packed.read(_CHUNK)
    while not stream.eof and (chunk or not stream.needs_input):
        target.write(stream.decompress(chunk, _CHUNK))
        check_inflation(target.tell(), size)
        stream, chunk = _next(stream, packed, method)
    if not stream.eof:
        raise EOFError
    target.flush()
    return target, target.tell()


def _decoder(method: Method) -> Any:
    if method == "bzip2":
        return bz2.BZ2Decompressor()
    if method == "xz":
        return lzma.LZMADecompressor(memlimit=2**30)
    flag = igzip_lib.DECOMP_GZIP if method == "gzip" else igzip_lib.DECOMP_ZLIB
    return igzip_lib.IgzipDecompressor(flag=flag)


def _next(stream: Any, source: BinaryIO, method: Method) -> tuple[Any, bytes]:
    """Decoder and bytes to go on with: those of the stream behind, once this one is at its end."""
    if not stream.eof:
        return stream, source.read(_CHUNK) if stream.needs_input else b""
    packed = (stream.unused_data or source.read(_CHUNK)).lstrip(_PAD)
    return (_decoder(method), packed) if _is_member(packed, method) else (stream, b"")


def _is_member(data: bytes, method: Method) -> bool:
    return any(data.startswith(magic) for magic, name in _MAGIC if name == method)
