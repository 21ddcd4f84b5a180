"""Ultrasound in DICOM: cines as clips and stills as images, cut to what shows tissue.

Where SequenceOfUltrasoundRegions is present, each 2D region is a record with mm spacing; M-mode
and spectral Doppler are records of their own, ``derived``, so that they never mix with 2D. Without
it the whole picture is one record. In 2D records everything outside the sector (banners, scales,
ECG) is 0 in the loaded array; the sector is found from the pixels, see
:mod:`medssl.readers._us_sector`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError
from medssl.core.geometry import Geometry
from medssl.readers import dicom
from medssl.readers._base import DEFAULT_POLICY, FileHeader, Found, Policy, Refused
from medssl.readers._dicom_pixels import Frames, is_trusted, open_frames
from medssl.readers._dicom_plane import (
    base_record,
    channels_first,
    joined,
    object_parts,
    objects_of,
)
from medssl.readers._dicom_values import value_dtype
from medssl.readers._source import size_of
from medssl.readers._us_regions import Region, region_from
from medssl.readers._us_sector import mask_outside, sampled_frames, sector_mask

# ITU-R BT.601, as in YBR_FULL: grey stored as colour comes back unchanged.
_LUMA = np.array([0.299, 0.587, 0.114])

# Sectors of the records read last: random frames of one clip are asked for again and again.
_masks: dict[tuple[Any, ...], npt.NDArray[np.bool_] | None] = {}
_MAX_MASKS = 32

header = dicom.header


def matches(_path: Path, _head: bytes) -> bool:
    """Never: :mod:`medssl.readers.dicom` reads the headers and names this reader in them."""
    return False


def group(
    headers: list[FileHeader], _policy: Policy = DEFAULT_POLICY
) -> tuple[list[Found], list[Refused]]:
    """One record per region of every object."""
    found: list[Found] = []
    refused: list[Refused] = []
    pictures = [one for one in headers if "plane" in one.tags]
    others = [one for one in headers if "plane" not in one.tags and not one.ignored]
    refused += [
        Refused(files=(one.path,), reason="unsupported_2d", message="no ultrasound picture")
        for one in others
    ]
    for one, part in zip(pictures, object_parts(pictures), strict=True):
        bad = one.tags["plane"]["refused"]
        if bad:
            refused.append(Refused(files=(one.path,), reason=bad[0], message=bad[1]))
        else:
            found += _records(one, part)
    return found, refused


def load(found: Found, frames: Sequence[int] | None = None) -> npt.NDArray[Any]:
    """(C, H, W) of an image or (C, T, H, W) of a clip, 0 outside the sector of 2D records.

    Raises:
        ReadError: see :func:`medssl.readers._dicom_pixels.open_frames`.
    """
    path, region = found.files[0], region_from(found.options["region"])
    tags = header(Path(path)).tags
    with open_frames(path, tags, frames) as source:
        picked = range(source.n) if frames is None else frames
        x_CTHW = _decoded(source, list(picked), region, found)
    if region.kind == "2D":
        mask = _mask_of(found, size_of(Path(path)))
        if mask is not None:
            x_CTHW = mask_outside(x_CTHW, mask)
    return x_CTHW[:, 0] if found.geometry.kind == "image" else x_CTHW


def trusted(found: Found) -> bool:
    """Uncompressed pixels are read by numpy alone."""
    return bool(found.options.get("uncompressed"))


def _records(one: FileHeader, part: str) -> list[Found]:
    tags, plane = one.tags, one.tags["plane"]
    regions = [region_from(content) for content in plane["regions"]]
    fields = base_record(one) | {"format": "ultrasound", "dtype": value_dtype(tags)}
    role = fields.pop("role")
    found: list[Found] = []
    for region in regions:
        split = joined(part, f"Region={region.number};Type={region.kind}")
        channels = 3 if plane["colour"] or region.coloured else 1
        record = Found(
            **fields,
            shape=_shape(region, tags["frames"], channels),
            geometry=_geometry(region, tags),
            part=split if len(regions) > 1 else part,
            objects=objects_of(tags, str(region.number)),
            role=role if region.kind == "2D" else "derived",
            flags=_flags(region, plane["flags"]),
            options={
                "region": plane["regions"][len(found)],
                "uncompressed": is_trusted(tags["syntax"]),
                "object": tags["object"],
            },
        )
        found.append(record)
    return found


def _shape(region: Region, n_frames: int, channels: int) -> tuple[int, ...]:
    time = () if n_frames == 1 else (n_frames,)
    return (channels, *time, *region.shape)


def _geometry(region: Region, tags: dict[str, Any]) -> Geometry:
    if tags["frames"] == 1:
        return Geometry(kind="image", spacing_mm=region.spacing_mm)
    times_s = tags["plane"]["times_s"]
    times = tuple(times_s) if times_s else None
    return Geometry(kind="clip", spacing_mm=region.spacing_mm, frame_times_s=times)


def _flags(region: Region, common: list[str]) -> tuple[str, ...]:
    flags = list(common)
    if region.coloured:
        flags.append("colour_doppler")
    if region.kind != "2D":
        flags += [f"region_{region.kind.lower()}", "burned_in_text_possible"]
    return tuple(dict.fromkeys(flags))


def _decoded(source: Frames, picked: list[int], region: Region, found: Found) -> npt.NDArray[Any]:
    channels, dtype = found.shape[0], np.dtype(found.dtype)
    x_CTHW = np.empty((channels, len(picked), *region.shape), dtype=dtype)
    top, bottom, left, right = region.box
    for number, index in enumerate(picked):
        whole = channels_first(source.decode(index))
        x_CHW = whole[:, top:bottom, left:right]
        if x_CHW.shape[1:] != region.shape:
            raise ReadError("changed", "the picture changed its size since the index")
        x_CTHW[:, number] = _to_channels(x_CHW, channels, dtype)
    for top, bottom, left, right in region.blank:
        x_CTHW[..., top:bottom, left:right] = 0
    return x_CTHW


def _to_channels(x_CHW: npt.NDArray[Any], channels: int, dtype: np.dtype[Any]) -> Any:
    if len(x_CHW) == channels:
        return x_CHW
    if channels == 3:
        return np.broadcast_to(x_CHW, (3, *x_CHW.shape[1:]))
    grey = np.tensordot(_LUMA, x_CHW.astype(np.float64), axes=1)
    return np.rint(grey).astype(dtype)[None]


def _mask_of(found: Found, size: int) -> npt.NDArray[np.bool_] | None:
    """The sector of a record, the same whichever of its frames are asked for."""
    path, region = found.files[0], region_from(found.options["region"])
    key = (path, size, str(found.options["object"]), region.box)
    if key not in _masks:
        if len(_masks) >= _MAX_MASKS:
            _masks.clear()
        with open_frames(path, header(Path(path)).tags) as source:
            sampled = _decoded(source, sampled_frames(source.n), region, found)
        _masks[key] = sector_mask(sampled)
    return _masks[key]
