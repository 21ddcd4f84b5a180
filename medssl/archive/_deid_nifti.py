"""A NIfTI file without its free text: a new header with the numbers only, and the same voxels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
from isal import igzip

from medssl.core.errors import ReadError
from medssl.core.sample import BYTE_CAP
from medssl.readers._dispatch import read_header
from medssl.readers._inflate import inflate
from medssl.readers._source import open_source

_GZIP = b"\x1f\x8b"
# Text, and numbers that nothing reads today but that may hold anything.
_FREE = (
    *("descrip", "aux_file", "intent_name", "data_type", "db_name", "extents", "session_error"),
    *("regular", "unused_str", "glmax", "glmin"),
)
_NO_EXTENSION = b"\0\0\0\0"


def copy_nifti(path: Path) -> bytes:
    """A single-file .nii.gz with the same voxels, scaling and place.

    Raises:
        ReadError: what the reader refuses.
    """
    tags = read_header(path).tags
    offset, data_bytes = int(tags["data_offset"]), int(tags["data_bytes"])
    if offset + data_bytes > BYTE_CAP:
        raise ReadError("too_large", f"more than {BYTE_CAP // 2**30} GiB", where=str(path))
    content = _content(path, offset + data_bytes)
    second = content[4:7] == b"n+2"
    kind: Any = nib.Nifti2Header if second else nib.Nifti1Header
    header = kind(content[: 540 if second else 348], check=False)
    for field in _FREE:
        if field in header.structarr.dtype.names:
            header[field] = 0 if header[field].dtype.kind in "iu" else b""
    header["vox_offset"] = header.sizeof_hdr + len(_NO_EXTENSION)
    voxels = content[offset : offset + data_bytes]
    packed: bytes = igzip.compress(header.binaryblock + _NO_EXTENSION + voxels, mtime=0)
    return packed


def _content(path: Path, wanted: int) -> bytes:
    with open_source(path) as file:
        zipped = file.read(2) == _GZIP
        file.seek(0)
        return bytes(inflate(file, wanted, str(path))) if zipped else file.read(wanted)
