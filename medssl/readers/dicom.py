"""DICOM: single-frame CT, MR and PT series as volumes, in rescaled units (HU for CT).

Slices are stacked by position (:mod:`medssl.readers._dicom_stack`). Multi-frame objects, mosaics,
colour and projection images are refused with a reason; reports, plans and segmentations are ignored
by kind.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import config
from pydicom.errors import InvalidDicomError

from medssl.core.errors import ReadError
from medssl.readers._base import DEFAULT_POLICY, FileHeader, Found, Policy, Refused
from medssl.readers._dicom_lean import lean_elements
from medssl.readers._dicom_pixels import decode_frame, is_uncompressed
from medssl.readers._dicom_places import Unusual
from medssl.readers._dicom_stack import stack_slices
from medssl.readers._dicom_tags import VOLUME_MODALITIES, Elements, PydicomElements, tags_of
from medssl.readers._source import open_source, size_of

_SUFFIXES = {".dcm", ".dicom", ".ima"}
# SOP classes that hold no image of the patient, by prefix of their UID.
_IGNORED_CLASSES = (
    ("1.2.840.10008.1.3.10", "dicomdir"),
    ("1.2.840.10008.5.1.4.1.1.88.", "dicom_sr"),
    ("1.2.840.10008.5.1.4.1.1.104.", "dicom_document"),
    ("1.2.840.10008.5.1.4.1.1.11.", "dicom_presentation"),
    ("1.2.840.10008.5.1.4.1.1.9.", "dicom_waveform"),
    ("1.2.840.10008.5.1.4.1.1.66", "dicom_seg_or_raw"),
    ("1.2.840.10008.5.1.4.1.1.481.", "dicom_rt"),
)
_PARSE_ERRORS: tuple[type[Exception], ...] = (EOFError, struct.error, ValueError, LookupError)
_PARSE_ERRORS += (AttributeError, TypeError, RuntimeError)
# Cosines further than this from unit length and right angles are no orientation.
_COSINE_TOLERANCE = 1e-3


def matches(path: Path, head: bytes) -> bool:
    """Part 10 files by their magic; bare data sets and broken files by content or name."""
    if head[128:132] == b"DICM" or path.suffix.lower() in _SUFFIXES:
        return True
    # A data set without preamble starts with group 8, element 0, 1, 5, 8 or 16.
    return head[:2] == b"\x08\x00" and head[2:4] in {
        b"\0\0",
        b"\1\0",
        b"\5\0",
        b"\x08\0",
        b"\x16\0",
    }


def header(path: Path) -> FileHeader:
    """What stacking and decoding need, plus the identifiers.

    Raises:
        ReadError: ``empty_file``, ``not_dicom``, ``broken_header``.
    """
    where = str(path)
    size = size_of(path)
    if size == 0:
        raise ReadError("empty_file", "the file has zero bytes", where=where)
    with open_source(path) as file:
        lean = lean_elements(file, size)
    if lean is not None:
        try:
            return _described(lean, path, size)
        except Unusual:
            pass  # pydicom knows more kinds of headers
    try:
        with warnings.catch_warnings(), config.disable_value_validation():
            warnings.simplefilter("ignore")
            return _described(PydicomElements(_parse(path)), path, size)
    except InvalidDicomError:
        raise ReadError("not_dicom", "the content is not DICOM", where=where) from None
    except _PARSE_ERRORS as error:
        what = f"the DICOM header is broken ({type(error).__name__})"
        raise ReadError("broken_header", what, where=where) from None


def _described(elements: Elements, path: Path, size: int) -> FileHeader:
    """The header as tags, or what kind of object it is if there is no image in it."""
    where = str(path)
    sop_class = elements.text("SOPClassUID") or elements.text("MediaStorageSOPClassUID")
    for prefix, kind in _IGNORED_CLASSES:
        if sop_class.startswith(prefix):
            return FileHeader(path=where, format="dicom", tags={}, ignored=kind)
    if not elements.has("Rows") or not elements.has("Columns"):
        if not sop_class:
            raise ReadError("not_dicom", "no SOP class and no image", where=where)
        return FileHeader(path=where, format="dicom", tags={}, ignored="dicom_other")
    tags = tags_of(elements)
    tags["refused"] = _refusal(elements, tags, size)
    # Some anonymisers delete the series id: then what lies in one folder is one series.
    series = tags["series"] or str(path.parent)
    return FileHeader(path=where, format="dicom", tags=tags, key=f"{tags['study']}/{series}")


def group(
    headers: list[FileHeader], _policy: Policy = DEFAULT_POLICY
) -> tuple[list[Found], list[Refused]]:
    """Stack the slices of every series; files that cannot be slices are refused one by one."""
    slices, refused = [], []
    for one in headers:
        if not one.tags["refused"]:
            slices.append(one)
            continue
        reason, message = one.tags["refused"]
        refused.append(Refused(files=(one.path,), reason=reason, message=message))
    found, unstacked = stack_slices(slices)
    return found, refused + unstacked


def load(found: Found, _frames: Sequence[int] | None = None) -> npt.NDArray[Any]:
    """(1, D, H, W) in rescaled units, slice by slice.

    Raises:
        ReadError: ``no_decoder:<uid>``, ``corrupt_pixels``, or the header's reasons.
    """
    x_CDHW = np.empty(found.shape, dtype=found.dtype)
    for index, file in enumerate(found.files):
        tags = header(Path(file)).tags
        if (tags.get("rows"), tags.get("columns")) != found.shape[2:]:
            raise ReadError("changed", "a slice changed its size since the index", where=file)
        x_CDHW[0, index] = decode_frame(file, tags)
    return x_CDHW


def trusted(found: Found) -> bool:
    """Uncompressed pixels are read by numpy alone."""
    return bool(found.options.get("uncompressed"))


def _parse(path: Path) -> Any:
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except InvalidDicomError:
        with path.open("rb") as file:
            if not matches(Path("bare"), file.read(132)):
                raise
        return pydicom.dcmread(path, stop_before_pixels=True, force=True)


def _refusal(elements: Elements, tags: dict[str, Any], size: int) -> tuple[str, str] | None:
    """Why this file cannot be a slice of a volume."""
    if tags["frames"] > 1 or elements.has("PerFrameFunctionalGroupsSequence"):
        return "unsupported_multiframe", f"{tags['frames']} frames in one file"
    if "MOSAIC" in tags["image_type"]:
        return "unsupported_mosaic", "the slices are tiled into one mosaic image"
    if tags["modality"] not in VOLUME_MODALITIES and not tags["position_mm"]:
        return "unsupported_2d", f"a single image (modality {tags['modality']}), not a slice"
    if tags["channels"] != 1:
        return "unsupported_colour", f"{tags['channels']} colour channels"
    if elements.has("ModalityLUTSequence"):
        return "unsupported_modality_lut", "values go through a modality look-up table"
    return _bad_pixels(tags, size) or _bad_geometry(tags)


def _bad_pixels(tags: dict[str, Any], size: int) -> tuple[str, str] | None:
    if tags["bits_allocated"] not in {8, 16, 32} or not 1 <= tags["bits_stored"] <= 32:
        bits = f"{tags['bits_allocated']} bits allocated, {tags['bits_stored']} stored"
        return "unsupported_dtype", bits
    if tags["rescale"] is None:
        return "bad_scaling", "rescale slope or intercept is no number, or the slope is zero"
    wanted = tags["rows"] * tags["columns"] * tags["bits_allocated"] // 8
    if is_uncompressed(tags["syntax"]) and size < wanted:
        return "truncated", f"the file has {size} bytes, its pixels alone take {wanted}"
    return None


def _bad_geometry(tags: dict[str, Any]) -> tuple[str, str] | None:
    names = {
        "orientation": "ImageOrientationPatient",
        "position_mm": "ImagePositionPatient",
        "pixel_spacing_mm": "PixelSpacing",
    }
    for key, name in names.items():
        if not tags[key]:
            return "bad_geometry", f"{name} is missing, incomplete or not a number"
    if min(tags["pixel_spacing_mm"]) <= 0:
        return "bad_geometry", "PixelSpacing is not positive"
    cosines = np.reshape(tags["orientation"], (2, 3))
    if np.abs(cosines @ cosines.T - np.eye(2)).max() > _COSINE_TOLERANCE:
        return "bad_geometry", "row and column directions are not orthogonal unit vectors"
    return None
