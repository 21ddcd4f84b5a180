"""The one way to open a DICOM file: header first, and where its pixels lie.

Deflated data sets are inflated only as far as their header justifies, so that a small file cannot
unpack to a huge one.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom import config
from pydicom.dataset import FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.tag import Tag
from pydicom.uid import UID

from medssl.core.errors import ReadError
from medssl.readers._source import open_source, size_of

DEFLATED = "1.2.840.10008.1.2.1.99"
# What pydicom raises on broken headers.
PARSE_ERRORS: tuple[type[Exception], ...] = (EOFError, struct.error, ValueError, LookupError)
PARSE_ERRORS += (AttributeError, TypeError, RuntimeError, OverflowError, BytesLengthException)
_HEADER_ERRORS: tuple[type[Exception], ...] = (*PARSE_ERRORS, OSError)

_PIXEL_KEYWORDS = {
    (0x7FE0, 0x0010): "PixelData",
    (0x7FE0, 0x0008): "FloatPixelData",
    (0x7FE0, 0x0009): "DoubleFloatPixelData",
}
_UNDEFINED = 0xFFFFFFFF
_FIRST_ELEMENTS = {0x00, 0x01, 0x05, 0x08, 0x16}
_META_VRS = {b"UL", b"OB", b"UI"}
_META_BYTES = 2**16
# A header that inflates to more than this is no header.
_HEADER_CAP = 64 * 2**20
# Beside the pixels: the header and what may follow them.
_SLACK = 2**20


@dataclass(frozen=True)
class PixelElement:
    """Where the pixel data lie in :attr:`Opened.file`."""

    keyword: str
    vr: str
    offset: int
    length: int | None
    """Bytes of the value; ``None`` = undefined, a sequence of fragments."""


@dataclass(frozen=True)
class Opened:
    """A parsed header, and the stream that its pixels can be read from."""

    dataset: Any
    """pydicom data set up to the pixel data, with ``file_meta``."""
    file: BinaryIO
    size: int
    """Bytes of the stream: of the file, or of what was inflated."""
    pixels: PixelElement | None
    """``None`` = there are none."""


@contextmanager
def opened(path: str | Path, pixel_bytes: int | None = None) -> Iterator[Opened]:
    """Parse the header of a file and keep the file open.

    Args:
        path: Part 10 file, or a bare data set.
        pixel_bytes: a deflated file is inflated as far as this many bytes of pixels need;
            ``None`` = only its header will be used.

    Raises:
        ReadError: ``empty_file``, ``not_dicom``, ``broken_header``; ``too_large`` for a deflated
            file that inflates to more than its header says.
        OSError: as ``open`` does.
    """
    where = str(path)
    if size_of(Path(path)) == 0:
        raise ReadError("empty_file", "the file has zero bytes", where=where)
    with (
        open_source(Path(path)) as file,
        warnings.catch_warnings(),
        config.disable_value_validation(),
    ):
        warnings.simplefilter("ignore")
        try:
            yield _parsed(file, size_of(Path(path)), pixel_bytes)
        except InvalidDicomError:
            raise ReadError("not_dicom", "the content is not DICOM", where=where) from None
        except zlib.error:
            raise ReadError("corrupt", "the deflated content is damaged", where=where) from None
        except ReadError as error:
            raise ReadError(error.reason, error.what, where=where, fix=error.fix) from None


@contextmanager
def parsing(where: str = "") -> Iterator[None]:
    """Turn what pydicom raises on a broken header into a refusal.

    Put it around pydicom's own work only: what our rules raise is a mistake of ours.

    Raises:
        ReadError: ``broken_header``, ``nesting_too_deep``.
        OSError: the system's.
    """
    try:
        yield
    except RecursionError:
        what = "sequences are nested deeper than any scanner nests them"
        raise ReadError("nesting_too_deep", what, where=where) from None
    except _HEADER_ERRORS as error:
        # pydicom raises OSError too where a sequence ends early; the system's has a number.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        what = f"the DICOM header is broken ({type(error).__name__})"
        raise ReadError("broken_header", what, where=where) from None


def is_bare(head: bytes) -> bool:
    """Whether a data set without preamble starts here.

    That is group 8, element 0, 1, 5, 8 or 16 in either byte order, or file meta information.
    """
    if head[:2] == b"\x02\x00":
        return head[2:4] in {b"\0\0", b"\1\0", b"\x10\0"} and head[4:6] in _META_VRS
    if head[:2] == b"\0\x08":
        return head[2] == 0 and head[3] in _FIRST_ELEMENTS and head[4:6].isupper()
    return head[:2] == b"\x08\x00" and head[3:4] == b"\0" and head[2] in _FIRST_ELEMENTS


def _parsed(file: BinaryIO, size: int, pixel_bytes: int | None) -> Opened:
    head = file.read(_META_BYTES)
    deflated = _deflated_from(head)
    with parsing():
        if deflated is None:
            file.seek(0)
            force = head[128:132] != b"DICM" and is_bare(head)
            dataset: Any = pydicom.dcmread(file, stop_before_pixels=True, force=force)
        else:
            meta_end, stored_class = deflated
            file.seek(meta_end)
            cap = _HEADER_CAP if pixel_bytes is None else _HEADER_CAP + pixel_bytes
            file, size = _inflate(file, cap, whole=pixel_bytes is not None)
            dataset = read_dataset(file, False, True, stop_when=_at_pixels)
            dataset.file_meta = FileMetaDataset()
            dataset.file_meta.TransferSyntaxUID = UID(DEFLATED)
            dataset.file_meta.MediaStorageSOPClassUID = UID(stored_class)
    return Opened(dataset, file, size, _pixel_element(file, dataset))


def _deflated_from(head: bytes) -> tuple[int, str] | None:
    """Where the deflated data set starts, and its media storage class; ``None`` if not deflated."""
    if head[128:132] != b"DICM":
        return None
    at, uids = 132, {b"\x02\x00": "", b"\x10\x00": ""}
    while head[at : at + 2] == b"\x02\x00" and at + 12 <= len(head):
        element, vr = head[at + 2 : at + 4], head[at + 4 : at + 6]
        if vr in {b"OB", b"UN"}:
            value = at + 12
            length = int.from_bytes(head[at + 8 : value], "little")
        else:
            value = at + 8
            length = int.from_bytes(head[at + 6 : value], "little")
        if element in uids:
            uids[element] = head[value : value + length].strip(b"\0 ").decode("ascii", "replace")
        at = value + length
    return (at, uids[b"\x02\x00"]) if uids[b"\x10\x00"] == DEFLATED else None


def _inflate(file: BinaryIO, cap: int, *, whole: bool) -> tuple[io.BytesIO, int]:
    """The rest of the file, inflated to at most ``cap`` bytes."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    out = io.BytesIO()
    packed = file.read(_SLACK)
    while packed and not inflater.eof and out.tell() < cap:
        out.write(inflater.decompress(packed, cap - out.tell()))
        packed = inflater.unconsumed_tail or file.read(_SLACK)
    size = out.tell()
    if whole and not inflater.eof:
        if size < cap:
            raise ReadError("truncated", "the deflated content ends early")
        raise ReadError("too_large", "the content inflates to more than the header says")
    out.seek(0)
    return out, size


def _at_pixels(tag: Any, _vr: str | None, _length: int) -> bool:
    tag = Tag(tag)
    return (tag.group, tag.element) in _PIXEL_KEYWORDS


def _pixel_element(file: BinaryIO, dataset: Any) -> PixelElement | None:
    """The element at which parsing stopped."""
    _, little = dataset.original_encoding
    order = "<" if little is not False else ">"
    head = file.read(8)
    if len(head) < 8:
        return None
    keyword = _PIXEL_KEYWORDS.get(struct.unpack(order + "HH", head[:4]))
    if keyword is None:
        return None
    # Some writers change to implicit value representations in the middle of a file.
    if not head[4:6].isalpha() or not head[4:6].isupper():
        vr, (length,) = "OW", struct.unpack(order + "L", head[4:])
    else:
        vr = head[4:6].decode("ascii", "replace")
        long = file.read(4)
        if len(long) < 4:
            return None
        (length,) = struct.unpack(order + "L", long)
    return PixelElement(keyword, vr, file.tell(), None if length == _UNDEFINED else length)
