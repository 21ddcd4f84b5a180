"""DICOM volumes: from the headers of a series to records, and from a record to voxels."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError
from medssl.core.geometry import Geometry
from medssl.core.sample import BYTE_CAP
from medssl.readers._base import FileHeader, Found, Policy, Refused
from medssl.readers._dicom_copies import drop_copies
from medssl.readers._dicom_mosaic import tile
from medssl.readers._dicom_pixels import Frames, is_trusted, open_frames
from medssl.readers._dicom_resample import fill_gaps, make_upright
from medssl.readers._dicom_slices import Slice, Slices, digest_of, slices_of
from medssl.readers._dicom_split import Part, divide
from medssl.readers._dicom_stack import Stack, build_stacks
from medssl.readers._dicom_tags import is_lossy
from medssl.readers._dicom_values import value_dtype

_OF_A_VOLUME = {
    "patient": "patients",
    "modality": "modalities",
    "units": "units",
    "photometric": "photometric interpretations",
    "frame_of_reference": "frames of reference",
}
ReadTags = Callable[[Path], FileHeader]


def group_series(headers: list[FileHeader], policy: Policy) -> tuple[list[Found], list[Refused]]:
    """Volumes of one series; every file ends in one of the two lists."""
    kept, refused = drop_copies(headers)
    found: list[Found] = []
    for part in divide([one for header in kept for one in slices_of(header)]):
        try:
            good, left = _records(part, policy)
        except ReadError as error:
            refused.append(_refused(part.slices, error.reason, error.what))
            continue
        found += good
        if left:
            refused.append(_refused(left, "gap", f"{len(left)} slices stand alone beside a gap"))
    return found, refused


def _records(part: Part, policy: Policy) -> tuple[list[Found], Slices]:
    stacks, left = build_stacks(part.slices, policy)
    _check_series(part.slices)
    found = []
    for number, stack in enumerate(stacks, 1):
        name = {**part.name, **({"Stack": str(number)} if len(stacks) > 1 or left else {})}
        one = _found(stack, Part(name, stack.slices, part.flags))
        size = math.prod(one.shape) * np.dtype(one.dtype).itemsize
        if size > BYTE_CAP:
            what = f"the pixels take {size / 2**30:.1f} GiB, cap {BYTE_CAP / 2**30:.0f} GiB"
            raise ReadError("too_large", what)
        found.append(one)
    return found, left


def _check_series(slices: Slices) -> None:
    """Refuse slices that contradict each other on what holds for a whole volume."""
    for tag, word in _OF_A_VOLUME.items():
        n = len({one.tags[tag] for one in slices})
        if n > 1:
            what = f"the slices of one volume name {n} {word}"
            raise ReadError("header_contradiction", what)


def load_volume(found: Found, read: ReadTags) -> npt.NDArray[Any]:
    """(1, D, H, W) in rescaled units, slice by slice.

    Args:
        found: a record of :func:`group_series`.
        read: reads the header of one file.

    Raises:
        ReadError: ``changed`` if a header is not what the index saw, ``no_decoder:<uid>``,
            ``corrupt_pixels``, or the header's reasons.
    """
    options = found.options
    picks = options.get("picks") or [[n, 0] for n in range(len(found.files))]
    resampled = options.get("along_mm") or options.get("shift_px")
    x_DHW: npt.NDArray[Any] = np.empty(0)
    used: Slices = []
    for index, (one, values) in enumerate(_decoded(found.files, picks, read)):
        if index == 0:
            size = values.shape if resampled else found.shape[2:]
            x_DHW = np.empty((len(picks), *size), "float32" if resampled else found.dtype)
        if values.shape != x_DHW.shape[1:]:
            raise _changed(one.path)
        x_DHW[index] = values
        used.append(one)
    if digest_of(used) != options["digest"]:
        raise _changed(found.files[0])
    if "along_mm" in options:
        x_DHW = fill_gaps(x_DHW, options["along_mm"], found.shape[1])
    if "shift_px" in options:
        x_DHW = make_upright(x_DHW, found.shape[1:], options["shift_px"], options["low_px"])
    return x_DHW[None]


def _decoded(
    files: tuple[str, ...], picks: list[list[int]], read: ReadTags
) -> Iterator[tuple[Slice, npt.NDArray[Any]]]:
    """Slices in the order of the volume with their rescaled values; each file is opened once."""
    for number, own in groupby(picks, key=lambda pick: pick[0]):
        file = files[number]
        header = read(Path(file))
        if header.ignored or header.format != "dicom":
            raise _changed(file)
        slices = slices_of(header)
        with open_frames(file, header.tags) as frames:
            for _, index in own:
                if index >= len(slices):
                    raise _changed(file)
                yield slices[index], _values(frames, header.tags, slices[index])


def _values(frames: Frames, tags: dict[str, Any], one: Slice) -> npt.NDArray[Any]:
    per_row = tags.get("tiles_per_row")
    if per_row is None:
        return frames.decode(one.number, rescale=tuple(one.tags["rescale"]), as_measured=True)
    return tile(frames.decode(0, as_measured=True), one.number, per_row)


def _found(stack: Stack, part: Part) -> Found:
    first = stack.slices[0].tags
    files = tuple(dict.fromkeys(one.path for one in stack.slices))
    place = {file: number for number, file in enumerate(files)}
    picks = [[place[one.path], one.number] for one in stack.slices]
    syntaxes = {one.tags["syntax"] for one in stack.slices}
    options = {
        "digest": digest_of(stack.slices),
        "residual_mm": stack.residual_mm,
        "uncompressed": all(map(is_trusted, syntaxes)),
        **({} if picks == [[n, 0] for n in range(len(files))] else {"picks": picks}),
        **stack.resampling,
    }
    name = ";".join(f"{tag}={value}" for tag, value in part.name.items())
    return Found(
        files=files,
        format="dicom",
        shape=(1, *stack.shape_DHW),
        dtype="float32" if stack.resampling else _dtype(stack.slices),
        geometry=Geometry.of_volume(stack.affine),
        part=name,
        modality=first["modality"],
        units=first["units"],
        patient=first["patient"],
        study=first["study"],
        series=first["series"] or str(Path(files[0]).parent),
        series_number=first["series_number"],
        objects=_objects(stack.slices),
        labels=first["labels"],
        flags=_flags(stack, part),
        options=options,
    )


def _flags(stack: Stack, part: Part) -> tuple[str, ...]:
    tags = [one.tags for one in stack.slices]
    flags = (*stack.flags, *part.flags)
    if not tags[0]["series"]:
        flags += ("no_series_id",)
    if any(one["photometric"] == "MONOCHROME1" for one in tags):
        flags += ("monochrome1",)
    if any(is_lossy(one["syntax"]) for one in tags):
        flags += ("lossy",)
    return flags


def _objects(slices: Slices) -> str:
    """What copies of the same scan have in common; empty if the UIDs do not tell slices apart."""
    frames = sorted({(one.tags["object"], one.number) for one in slices})
    if len(frames) < len(slices) or not all(uid for uid, _ in frames):
        return ""
    return hashlib.sha256(json.dumps(frames).encode()).hexdigest()


def _dtype(slices: Slices) -> str:
    """Smallest type that holds every rescaled value exactly; float32 for fractional slopes."""
    return str(np.result_type(*{value_dtype(one.tags) for one in slices}))


def _refused(slices: Slices, reason: str, message: str) -> Refused:
    files = tuple(dict.fromkeys(one.path for one in slices))
    return Refused(files=files, reason=reason, message=message)


def _changed(file: str) -> ReadError:
    what = "the header is not what it was at the index"
    return ReadError("changed", what, where=file, fix="index the archive again")
