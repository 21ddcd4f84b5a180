"""NIfTI-1 and NIfTI-2: ``.nii``, ``.nii.gz``, and pairs of ``.hdr`` and ``.img`` (also ``.gz``).

Geometry: the sform if its code is > 0, else the qform if its code is > 0, else unknown (voxel
sizes alone do not say where a voxel lies). Where both are valid and a corner differs by more than
0.1 mm the record is flagged ``sform_qform_differ``; where the sform's spacing is not ``pixdim``,
``pixdim_differs``. Metres and micrometres become mm. Axes that are not at right angles: see
:mod:`medssl.readers._affines`.

A fourth axis is time, one record per time point (part ``Time=3``), if the header says so twice: a
unit of time, and a step (``pixdim[4]``) > 0 that is not 1, or the intent code of a time series
(2001). ITK and others write a unit of seconds and a step of 1 whatever the axis is, so this alone
says nothing. Everything else becomes channels (C, D, H, W), flagged ``4d_as_channels``; so does any
4D file whose ``dataset.json`` (in its folder or the one above) names several channels.

Analyze 7.5 does not tell left from right: ``unsupported_analyze``.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import HeaderDataError

from medssl.core.errors import ReadError
from medssl.core.geometry import check_affine, grid_distance_mm, spacing_of
from medssl.readers._base import DEFAULT_POLICY, FileHeader, Found, Policy, Refused
from medssl.readers._inflate import gunzipped, inflate
from medssl.readers._nifti_time import fourth_axis
from medssl.readers._source import exists, open_source
from medssl.readers._volume import Block, load_block, records_of, volume_header

FORM_TOLERANCE_MM = 0.1
_FORM_CODES = range(6)
_MM_PER_UNIT = {1: 1000.0, 3: 0.001}
_NIFTI2_BYTES = 540
# Version 2 ends like PNG, so that a transfer as text shows.
_SINGLE = {b"n+1\0", b"n+2\0\r\n\x1a\n"}
_PAIR = {b"ni1\0", b"ni2\0\r\n\x1a\n"}
_PAIR_NAME = re.compile(r"\.(hdr|img)(\.gz)?$", re.IGNORECASE)


def matches(path: Path, head: bytes) -> bool:
    """By name, or by the magic, packed or not; ``.img`` only beside its ``.hdr``."""
    name = path.name.lower()
    head = gunzipped(head, _NIFTI2_BYTES)
    if name.endswith((".nii", ".nii.gz")) or _magic(head) in _SINGLE | _PAIR:
        return True
    if name.endswith((".hdr", ".hdr.gz")):
        return name.endswith("gz") or 348 in _first_number(head)
    return name.endswith((".img", ".img.gz")) and _sibling(path, "hdr") is not None


def header(path: Path) -> FileHeader:
    """Shape, data type, scaling and affine.

    Raises:
        ReadError: ``empty_file``, ``not_nifti``, ``truncated``, ``extra_bytes``, ``bad_geometry``,
            ``bad_scaling``, ``unsupported_dtype``, ``unsupported_dimensions``,
            ``unsupported_analyze``, ``too_few_slices``, ``missing_file``.
    """
    files = _files_of(path)
    parsed, block = _read(files, str(path))
    affine, flags = _affine(parsed, block.shape_WHD, str(path))
    if block.count > 1 and block.extra_is == "channels":
        flags.append("4d_as_channels")
    return volume_header(path, "nifti", block, affine, flags, tuple(map(str, files)))


def group(
    headers: list[FileHeader], _policy: Policy = DEFAULT_POLICY
) -> tuple[list[Found], list[Refused]]:
    """Each file, or pair of files, is one volume or one time series."""
    return records_of(headers), []


def load(found: Found, _frames: Sequence[int] | None = None) -> npt.NDArray[Any]:
    """(C, D, H, W), scl_slope and scl_inter applied once.

    Raises:
        ReadError: ``truncated`` or ``corrupt``, and those of :func:`header`.
        ResourceError: more bytes than the cap.
    """
    _, block = _read(_files_of(Path(found.files[0])), found.files[0])
    return load_block(block, found.files[0], found.options.get("time"))


def trusted(found: Found) -> bool:  # noqa: ARG001
    """Voxels are read by numpy and inflated under a cap."""
    return True


def _files_of(path: Path) -> list[Path]:
    """The file itself, or header and data file of the pair that it belongs to."""
    ending = _PAIR_NAME.search(path.name)
    if ending is None:
        return [path]
    other = _sibling(path, "img" if ending[1].lower() == "hdr" else "hdr")
    if other is None:
        if _magic(_start(path, str(path))[0]) in _SINGLE:
            return [path]
        raise ReadError("missing_file", "one file of the .hdr and .img pair is missing")
    return [path, other] if ending[1].lower() == "hdr" else [other, path]


def _sibling(path: Path, kind: str) -> Path | None:
    ending = _PAIR_NAME.search(path.name)
    stem = path.name if ending is None else path.name[: ending.start()]
    names = [f"{stem}.{k}{z}" for k in (kind, kind.upper()) for z in ("", ".gz", ".GZ")]
    return next((path.parent / name for name in names if exists(path.parent / name)), None)


def _start(path: Path, where: str) -> tuple[bytes, bool]:
    """The first bytes, inflated, and whether they were packed."""
    with open_source(path) as file:
        start = file.read(2048)
    if not start:
        raise ReadError("empty_file", "the file has zero bytes", where=where)
    if start[:2] != b"\x1f\x8b":
        return start, False
    return bytes(inflate(io.BytesIO(start), _NIFTI2_BYTES, where)), True


def _read(files: list[Path], where: str) -> tuple[Any, Block]:
    start, zipped = _start(files[0], where)
    parsed = _parse(start, where, _SINGLE if len(files) == 1 else _PAIR)
    sizes, stored = _sizes(parsed, where), _stored(parsed, where)
    if len(files) == 2:
        zipped = _start(files[1], where)[1]
    block = Block(
        sizes=sizes,
        extra=3 if len(sizes) > 3 else None,
        extra_is=fourth_axis(parsed, files[0]) if len(sizes) > 3 else "channels",
        stored=stored.str,
        scale=_scale(parsed, where),
        data=files[-1],
        offset=_data_offset(parsed, where, single=len(files) == 1),
        packing="gzip" if zipped else "raw",
    )
    return parsed, block


def _magic(start: bytes) -> bytes:
    return start[4:12] if start[4:7] in {b"n+2", b"ni2"} else start[344:348]


def _first_number(start: bytes) -> set[int]:
    return {int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")}


def _parse(start: bytes, where: str, magics: set[bytes]) -> Any:
    two = _magic(start)[2:3] == b"2"
    kind, size = (nib.Nifti2Header, 540) if two else (nib.Nifti1Header, 348)
    if len(start) < size or _magic(start) not in magics:
        if magics is _PAIR and 348 in _first_number(start) and not _magic(start).strip(b"\0"):
            what = "Analyze 7.5 does not tell left from right"
            fix = "convert it to NIfTI with a tool that knows where it comes from"
            raise ReadError("unsupported_analyze", what, where=where, fix=fix)
        raise ReadError("not_nifti", "the content is not NIfTI", where=where)
    try:
        parsed = kind(start[:size], check=False)
    except (HeaderDataError, ValueError):
        raise ReadError("not_nifti", "the NIfTI header is broken", where=where) from None
    if int(parsed["sizeof_hdr"]) != size:
        raise ReadError("not_nifti", "the header states a wrong size of itself", where=where)
    return parsed


def _sizes(parsed: Any, where: str) -> tuple[int, ...]:
    n_axes = int(parsed["dim"][0])
    dims = [int(n) for n in parsed["dim"][1:]]
    if not 1 <= n_axes <= 7 or min(dims[:n_axes]) < 1:
        raise ReadError("not_nifti", f"dim is {[n_axes, *dims]}", where=where)
    if max(dims[n_axes:], default=0) > 1:
        what = f"{n_axes} axes are stated, but more have a length: dim is {[n_axes, *dims]}"
        raise ReadError("not_nifti", what, where=where)
    dims = dims[:n_axes] + [1] * (3 - n_axes)
    if max(dims[4:], default=1) > 1:
        what = f"{n_axes} axes; medssl reads 3, or 4 as channels or time"
        raise ReadError("unsupported_dimensions", what, where=where)
    return tuple(dims[:4] if dims[3:4] > [1] else dims[:3])


def _stored(parsed: Any, where: str) -> np.dtype[Any]:
    try:
        stored: np.dtype[Any] = parsed.get_data_dtype()
    except (HeaderDataError, KeyError):
        code = int(parsed["datatype"])
        raise ReadError("unsupported_dtype", f"datatype code {code}", where=where) from None
    if stored.kind not in "iuf" or stored.itemsize > 8:
        what = f"voxels are {stored}; RGB, complex and 128-bit data are not read"
        raise ReadError("unsupported_dtype", what, where=where)
    if int(parsed["bitpix"]) != stored.itemsize * 8:
        raise ReadError("not_nifti", "bitpix contradicts datatype", where=where)
    return stored


def _scale(parsed: Any, where: str) -> tuple[float, float] | None:
    slope, intercept = float(parsed["scl_slope"]), float(parsed["scl_inter"])
    if not math.isfinite(slope) or slope == 0 or (slope, intercept) == (1.0, 0.0):
        return None
    if not math.isfinite(intercept):
        raise ReadError("bad_scaling", "scl_inter is not finite", where=where)
    return slope, intercept


def _data_offset(parsed: Any, where: str, *, single: bool) -> int:
    offset = float(parsed["vox_offset"])
    first = int(parsed["sizeof_hdr"]) + 4 if single else 0
    if not offset:
        return first
    if not math.isfinite(offset) or offset < first or offset % 1:
        raise ReadError("not_nifti", f"vox_offset is {offset}", where=where)
    return int(offset)


def _affine(
    parsed: Any, shape_WHD: tuple[int, int, int], where: str
) -> tuple[npt.NDArray[np.float64] | None, list[str]]:
    """The affine by the rule of the module docstring, and flags."""
    for name in ("sform_code", "qform_code"):
        if int(parsed[name]) not in _FORM_CODES:
            raise ReadError("bad_geometry", f"{name} is {int(parsed[name])}", where=where)
    sform = _form(parsed, "sform", where) if parsed["sform_code"] > 0 else None
    if sform is None:
        return (_form(parsed, "qform", where) if parsed["qform_code"] > 0 else None), []
    flags = []
    scale_mm = _MM_PER_UNIT.get(int(parsed["xyzt_units"]) & 7, 1.0)
    stated_mm = np.abs(parsed["pixdim"][1:4].astype(float)) * scale_mm
    extent_mm = np.abs(stated_mm - spacing_of(sform)[::-1]) * shape_WHD
    if not extent_mm.max() <= FORM_TOLERANCE_MM:
        flags.append("pixdim_differs")
    if parsed["qform_code"] <= 0:
        return sform, flags
    try:
        qform = _form(parsed, "qform", where)
    except ReadError:
        return sform, [*flags, "qform_broken"]
    if grid_distance_mm(sform, qform, shape_WHD[::-1]) > FORM_TOLERANCE_MM:
        flags.append("sform_qform_differ")
    return sform, flags


def _form(parsed: Any, name: str, where: str) -> npt.NDArray[np.float64]:
    try:
        with np.errstate(all="ignore"):
            matrix = parsed.get_sform() if name == "sform" else parsed.get_qform()
    except (HeaderDataError, ValueError, np.linalg.LinAlgError) as error:
        what = f"{name} is broken ({type(error).__name__})"
        raise ReadError("bad_geometry", what, where=where) from None
    scale_mm = _MM_PER_UNIT.get(int(parsed["xyzt_units"]) & 7, 1.0)
    try:
        return check_affine(np.diag([scale_mm, scale_mm, scale_mm, 1.0]) @ matrix)
    except ReadError as error:
        raise ReadError(error.reason, f"{name}: {error.what}", where=where, fix=error.fix) from None
