"""What became of a folder, and whether a read that was accepted contradicts its own files.

The rules here use other libraries than the readers, or a few lines of their own.
"""

import bz2
import gzip
import itertools
import math
import re
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from PIL import Image
from pydicom.multival import MultiValue
from pydicom.uid import UID

from medssl.core.errors import ReadError, ResourceError
from medssl.core.geometry import corners_mm
from medssl.readers._dispatch import group_headers, load, read_header, walk
from medssl.readers._label_grid import labels_on_grid

_SIZES = {"short": 2, "MET_SHORT": 2, "MET_CHAR": 1, "MET_UCHAR": 1, "MET_INT": 4, "MET_FLOAT": 4}
_TRANSFER_RAW = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"}


@dataclass
class Outcome:
    """Records by what identifies them; reasons; files without any outcome; contradictions."""

    records: list = field(default_factory=list)
    reasons: list = field(default_factory=list)
    lost: list = field(default_factory=list)
    wrong: list = field(default_factory=list)


def read_all(folder, *, judged=True):
    """Index and load everything below a folder, as the stages do."""
    outcome, headers, files, done = Outcome(), [], [], set()
    for path in walk(folder):
        files.append(str(path))
        try:
            header = read_header(path)
        except ReadError as error:
            outcome.reasons.append(error.reason)
            done.add(str(path))
            continue
        headers.append(header)
        if header.ignored:
            done.add(str(path))
    found, refused = group_headers(headers)
    outcome.reasons += [one.reason for one in refused]
    done |= {file for one in (*found, *refused) for file in one.files}
    outcome.lost = sorted(set(files) - done)
    for one in found:
        try:
            array = _loaded(one, found)
        except (ReadError, ResourceError) as error:
            outcome.reasons.append(getattr(error, "reason", "too_large"))
            continue
        outcome.records.append(_described(one, array))
        if judged:
            outcome.wrong += contradictions(one, array)
    outcome.records.sort(key=lambda r: (r["files"], r["part"]))
    # A crash of ours that the reader kept to one file is a crash all the same.
    outcome.wrong += [reason for reason in outcome.reasons if reason == "internal_error"]
    return outcome


def _loaded(one, found):
    """The voxels; contours are drawn on the first volume beside them."""
    if one.options.get("kind") != "rtstruct":
        return load(one)
    volumes = [other for other in found if other.format == "dicom" and other.role == "image"]
    if not volumes:
        return load(one)
    grid = volumes[0]
    return labels_on_grid(one, grid.geometry, grid.shape[1:]).labels_DHW[None]


def changes(original, outcome):
    """Fields in which the accepted records differ from the unmutated ones."""
    if len(original.records) != len(outcome.records):
        return ["count"]
    pairs = zip(original.records, outcome.records, strict=True)
    return sorted({key for a, b in pairs for key in a if a[key] != b[key] and key != "files"})


def contradictions(found, array):
    """Why this accepted read cannot be right."""
    if found.options.get("kind") == "rtstruct":
        return [f"labels: {why}" for why in _applied(_label_values, found, array)]
    rules = [_shape, _geometry, _times]
    rules += {
        "nifti": [_nifti],
        "nrrd": [_nrrd],
        "mha": [_mha],
        "image": [_image],
        "dicom": [_dicom_class, _dicom_bytes, _dicom_series],
        "ultrasound": [_dicom_bytes],
        "labels": [_label_values],
    }.get(found.format, [])
    return [f"{found.format}: {why}" for rule in rules for why in _applied(rule, found, array)]


def _applied(rule, found, array):
    """What a rule says; a file that the other library cannot parse is not judged by it."""
    try:
        return list(rule(found, array))
    except Exception:  # noqa: BLE001 - pydicom, nibabel and zlib raise anything
        return []


def _described(found, array):
    geometry = found.geometry
    affine = None if geometry.affine is None else np.round(geometry.affine, 4).tolist()
    return {
        "files": [Path(file).name for file in found.files],
        "format": found.format,
        "part": found.part,
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "geometry": [affine, geometry.spacing_mm],
        "times": geometry.frame_times_s,
        "modality": [found.modality, found.role, found.units],
        "flags": sorted(found.flags),
        "voxels": zlib.crc32(np.ascontiguousarray(array).tobytes()),
    }


