"""A NIfTI file without its free text: a new header with the numbers only, and the same voxels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel as nib
from isal import igzip

from medssl.core.errors import ReadError
from medssl.core.sample import BYTE_CAP
from medssl.readers._inflate import inflate
from medssl.readers._source import open_source

_GZIP = b"\x1f\x8b"
_HEADER_BYTES = 540
_PAIRS = {b"ni1", b"ni2"}
# Text, and numbers that nothing reads today but that may hold anything.
_FREE = (
    *("descrip", "aux_file", "intent_name", "data_type", "db_name", "extents", "session_error"),
    *("regular", "unused_str", "glmax", "glmin"),
)
_NO_EXTENSION = b"\0\0\0\0"


def copy_nifti(path: Path) -> bytes:
    """A single-file .nii.gz with the same voxels, scaling and place.

    Raises:
        ReadError: ``empty_file``, ``not_nifti``, ``truncated``, ``corrupt``, ``too_large``;
            ``not_deidentified:nifti_pair`` for header and voxels in two files.
    """
    header = _header(_content(path, _HEADER_BYTES))
    offset = max(_whole(header["vox_offset"]), int(header.sizeof_hdr) + len(_NO_EXTENSION))
    size = _voxel_bytes(header)
    if offset + size > BYTE_CAP:
        raise ReadError("too_large", f"more than {BYTE_CAP // 2**30} GiB", where=str(path))
    content = _content(path, offset + size)
    if len(content) < offset + size:
        what = f"the file ends after {len(content)} of {offset + size} bytes"
        raise ReadError("truncated", what, where=str(path))
    for field in _FREE:
        if field in header.structarr.dtype.names:
            header[field] = 0 if header[field].dtype.kind in "iu" else b""
    header["vox_offset"] = header.sizeof_hdr + len(_NO_EXTENSION)
    packed: bytes = igzip.compress(header.binaryblock + _NO_EXTENSION + content[offset:], mtime=0)
    return packed


def _header(start: bytes) -> Any:
    magic = start[4:7] if start[4:7] in {b"n+2", b"ni2"} else start[344:347]
    if magic in _PAIRS:
        what = "header and voxels lie in two files"
        raise ReadError("not_deidentified:nifti_pair", what, fix="store it as one .nii.gz")
    kind: Any = nib.Nifti2Header if magic == b"n+2" else nib.Nifti1Header
    size = kind.template_dtype.itemsize
    if not start:
        raise ReadError("empty_file", "the file has zero bytes")
    if magic not in {b"n+1", b"n+2"} or len(start) < size:
        raise ReadError("not_nifti", "the content is not NIfTI")
    return kind(start[:size], check=False)


def _voxel_bytes(header: Any) -> int:
    n_axes = int(header["dim"][0])
    sizes = [int(n) for n in header["dim"][1 : n_axes + 1]]
    if not 1 <= n_axes <= 7 or min(sizes) < 1 or int(header["bitpix"]) < 1:
        raise ReadError("not_nifti", "the header states no size")
    return -(-math.prod(sizes) * int(header["bitpix"]) // 8)


def _whole(number: float) -> int:
    if not math.isfinite(number) or number < 0:
        raise ReadError("not_nifti", "the header does not say where the voxels start")
    return int(number)


def _content(path: Path, wanted: int) -> bytes:
    """At most the first ``wanted`` bytes, inflated."""
    with open_source(path) as file:
        zipped = file.read(2) == _GZIP
        file.seek(0)
        return bytes(inflate(file, wanted, str(path))) if zipped else file.read(wanted)
