"""MetaImage: ``.mha``, and ``.mhd`` with its data file; three axes, a fourth as channels.

The format is defined by MetaIO (https://github.com/Kitware/MetaIO). Voxels: raw or one zlib stream.
Geometry: ``TransformMatrix``, ``Offset`` and ``ElementSpacing``, in LPS mm; if one is missing the
geometry is unknown. ``AnatomicalOrientation`` only names what the matrix says, and is not used.
A fourth axis has no meaning in this format: channels, flagged ``4d_as_channels``.
A data file outside the header's folder is refused: ``unsafe_path``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError
from medssl.readers._affines import checked_affine
from medssl.readers._base import DEFAULT_POLICY, FileHeader, Found, Policy, Refused
from medssl.readers._source import open_source, size_of
from medssl.readers._text_header import (
    beside,
    files_of,
    header_of_data,
    numbers,
    one_of,
    plain_lines,
    start_of,
    whole_numbers,
)
from medssl.readers._volume import (
    Block,
    Packing,
    load_block,
    records_of,
    volume_header,
)

MAX_HEADER_BYTES = 2**18
ENDING = ".mhd"
# MET_LONG is 4 or 8 bytes, by platform: not guessed.
_TYPES = {
    "met_char": "i1",
    "met_uchar": "u1",
    "met_short": "i2",
    "met_ushort": "u2",
    "met_int": "i4",
    "met_uint": "u4",
    "met_long_long": "i8",
    "met_ulong_long": "u8",
    "met_float": "f4",
    "met_double": "f8",
}
_SYNONYMS = {
    "Origin": "Offset",
    "Position": "Offset",
    "Rotation": "TransformMatrix",
    "Orientation": "TransformMatrix",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}
_BOOLEAN = {"true": True, "1": True, "false": False, "0": False}


def matches(path: Path, head: bytes) -> bool:
    """By the first key of the header, or by name; data files beside their header too."""
    named = path.name.lower().endswith((".mha", ".mhd"))
    stated = head.startswith(b"ObjectType = ")
    return named or stated or header_of_data(path, ENDING) is not None


def header(path: Path) -> FileHeader:
    """Shape, data type and affine.

    Raises:
        ReadError: ``empty_file``, ``not_mha``, ``truncated``, ``extra_bytes``, ``bad_geometry``,
            ``unsupported_dtype``, ``unsupported_dimensions``, ``unsupported_layout``,
            ``too_few_slices``, ``missing_file``, ``unsafe_path``.
    """
    where = str(path)
    described = header_of_data(path, ENDING) or path
    fields, block = _read(described)
    if path not in {described, block.data}:
        return FileHeader(path=where, format="mha", tags={}, ignored="binary")
    flags = ["4d_as_channels"] if block.extra == 3 and block.count > 1 else []
    files = files_of(described, block.data, ENDING)
    affine = _affine(fields, int(fields["NDims"]), where)
    return volume_header(path, "mha", block, affine, flags, files)


def group(
    headers: list[FileHeader], _policy: Policy = DEFAULT_POLICY
) -> tuple[list[Found], list[Refused]]:
    """Each header is one volume."""
    return records_of(headers), []


def load(found: Found, _frames: Sequence[int] | None = None) -> npt.NDArray[Any]:
    """(C, D, H, W).

    Raises:
        ReadError: ``truncated``, ``extra_bytes``, ``corrupt``, and those of :func:`header`.
        ResourceError: more bytes than the cap.
    """
    path = Path(found.files[0])
    _, block = _read(header_of_data(path, ENDING) or path)
    return load_block(block, found.files[0])


def trusted(found: Found) -> bool:  # noqa: ARG001
    """Voxels are read by numpy and inflated under a cap."""
    return True


def _read(path: Path) -> tuple[dict[str, str], Block]:
    where = str(path)
    fields, header_bytes = _fields(start_of(path, MAX_HEADER_BYTES), where)
    n_axes = whole_numbers(fields.get("NDims", ""), 1, where, _broken)[0]
    if n_axes not in {3, 4}:
        raise ReadError("unsupported_dimensions", f"{n_axes} axes", where=where)
    sizes = tuple(whole_numbers(fields.get("DimSize", ""), n_axes, where, _broken))
    channels = whole_numbers(fields.get("ElementNumberOfChannels", "1"), 1, where, _broken)[0]
    if min(*sizes, channels) < 1:
        raise _broken("a size is not positive", where)
    extra = 3 if n_axes == 4 else None
    if channels > 1:
        if extra is not None:
            raise ReadError("unsupported_dimensions", "4 axes and channels", where=where)
        sizes, extra = (channels, *sizes), 0
    data, start_at = _data(fields, path, header_bytes)
    block = Block(
        sizes=sizes,
        extra=extra,
        extra_is="channels",
        stored=_stored(fields, where),
        scale=None,
        data=data,
        offset=0,
        packing=_packing(fields, data, start_at, where),
        start=start_at,
    )
    return fields, _skipped(block, fields, where)


def _fields(start: bytes, where: str) -> tuple[dict[str, str], int]:
    """Fields by name, and where the header ends: behind ``ElementDataFile``."""
    fields: dict[str, str] = {}
    at = 0
    while (end := start.find(b"\n", at)) >= 0:
        lines = plain_lines(start[at:end])
        if lines is None:
            break
        name, equals, value = lines[0].partition("=")
        key = _SYNONYMS.get(name.strip(), name.strip())
        if not equals or not key.isalnum():
            break
        if key in fields:
            raise _broken("a field is stated twice", where)
        fields[key] = value.strip()
        at = end + 1
        if key == "ElementDataFile":
            _check_kind(fields, where)
            return fields, at
    raise ReadError("not_mha", "the content is not a MetaImage", where=where)


def _check_kind(fields: dict[str, str], where: str) -> None:
    if fields.get("ObjectType", "image").lower() != "image":
        raise ReadError("not_mha", "the MetaObject is no image", where=where)
    if one_of(fields.get("BinaryData", "true"), _BOOLEAN) is not True:
        raise _layout("voxels are written as text", where)
    for name, neutral in (("Slope", 1.0), ("Offset", 0.0)):
        value = fields.get(f"ElementToIntensityFunction{name}")
        if value is not None and numbers(value, 1) != [neutral]:
            raise ReadError("bad_scaling", "readers disagree on this kind of scaling", where=where)


def _data(fields: dict[str, str], path: Path, header_bytes: int) -> tuple[Path, int]:
    name = fields["ElementDataFile"]
    if name.upper() == "LOCAL":
        return path, header_bytes
    if name.upper().startswith("LIST") or "%" in name or " " in name:
        raise _layout("voxels are spread over several data files", str(path))
    return beside(path, name), 0


def _stored(fields: dict[str, str], where: str) -> str:
    kind = one_of(fields.get("ElementType", "").removesuffix("_ARRAY"), _TYPES)
    if kind is None:
        raise ReadError("unsupported_dtype", "the voxel type is not read", where=where)
    big = one_of(fields.get("BinaryDataByteOrderMSB", "false"), _BOOLEAN)
    if big is None:
        raise _broken("the byte order is no truth value", where)
    return np.dtype((">" if big else "<") + kind).str


def _packing(fields: dict[str, str], data: Path, start: int, where: str) -> Packing:
    packed = one_of(fields.get("CompressedData", "false"), _BOOLEAN)
    if packed is None:
        raise _broken("CompressedData is no truth value", where)
    if not packed:
        return "raw"
    with open_source(data) as file:
        file.seek(start)
        return "gzip" if file.read(2) == b"\x1f\x8b" else "zlib"


def _skipped(block: Block, fields: dict[str, str], where: str) -> Block:
    """Apply ``HeaderSize`` and compare ``CompressedDataSize`` with the file."""
    there = size_of(block.data) - block.start
    skip = whole_numbers(fields.get("HeaderSize", "0"), 1, where, _broken)[0]
    if skip < -1 or (skip and block.packing != "raw"):
        raise _layout("voxels do not start where the header ends", where)
    if skip == -1:
        skip = max(there - block.n_bytes, 0)
    if block.packing != "raw" and "CompressedDataSize" in fields:
        stated = whole_numbers(fields["CompressedDataSize"], 1, where, _broken)[0]
        if stated > there:
            what = f"{there} packed bytes, the header says {stated}"
            raise ReadError("truncated", what, where=where)
        if 0 < stated < there:
            raise ReadError("extra_bytes", "more packed bytes than stated", where=where)
    return Block(**{**block.__dict__, "offset": skip})


def _affine(fields: dict[str, str], n_axes: int, where: str) -> npt.NDArray[np.float64] | None:
    wanted = {"TransformMatrix": n_axes**2, "Offset": n_axes, "ElementSpacing": n_axes}
    if not wanted.keys() <= fields.keys():
        return None
    found = {key: numbers(fields[key], count) for key, count in wanted.items()}
    matrix, offset, spacing = found["TransformMatrix"], found["Offset"], found["ElementSpacing"]
    if matrix is None or offset is None or spacing is None or min(spacing) <= 0:
        raise ReadError("bad_geometry", "matrix, offset or spacing are no numbers", where=where)
    rows = np.reshape(matrix, (n_axes, n_axes))  # row i is the direction of voxel axis i
    if n_axes == 4 and (rows[3, :3].any() or rows[:3, 3].any()):
        raise ReadError("bad_geometry", "the fourth axis is mixed with space", where=where)
    columns = rows[:3, :3].T * spacing[:3]
    return checked_affine(columns, offset[:3], where, lps=True)


def _broken(what: str, where: str) -> ReadError:
    return ReadError("not_mha", f"the header is broken: {what}", where=where)


def _layout(what: str, where: str) -> ReadError:
    return ReadError("unsupported_layout", what, where=where)