def _shape(found, array):
    if array.shape != tuple(found.shape) or str(array.dtype) != found.dtype:
        yield "the array is not what the header promised"
    if min(array.shape) < 1:
        yield "an empty array"


def _geometry(found, _array):
    geometry = found.geometry
    if geometry.spacing_mm is not None:
        spacing = np.array(geometry.spacing_mm)
        if not np.isfinite(spacing).all() or spacing.min() <= 0:
            yield f"spacing {geometry.spacing_mm}"
    if geometry.affine is None:
        return
    if not np.isfinite(geometry.affine).all():
        yield "the affine is not finite"
    steps = np.linalg.norm(geometry.affine[:3, :3], axis=0)[::-1]
    if not np.allclose(steps, geometry.spacing_mm, rtol=1e-6):
        yield "spacing is not the length of the affine's columns"


def _times(found, array):
    times = found.geometry.frame_times_s
    if times is None:
        return
    if len(times) != array.shape[1] or not all(map(math.isfinite, times)):
        yield f"{len(times)} frame times, {array.shape[1]} frames"
    if any(b <= a for a, b in itertools.pairwise(times)):
        yield "time does not advance"


def _whole(path):
    content = Path(path).read_bytes()
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


def _nifti(found, _array):
    if "!/" in found.files[0]:
        return
    head = _whole(found.files[0])
    two = head[4:7] in {b"n+2", b"ni2"}
    order = "<" if struct.unpack("<i", head[:4])[0] in {348, 540} else ">"
    if two:
        dims = struct.unpack(order + "8q", head[16:80])
        bits, offset = struct.unpack(order + "h", head[14:16])[0], head[168:176]
        offset = struct.unpack(order + "q", offset)[0]
    else:
        dims = struct.unpack(order + "8h", head[40:56])
        bits = struct.unpack(order + "h", head[72:74])[0]
        offset = int(struct.unpack(order + "f", head[108:112])[0])
    data = _whole(found.files[-1])
    first = offset or (0 if len(found.files) == 2 else len(head[: 544 if two else 352]))
    if first + math.prod(dims[1 : dims[0] + 1]) * bits // 8 != len(data):
        yield f"dims {dims} of {bits} bits do not fill {len(data)} bytes"
    if found.geometry.affine is None:
        return
    try:
        theirs = nib.load(found.files[0]).affine
    except (
        OSError,
        ValueError,
        nib.filebasedimages.ImageFileError,
        nib.spatialimages.HeaderDataError,
    ):
        return
    units = {1: 1000.0, 3: 0.001}.get(head[500 if two else 123] & 7, 1.0)
    theirs = np.diag([units, units, units, 1.0]) @ theirs
    apart = corners_mm(theirs, found.shape) - corners_mm(found.geometry.affine, found.shape)
    repaired = any(flag.startswith("orthonormalised") for flag in found.flags)
    if np.abs(apart).max() > (1.0 if repaired else 0.01):
        yield "nibabel puts it elsewhere"


def _text_fields(head, separator):
    lines = [line.partition(separator) for line in head.decode("latin1").splitlines()]
    return {name.strip(): value.strip() for name, _, value in lines}


def _nrrd(found, _array):
    content = Path(found.files[0]).read_bytes()
    end = re.search(rb"\r?\n\r?\n", content)
    fields = _text_fields(content[: end.start()] if end else content, ":")
    body = content[end.end() :] if end else b""
    if "data file" in fields:
        body = Path(found.files[0]).with_name(fields["data file"]).read_bytes()
    unpack = {"gzip": gzip.decompress, "bzip2": bz2.decompress}.get(fields["encoding"], bytes)
    wanted = math.prod(map(int, fields["sizes"].split())) * np.dtype(found.dtype).itemsize
    if len(unpack(body)) != wanted:
        yield f"sizes {fields['sizes']} of {found.dtype} do not fill the data"


