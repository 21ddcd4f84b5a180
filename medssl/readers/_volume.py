"""What NIfTI, NRRD and MetaImage share: voxels of one block of bytes on one affine grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError, ResourceError
from medssl.core.geometry import Geometry, to_array_order
from medssl.core.sample import BYTE_CAP
from medssl.readers._affines import settle
from medssl.readers._base import FileHeader, Found
from medssl.readers._inflate import inflate
from medssl.readers._source import open_source, size_of

MIN_SLICES = 3
# Deflate cannot shrink more than this: a header that asks for more lies.
MAX_DEFLATE_RATIO = 1032
MAX_VOLUMES = 100_000
# Inflated at index time only to prove that nothing is missing.
_CHECKED_BYTES = 2**31
Packing = Literal["raw", "gzip", "zlib", "bzip2"]
Axis = Literal["channels", "time"]


@dataclass(frozen=True, kw_only=True)
class Block:
    """Where the voxels lie and what they are.

    Attributes:
        sizes: voxels along every stored axis, fastest first; three or four.
        extra: number of the axis that is not space (0 = fastest, 3 = slowest); ``None`` for 3D.
        stored: numpy type with byte order, e.g. ``>i2``.
        scale: slope and intercept; ``None`` = as stored.
        data: the file that holds the voxels, ``offset`` bytes from ``start`` (once inflated).
    """

    sizes: tuple[int, ...]
    extra: int | None
    extra_is: Axis
    stored: str
    scale: tuple[float, float] | None
    data: Path
    offset: int
    packing: Packing
    start: int = 0
    """Where in ``data`` the packed stream begins."""

    @property
    def shape_WHD(self) -> tuple[int, int, int]:
        w, h, d = (n for axis, n in enumerate(self.sizes) if axis != self.extra)
        return w, h, d

    @property
    def count(self) -> int:
        """Channels or time points."""
        return 1 if self.extra is None else self.sizes[self.extra]

    @property
    def n_bytes(self) -> int:
        return math.prod(self.sizes) * np.dtype(self.stored).itemsize

    @property
    def dtype(self) -> str:
        """Of the voxels once scaled."""
        stored = np.dtype(self.stored)
        scaled = stored.newbyteorder("=") if self.scale is None else np.result_type("f4", stored)
        return np.dtype(scaled).name


def volume_header(
    path: Path,
    reader: str,
    block: Block,
    affine: npt.NDArray[np.float64] | None,
    flags: Sequence[str],
    files: tuple[str, ...],
) -> FileHeader:
    """The header of a volume whose block and affine hold together.

    Args:
        path: the file that was asked for.
        reader: its name.
        block: the voxels.
        affine: voxel to RAS+ mm; ``None`` = unknown.
        flags: what else the record has to say.
        files: header file, then data file if that is another one.

    Raises:
        ReadError: ``too_few_slices``, ``bad_scaling``, ``truncated``, ``extra_bytes``.
    """
    where = str(path)
    _check_block(block, where)
    check_length(block, where)
    settled, more = settle(affine, block.shape_WHD)
    tags = {
        "shape_DHW": block.shape_WHD[::-1],
        "count": block.count,
        "extra_is": block.extra_is,
        "dtype": block.dtype,
        "affine": None if settled is None else settled.ravel().tolist(),
        "flags": [*flags, *more],
        "files": list(files),
    }
    return FileHeader(path=where, format=reader, tags=tags, key=files[0])


def records_of(headers: Sequence[FileHeader]) -> list[Found]:
    """Records of headers: files that share one (a pair, detached voxels) are one record.

    A record names only files whose header is here, so that every file has one outcome.
    """
    present = {one.path for one in headers}
    alone = {tuple(one.tags["files"]): one for one in headers}
    return [
        replace(record, files=tuple(file for file in record.files if file in present))
        for one in alone.values()
        for record in _found_of(one)
    ]


def _found_of(one: FileHeader) -> list[Found]:
    """One record, or one per time point."""
    tags = one.tags
    affine = tags["affine"]
    if affine is None:
        geometry = Geometry(kind="volume")
    else:
        geometry = Geometry.of_volume(np.reshape(affine, (4, 4)))
    several = tags["extra_is"] == "time" and tags["count"] > 1
    return [
        Found(
            files=tuple(tags["files"]),
            format=one.format,
            shape=(1 if several else tags["count"], *tags["shape_DHW"]),
            dtype=tags["dtype"],
            geometry=geometry,
            part=f"Time={number}" if several else "",
            series=tags["files"][0],
            flags=tuple(tags["flags"]),
            options={"time": number} if several else {},
        )
        for number in range(tags["count"] if several else 1)
    ]


def load_block(block: Block, where: str, time: int | None = None) -> npt.NDArray[Any]:
    """(C, D, H, W), scaled once; of a time series the time point asked for, (1, D, H, W).

    Raises:
        ReadError: ``truncated``, ``extra_bytes``, ``corrupt``, ``changed``.
        ResourceError: more bytes than the cap.
    """
    if time is not None and time >= block.count:
        raise ReadError("changed", "the file holds fewer time points than indexed", where=where)
    alone = time is not None and block.extra == len(block.sizes) - 1
    sizes = (*block.sizes[:-1], 1) if alone else block.sizes
    wanted = math.prod(sizes) * np.dtype(block.stored).itemsize
    if wanted > BYTE_CAP:
        raise ResourceError(f"the voxels take {wanted / 2**30:.1f} GiB", where=where)
    skip = block.offset + (wanted * (time or 0) if alone else 0)
    content = _content(block, skip, wanted, where)
    if len(content) < wanted:
        raise truncated(len(content), wanted, where)
    if len(content) > wanted and not alone:
        raise extra_bytes(where)
    stored = np.frombuffer(content, block.stored, math.prod(sizes)).reshape(sizes, order="F")
    x_CDHW = _channel_first(stored, block)
    if time is not None and not alone:
        x_CDHW = x_CDHW[time : time + 1]
    x_CDHW = x_CDHW.astype(block.dtype)
    if block.scale is not None:
        x_CDHW *= x_CDHW.dtype.type(block.scale[0])
        x_CDHW += x_CDHW.dtype.type(block.scale[1])
    return x_CDHW


def check_length(block: Block, where: str) -> None:
    """Compare the block with the bytes that are there, as far as that needs no inflating.

    Raises:
        ReadError: ``truncated``, ``extra_bytes``, ``corrupt``.
    """
    size, wanted = size_of(block.data) - block.start, block.offset + block.n_bytes
    if block.packing == "raw":
        if size < wanted:
            raise truncated(size, wanted, where)
        if size > wanted:
            raise extra_bytes(where)
    elif block.packing != "bzip2" and wanted > size * MAX_DEFLATE_RATIO:
        raise truncated(max(size, 0) * MAX_DEFLATE_RATIO, wanted, where)
    elif block.packing == "gzip":
        _check_gzip(block, size, wanted, where)


def truncated(got: int, wanted: int, where: str) -> ReadError:
    """The error for a file that ends early."""
    what = f"the file ends after {got} of {wanted} bytes"
    return ReadError("truncated", what, where=where, fix="copy the file again from its source")


def extra_bytes(where: str) -> ReadError:
    """The error for a file that holds more than its header says."""
    what = "the file holds more voxels than its header says: one of the two is wrong"
    return ReadError("extra_bytes", what, where=where)


def _check_gzip(block: Block, size: int, wanted: int, where: str) -> None:
    with open_source(block.data) as file:
        # The last four bytes of a gzip member state its length: a cheap proof that all is there.
        file.seek(block.start + max(size - 4, 0))
        if int.from_bytes(file.read(4), "little") == wanted % 2**32:
            return
        if wanted > _CHECKED_BYTES:
            return  # loading will tell
        # Several members, zero padding, or damage: only inflating tells.
        file.seek(block.start)
        rest = inflate(file, 1, where, skip=wanted - 1)
    if len(rest) < 1:
        raise truncated(wanted - 1, wanted, where)
    if len(rest) > 1:
        raise extra_bytes(where)


def _content(block: Block, skip: int, wanted: int, where: str) -> bytes | bytearray:
    with open_source(block.data) as file:
        if block.packing == "raw":
            file.seek(block.start + skip)
            return file.read(wanted)
        file.seek(block.start)
        return inflate(file, wanted, where, skip=skip, method=block.packing)


def _channel_first(stored: npt.NDArray[Any], block: Block) -> npt.NDArray[Any]:
    x = to_array_order(stored)
    if block.extra is None:
        return x[None]
    return np.moveaxis(x, len(block.sizes) - 1 - block.extra, 0)


def _check_block(block: Block, where: str) -> None:
    if min(block.shape_WHD) < MIN_SLICES:
        what = f"shape {block.shape_WHD}: a volume needs {MIN_SLICES} voxels or more along an axis"
        raise ReadError("too_few_slices", what, where=where)
    if block.count > MAX_VOLUMES:
        what = f"{block.count} channels or time points"
        raise ReadError("unsupported_dimensions", what, where=where)
    if block.scale is None:
        return
    slope, intercept = map(abs, block.scale)
    stored = np.dtype(block.stored)
    largest = float(np.iinfo(stored).max) if stored.kind in "iu" else 1.0
    if not slope * largest + intercept < np.finfo(np.float32).max:
        raise ReadError("bad_scaling", "slope and intercept leave the range", where=where)
