"""NRRD: ``.nrrd``, and ``.nhdr`` with its data file; three axes of space, one other at most.

The format is defined at https://teem.sourceforge.net/nrrd/format.html. Voxels: raw, gzip or bzip2.
Geometry: ``space`` with ``space directions`` and ``space origin``, in mm unless ``space units`` say
otherwise; a space without anatomical axes, or none at all, leaves the geometry unknown: spacings
alone do not say where a voxel lies. An axis of kind ``time`` gives one record per time point, any
other axis becomes channels (``4d_as_channels`` if the header does not call it one).
A data file outside the header's folder is refused: ``unsafe_path``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError
from medssl.readers._affines import checked_affine
from medssl.readers._base import DEFAULT_POLICY, FileHeader, Found, Policy, Refused
from medssl.readers._source import size_of
from medssl.readers._text_header import (
    beside,
    files_of,
    header_of_data,
    one_of,
    plain_lines,
    start_of,
    whole_numbers,
)
from medssl.readers._text_header import numbers as parse_numbers
from medssl.readers._volume import (
    Axis,
    Block,
    Packing,
    load_block,
    records_of,
    volume_header,
)

MAX_HEADER_BYTES = 2**20
ENDING = ".nhdr"
_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int"), "i2"),
    **dict.fromkeys(("int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int"), "u2"),
    **dict.fromkeys(("uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long"), "i8"),
    **dict.fromkeys(("signed long long int", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int"), "u8"),
    **dict.fromkeys(("uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
_PACKINGS: dict[str, Packing] = {
    "raw": "raw",
    **dict.fromkeys(("gzip", "gz"), "gzip"),
    **dict.fromkeys(("bzip2", "bz2"), "bzip2"),
}
# Signs that turn the first two coordinates to RAS.
_SPACES = {
    **dict.fromkeys(("right-anterior-superior", "ras"), (1.0, 1.0)),
    **dict.fromkeys(("left-anterior-superior", "las"), (-1.0, 1.0)),
    **dict.fromkeys(("left-posterior-superior", "lps"), (-1.0, -1.0)),
}
_MM_PER_UNIT = {"": 1.0, "mm": 1.0, "m": 1e3, "cm": 10.0, "um": 1e-3, "µm": 1e-3}
_SPACE_KINDS = {"space", "domain"}
_CHANNEL_KINDS = {"list", "vector", "rgb-color", "rgba-color", "3-color", "4-color", "point"}
_VECTOR = re.compile(r"none|\([^()]*\)", re.IGNORECASE)


def matches(path: Path, head: bytes) -> bool:
    """By magic or by name; data files beside their header too."""
    named = path.name.lower().endswith((".nrrd", ".nhdr"))
    return head[:5] == b"NRRD0" or named or header_of_data(path, ENDING) is not None


def header(path: Path) -> FileHeader:
    """Shape, data type and affine.

    Raises:
        ReadError: ``empty_file``, ``not_nrrd``, ``truncated``, ``extra_bytes``, ``bad_geometry``,
            ``unsupported_dtype``, ``unsupported_dimensions``, ``unsupported_layout``,
            ``too_few_slices``, ``missing_file``, ``unsafe_path``.
    """
    where = str(path)
    described = header_of_data(path, ENDING) or path
    fields, block = _read(described)
    if path not in {described, block.data}:
        return FileHeader(path=where, format="nrrd", tags={}, ignored="binary")
    affine = _affine(fields, block, where)
    flags = []
    if block.extra is not None and block.extra_is == "channels":
        kinds = _kinds(fields, len(block.sizes), where)
        if kinds[block.extra] not in _CHANNEL_KINDS:
            flags.append("4d_as_channels")
    files = files_of(described, block.data, ENDING)
    return volume_header(path, "nrrd", block, affine, flags, files)


def group(
    headers: list[FileHeader], _policy: Policy = DEFAULT_POLICY
) -> tuple[list[Found], list[Refused]]:
    """Each header is one volume or one time series."""
    return records_of(headers), []


def load(found: Found, _frames: Sequence[int] | None = None) -> npt.NDArray[Any]:
    """(C, D, H, W).

    Raises:
        ReadError: ``truncated``, ``extra_bytes``, ``corrupt``, and those of :func:`header`.
        ResourceError: more bytes than the cap.
    """
    path = Path(found.files[0])
    _, block = _read(header_of_data(path, ENDING) or path)
    return load_block(block, found.files[0], found.options.get("time"))


def trusted(found: Found) -> bool:  # noqa: ARG001
    """Voxels are read by numpy and inflated under a cap."""
    return True


def _read(path: Path) -> tuple[dict[str, str], Block]:
    where = str(path)
    fields, header_bytes = _fields(start_of(path, MAX_HEADER_BYTES), where)
    n_axes = whole_numbers(fields.get("dimension", ""), 1, where, _broken)[0]
    sizes = tuple(whole_numbers(fields.get("sizes", ""), n_axes, where, _broken))
    if min(sizes, default=0) < 1:
        raise _broken("a size is not positive", where)
    extra = _extra_axis(fields, n_axes, where)
    data, start_at = _data(fields, path, header_bytes)
    order = one_of(fields.get("endian", ""), {"little": "<", "big": ">", "": "|"})
    kind = one_of(fields.get("type", ""), _TYPES)
    if kind is None:
        raise ReadError("unsupported_dtype", "the voxel type is not read", where=where)
    if order is None or (order == "|" and kind[1] != "1"):
        raise _broken("the byte order is missing", where)
    packing = one_of(fields.get("encoding", ""), _PACKINGS)
    if packing is None:
        raise _layout("voxels are not raw, gzip or bzip2", where)
    kinds = _kinds(fields, n_axes, where)
    timed: Axis = "time" if extra is not None and kinds[extra] == "time" else "channels"
    stored = np.dtype(order.replace("|", "<") + kind)
    block = Block(
        sizes=sizes,
        extra=extra,
        extra_is=timed,
        stored=stored.str,
        scale=None,
        data=data,
        offset=0,
        packing=packing,
        start=start_at,
    )
    return fields, _skipped(block, fields, where)


def _fields(start: bytes, where: str) -> tuple[dict[str, str], int]:
    """Fields by lower-case name, and where the header ends."""
    if start[:7] != b"NRRD000" or not start[7:8].isdigit():
        raise ReadError("not_nrrd", "the content is not NRRD", where=where)
    end = re.search(rb"\r?\n\r?\n", start)
    text = start if end is None else start[: end.start()]
    if end is None and len(start) == MAX_HEADER_BYTES:
        raise _broken("the header has no end", where)
    fields: dict[str, str] = {}
    lines = plain_lines(text)
    if lines is None:
        raise _broken("control characters in the header", where)
    for line in lines[1:]:
        name, colon, value = line.partition(": ")
        if line.startswith("#") or not colon or ":=" in name:
            continue
        key = name.strip().lower().replace("datafile", "data file")
        key = "spacings" if key == "spacing" else key
        if key in fields:
            raise _broken("a field is stated twice", where)
        fields[key] = value.strip()
    return fields, len(start) if end is None else end.end()


def _data(fields: dict[str, str], path: Path, header_bytes: int) -> tuple[Path, int]:
    name = fields.get("data file")
    if name is None:
        return path, header_bytes
    if name.upper().startswith("LIST") or "%" in name or len(name.split("\n")) > 1:
        raise _layout("voxels are spread over several data files", str(path))
    return beside(path, name), 0


def _skipped(block: Block, fields: dict[str, str], where: str) -> Block:
    lines = whole_numbers(fields.get("line skip", fields.get("lineskip", "0")), 1, where, _broken)
    skip = whole_numbers(fields.get("byte skip", fields.get("byteskip", "0")), 1, where, _broken)[0]
    if lines != [0] or skip < -1 or (skip == -1 and block.packing != "raw"):
        raise _layout("voxels do not start where the header ends", where)
    if skip == -1:
        skip = max(size_of(block.data) - block.start - block.n_bytes, 0)
    return Block(**{**block.__dict__, "offset": skip})


def _kinds(fields: dict[str, str], n_axes: int, where: str) -> list[str]:
    kinds = fields.get("kinds", "").lower().split()
    if kinds and len(kinds) != n_axes:
        raise _broken("kinds do not fit the number of axes", where)
    return kinds or [""] * n_axes


def _vectors(fields: dict[str, str], n_axes: int, where: str) -> list[str] | None:
    text = fields.get("space directions")
    if text is None:
        return None
    vectors = _VECTOR.findall(text)
    if len(vectors) != n_axes:
        raise _broken("space directions do not fit the number of axes", where)
    return vectors


def _extra_axis(fields: dict[str, str], n_axes: int, where: str) -> int | None:
    """The one axis of four that is not space."""
    vectors, kinds = _vectors(fields, n_axes, where), _kinds(fields, n_axes, where)
    named = [axis for axis, kind in enumerate(kinds) if kind and kind not in _SPACE_KINDS]
    others = named
    if vectors is not None:
        others = [axis for axis, vector in enumerate(vectors) if vector.lower() == "none"]
        if any(kinds) and named != others:
            raise _broken("kinds and space directions disagree on which axes are space", where)
    if n_axes - len(others) != 3 or len(others) > 1:
        what = f"{n_axes} axes, {len(others)} of them not space; medssl reads 3 of space, 1 other"
        raise ReadError("unsupported_dimensions", what, where=where)
    return others[0] if others else None


def _affine(fields: dict[str, str], block: Block, where: str) -> npt.NDArray[np.float64] | None:
    vectors = _vectors(fields, len(block.sizes), where)
    signs = _SPACES.get(fields.get("space", "").lower())
    if vectors is None or signs is None or "space origin" not in fields:
        return None
    spatial = [one for one in vectors if one.lower() != "none"]
    if len(spatial) != 3:
        raise ReadError("unsupported_dimensions", "not three axes of space", where=where)
    units = [one.strip() for one in re.findall(r'"([^"]*)"', fields.get("space units", ""))]
    scale_mm = _MM_PER_UNIT.get(units[0].lower() if units else "")
    if scale_mm is None or len(set(units)) > 1:
        return None
    columns = [_vector(one, where) for one in spatial]
    origin = np.array(_vector(fields["space origin"], where))
    turn = np.diag([*signs, 1.0]) * scale_mm
    return checked_affine(turn @ np.array(columns).T, turn @ origin, where)


def _vector(text: str, where: str) -> list[float]:
    found = parse_numbers(text.strip("() ").replace(",", " "), 3)
    if found is None:
        raise ReadError("bad_geometry", "a vector of space is not three numbers", where=where)
    return found


def _broken(what: str, where: str) -> ReadError:
    return ReadError("not_nrrd", f"the header is broken: {what}", where=where)


def _layout(what: str, where: str) -> ReadError:
    return ReadError("unsupported_layout", what, where=where)