def _mha(found, _array):
    content = Path(found.files[0]).read_bytes()
    end = re.search(rb"ElementDataFile[^\n]*\n", content).end()
    fields = _text_fields(content[:end], "=")
    body, name = content[end:], fields["ElementDataFile"]
    if name != "LOCAL":
        body = Path(found.files[0]).with_name(name).read_bytes()
    if fields.get("CompressedData", "").lower() in {"true", "1"}:
        body = zlib.decompress(body)
    channels = int(fields.get("ElementNumberOfChannels", 1))
    wanted = math.prod(map(int, fields["DimSize"].split())) * channels
    if len(body) != wanted * np.dtype(found.dtype).itemsize:
        yield f"DimSize {fields['DimSize']} of {found.dtype} does not fill the data"


def _image(found, array):
    content = Path(found.files[0]).read_bytes()
    if content.startswith(b"\x89PNG"):
        width, height = struct.unpack(">II", content[16:24])
    else:
        with Image.open(found.files[0]) as picture:
            width, height = picture.size
    if array.shape[-2:] != (height, width):
        yield f"{width} x {height} in the header, {array.shape} read"


def _datasets(found):
    for file in sorted(set(found.files)):
        if "!/" not in file:
            yield pydicom.dcmread(file, force=True)


def _number(one, keyword, default=1):
    try:
        return int(one.get(keyword) or default)
    except (TypeError, ValueError):
        return None


def _dicom_class(found, _array):
    for one in _datasets(found):
        stored = one.file_meta.get("MediaStorageSOPClassUID")
        if stored and stored != (one.get("SOPClassUID") or stored):
            yield "two SOP classes"
        if "Ultrasound" in UID(stored or "").name and found.format != "ultrasound":
            yield "an ultrasound picture that is not read as one"


def _dicom_bytes(found, array):
    for one in _datasets(found):
        syntax = str(one.file_meta.get("TransferSyntaxUID", ""))
        keys = ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated")
        rows, columns, frames, samples, bits = (_number(one, key) for key in keys)
        if "Rows" not in one:
            return  # pydicom gave up early
        if None in {rows, columns, frames, samples, bits}:
            yield "a number of the pixel module is none"
            return
        if syntax in _TRANSFER_RAW and "PixelData" in one:
            pixels = rows * columns * frames
            wanted = pixels * samples * bits // 8
            if one.get("PhotometricInterpretation") == "YBR_FULL_422":
                wanted = pixels * 2 * bits // 8
            if len(one.PixelData) not in {wanted, wanted + wanted % 2}:
                yield f"{len(one.PixelData)} bytes of pixels, the header says {wanted}"
        if found.format == "dicom" and array.shape[-2:] != (rows, columns):
            yield f"{rows} x {columns} in the header, {array.shape} read"
        if int(one.get("BitsStored", bits)) > bits:
            yield "more bits stored than allocated"


def _dicom_series(found, array):
    """Classic series: one series, one matrix, one orientation, even positions, in this order."""
    if found.geometry.kind != "volume" or len(set(found.files)) != array.shape[1]:
        return
    ones = [pydicom.dcmread(file, force=True, stop_before_pixels=True) for file in found.files]
    if not all("Rows" in one for one in ones):
        return  # pydicom gave up early on one
    for keyword in ("SeriesInstanceUID", "Modality", "Rows", "Columns", "PixelSpacing"):
        if len({_comparable(one.get(keyword)) for one in ones}) > 1:
            yield f"slices differ in {keyword}"
    try:
        positions = np.array([[float(v) for v in one.ImagePositionPatient] for one in ones])
    except (AttributeError, TypeError, ValueError):
        yield "a slice has no position"
        return
    ras = positions * [-1, -1, 1]
    stated = (
        found.geometry.affine[:3, 3] + np.arange(len(ras))[:, None] * found.geometry.affine[:3, 2]
    )
    spacing = found.geometry.spacing_mm[0]
    if np.linalg.norm(ras - stated, axis=1).max() > max(0.1, 0.02 * spacing) + 1e-6:
        yield "slices do not lie where the affine says"


def _comparable(value):
    return tuple(map(float, value)) if isinstance(value, MultiValue) else str(value)


def _label_values(found, array):
    if array.size and (array.min() < 0 or not np.isfinite(array).all()):
        yield "labels below zero"
