"""NIfTI-1 and NIfTI-2, ``.nii`` and ``.nii.gz``.

Geometry: the sform if its code is > 0, else the qform if its code is > 0, else unknown (voxel
sizes alone do not say where a voxel lies). Where both are valid and a corner differs by more than
0.1 mm the record is flagged ``sform_qform_differ``. Metres and micrometres become mm.
A fourth axis becomes channels (C, D, H, W), flagged ``4d_as_channels``.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
import numpy.typing as npt
from isal import isal_zlib
from nibabel.spatialimages import HeaderDataError

from medssl.core.errors import ReadError, ResourceError
from medssl.core.geometry import Geometry, check_affine, grid_distance_mm, to_array_order
from medssl.core.sample import BYTE_CAP
from medssl.readers._base import DEFAULT_POLICY, FileHeader, Found, Policy, Refused
from medssl.readers._source import open_source

FORM_TOLERANCE_MM = 0.1
MIN_SLICES = 3
# Deflate cannot shrink more than this: a header that asks for more lies.
MAX_DEFLATE_RATIO = 1032
_MM_PER_UNIT = {1: 1000.0, 3: 0.001}
_NIFTI2_BYTES = 540
_GZIP_ERROR = cast(type[Exception], isal_zlib.error)


def matches(path: Path, head: bytes) -> bool:
    """By name, or by the magic of an uncompressed file."""
    name = path.name.lower()
    return name.endswith((".nii", ".nii.gz")) or head[344:347] == b"n+1" or head[4:7] == b"n+2"


def header(path: Path) -> FileHeader:
    """Shape, data type, scaling and affine.

    Raises:
        ReadError: ``empty_file``, ``not_nifti``, ``truncated``, ``bad_geometry``,
            ``unsupported_dtype``, ``unsupported_dimensions``, ``too_few_slices``.
    """
    with open_source(path) as file:
        start = file.read(2048)
        size = file.seek(0, io.SEEK_END)
        file.seek(max(size - 4, 0))
        stated = int.from_bytes(file.read(4), "little")
    where = str(path)
    if not start:
        raise ReadError("empty_file", "the file has zero bytes", where=where)
    zipped = start[:2] == b"\x1f\x8b"
    parsed = _parse(_inflate(start, _NIFTI2_BYTES, where) if zipped else start, where)
    tags = _tags(parsed, where)
    wanted = tags["data_offset"] + tags["data_bytes"]
    if zipped:
        _check_zipped(path, size, stated, wanted)
    elif size < wanted:
        raise _truncated(size, wanted, where)
    return FileHeader(path=where, format="nifti", tags=tags)


def group(
    headers: list[FileHeader], _policy: Policy = DEFAULT_POLICY
) -> tuple[list[Found], list[Refused]]:
    """Each file is one volume."""
    return [_found(one) for one in headers], []


def load(found: Found, _frames: Sequence[int] | None = None) -> npt.NDArray[Any]:
    """(C, D, H, W), scl_slope and scl_inter applied once.

    Raises:
        ReadError: ``truncated`` or ``corrupt``.
        ResourceError: more bytes than the cap.
    """
    path = Path(found.files[0])
    data = _content(path)
    zipped = data[:2] == b"\x1f\x8b"
    start = _inflate(data[:2048], _NIFTI2_BYTES, str(path)) if zipped else data[:_NIFTI2_BYTES]
    parsed = _parse(start, str(path))
    tags = _tags(parsed, str(path))
    wanted = tags["data_offset"] + tags["data_bytes"]
    if wanted > BYTE_CAP:
        raise ResourceError(f"the file inflates to {wanted / 2**30:.1f} GiB", where=str(path))
    if zipped:
        data = _inflate(data, wanted, str(path))
    if len(data) < wanted:
        raise _truncated(len(data), wanted, str(path))
    stored = np.frombuffer(
        data, parsed.get_data_dtype(), math.prod(tags["shape_WHDC"]), tags["data_offset"]
    ).reshape(tags["shape_WHDC"], order="F")
    x_CDHW = to_array_order(stored).astype(tags["dtype"])
    if tags["scale"] is not None:
        slope, intercept = tags["scale"]
        x_CDHW *= x_CDHW.dtype.type(slope)
        x_CDHW += x_CDHW.dtype.type(intercept)
    return x_CDHW


def trusted(found: Found) -> bool:  # noqa: ARG001
    """Voxels are read by numpy and inflated under a cap."""
    return True


def _content(path: Path) -> bytes:
    with open_source(path) as file:
        return file.read()


def _parse(start: bytes, where: str) -> Any:
    kind = nib.Nifti2Header if start[4:7] == b"n+2" else nib.Nifti1Header
    size = 540 if kind is nib.Nifti2Header else 348
    magic = start[4:7] if kind is nib.Nifti2Header else start[344:347]
    if len(start) < size or magic not in {b"n+1", b"n+2"}:
        raise ReadError("not_nifti", "the content is not a single-file NIfTI", where=where)
    try:
        return kind(start[:size], check=False)
    except (HeaderDataError, ValueError) as error:
        raise ReadError("not_nifti", f"broken NIfTI header: {error}", where=where) from None


def _tags(parsed: Any, where: str) -> dict[str, Any]:
    shape, data_bytes = _shape_and_bytes(parsed, where)
    stored = parsed.get_data_dtype()
    slope, intercept = float(parsed["scl_slope"]), float(parsed["scl_inter"])
    scaled = math.isfinite(slope) and slope != 0 and (slope, intercept) != (1.0, 0.0)
    if scaled and not math.isfinite(intercept):
        raise ReadError("bad_scaling", "scl_inter is not finite", where=where)
    dtype = np.result_type(np.float32, stored) if scaled else stored.newbyteorder("=")
    affine, flags = _affine(parsed, shape, where)
    return {
        "shape_WHDC": shape,
        "dtype": np.dtype(dtype).name,
        "scale": [slope, intercept] if scaled else None,
        "affine": None if affine is None else affine.ravel().tolist(),
        "flags": [*flags, *(["4d_as_channels"] if shape[3] > 1 else [])],
        "data_offset": _data_offset(parsed, where),
        "data_bytes": data_bytes,
    }


def _shape_and_bytes(parsed: Any, where: str) -> tuple[list[int], int]:
    n_axes = int(parsed["dim"][0])
    if not 1 <= n_axes <= 7 or (parsed["dim"][1 : n_axes + 1] < 1).any():
        raise ReadError("not_nifti", f"dim is {parsed['dim'].tolist()}", where=where)
    dims = [int(n) for n in parsed["dim"][1 : n_axes + 1]]
    dims += [1] * (4 - len(dims))
    if any(n > 1 for n in dims[4:]):
        what = f"{len(dims)} axes; medssl reads 3, or 4 as channels"
        raise ReadError("unsupported_dimensions", what, where=where)
    shape = dims[:4]
    if min(shape[:3]) < MIN_SLICES:
        what = f"shape {shape[:3]}: a volume needs at least {MIN_SLICES} voxels along every axis"
        raise ReadError("too_few_slices", what, where=where)
    try:
        stored = parsed.get_data_dtype()
    except HeaderDataError:
        code = int(parsed["datatype"])
        raise ReadError("unsupported_dtype", f"datatype code {code}", where=where) from None
    if stored.kind not in "iuf" or stored.itemsize > 8:
        what = f"voxels are {stored}; RGB, complex and 128-bit data are not read"
        raise ReadError("unsupported_dtype", what, where=where)
    return shape, math.prod(shape) * int(stored.itemsize)


def _data_offset(parsed: Any, where: str) -> int:
    offset = float(parsed["vox_offset"])
    if not math.isfinite(offset) or offset < 0:
        raise ReadError("not_nifti", f"vox_offset is {offset}", where=where)
    return max(int(offset), int(parsed["sizeof_hdr"]) + 4)


def _affine(
    parsed: Any, shape: list[int], where: str
) -> tuple[npt.NDArray[np.float64] | None, list[str]]:
    """The affine by the rule of the module docstring, and flags."""
    sform = _form(parsed, "sform", where) if parsed["sform_code"] > 0 else None
    if sform is None:
        if parsed["qform_code"] <= 0:
            return None, ["geometry_unknown"]
        return _form(parsed, "qform", where), []
    try:
        qform = _form(parsed, "qform", where) if parsed["qform_code"] > 0 else None
    except ReadError:
        return sform, ["qform_broken"]
    if qform is None:
        return sform, []
    apart_mm = grid_distance_mm(sform, qform, (shape[2], shape[1], shape[0]))
    return sform, ["sform_qform_differ"] if apart_mm > FORM_TOLERANCE_MM else []


def _form(parsed: Any, name: str, where: str) -> npt.NDArray[np.float64]:
    try:
        matrix = parsed.get_sform() if name == "sform" else parsed.get_qform()
    except (HeaderDataError, ValueError, np.linalg.LinAlgError) as error:
        raise ReadError("bad_geometry", f"{name}: {error}", where=where) from None
    scale_mm = _MM_PER_UNIT.get(int(parsed["xyzt_units"]) & 7, 1.0)
    try:
        return check_affine(np.diag([scale_mm, scale_mm, scale_mm, 1.0]) @ matrix)
    except ReadError as error:
        raise ReadError(error.reason, f"{name}: {error.what}", where=where, fix=error.fix) from None


def _found(one: FileHeader) -> Found:
    tags = one.tags
    w, h, d, c = tags["shape_WHDC"]
    affine = tags["affine"]
    if affine is None:
        geometry = Geometry(kind="volume")
    else:
        geometry = Geometry.of_volume(np.reshape(affine, (4, 4)))
    return Found(
        files=(one.path,),
        format="nifti",
        shape=(c, d, h, w),
        dtype=tags["dtype"],
        geometry=geometry,
        series=one.path,
        flags=tuple(tags["flags"]),
    )


def _check_zipped(path: Path, size: int, stated: int, wanted: int) -> None:
    # The last four bytes of a gzip member state its length: a cheap proof that nothing is missing.
    if stated == wanted % 2**32:
        return
    if wanted > size * MAX_DEFLATE_RATIO:
        raise _truncated(size * MAX_DEFLATE_RATIO, wanted, str(path))
    if wanted > BYTE_CAP:
        raise ReadError("too_large", f"inflates to {wanted / 2**30:.1f} GiB", where=str(path))
    inflated = len(_inflate(_content(path), wanted, str(path)))
    if inflated < wanted:
        raise _truncated(inflated, wanted, str(path))


def _inflate(data: bytes, wanted: int, where: str) -> bytes:
    """At most ``wanted`` inflated bytes (all members); fewer if the data end early."""
    parts: list[bytes] = []
    missing = wanted
    while missing > 0 and data:
        stream = isal_zlib.decompressobj(wbits=31)
        try:
            # One byte more than wanted, so that the check sum at the end is read too.
            part = stream.decompress(data, missing + 1)
        except _GZIP_ERROR as error:
            raise ReadError("corrupt", f"gzip stream is damaged: {error}", where=where) from None
        parts.append(part)
        missing -= len(part)
        if not stream.eof:
            break
        data = stream.unused_data
        if not data.startswith(b"\x1f\x8b"):
            break
    return b"".join(parts)[:wanted]


def _truncated(got: int, wanted: int, where: str) -> ReadError:
    what = f"the file ends after {got} of {wanted} bytes"
    return ReadError("truncated", what, where=where, fix="copy the file again from its source")
