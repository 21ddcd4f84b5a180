"""DICOM: CT, MR and PT series as volumes, in rescaled units (HU for CT).

Slices may be single files, frames of classic or enhanced multi-frame files, or tiles of a mosaic.
They are divided into volumes by what tells them apart (:mod:`medssl.readers._dicom_split`) and
stacked by position (:mod:`medssl.readers._dicom_stack`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
from pydicom.uid import UID

from medssl.core.errors import ReadError
from medssl.readers._base import DEFAULT_POLICY, FileHeader, Found, Policy, Refused
from medssl.readers._dicom_classes import check_modality, sop_class_of
from medssl.readers._dicom_enhanced import add_frames
from medssl.readers._dicom_lean import lean_elements
from medssl.readers._dicom_length import length_refusal
from medssl.readers._dicom_mosaic import add_tiles, is_mosaic
from medssl.readers._dicom_open import DEFLATED, PixelElement, is_bare, opened, parsing
from medssl.readers._dicom_pixels import is_uncompressed, pixel_refusal, plugin_for
from medssl.readers._dicom_places import Unusual
from medssl.readers._dicom_plane import is_plane, load_plane, plane_tags, planes_found
from medssl.readers._dicom_slices import bad_geometry, slices_of
from medssl.readers._dicom_tags import VOLUME_MODALITIES, Elements, PydicomElements, tags_of
from medssl.readers._dicom_volume import group_series, load_volume
from medssl.readers._source import open_source, size_of
from medssl.readers._us_header import ULTRASOUND, add_ultrasound
from medssl.readers._video_dicom import add_video, is_video
from medssl.readers.labels import LABEL_CLASSES
from medssl.readers.labels import header_from_dataset as label_header

_SUFFIXES = {".dcm", ".dicom", ".ima"}
# SOP classes that hold no image of the patient, by prefix of their UID.
_IGNORED_CLASSES = (
    ("1.2.840.10008.1.3.10", "dicomdir"),
    ("1.2.840.10008.5.1.4.1.1.88.", "dicom_sr"),
    ("1.2.840.10008.5.1.4.1.1.104.", "dicom_document"),
    ("1.2.840.10008.5.1.4.1.1.11.", "dicom_presentation"),
    ("1.2.840.10008.5.1.4.1.1.9.", "dicom_waveform"),
    ("1.2.840.10008.5.1.4.1.1.66", "dicom_raw"),
    ("1.2.840.10008.5.1.4.1.1.77.1.6", "dicom_whole_slide"),
    ("1.2.840.10008.5.1.4.1.1.481.", "dicom_rt"),
)


def matches(path: Path, head: bytes) -> bool:
    """Part 10 files by their magic; bare data sets and broken files by content or name."""
    return head[128:132] == b"DICM" or path.suffix.lower() in _SUFFIXES or is_bare(head)


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
            return _described(lean, path, size, lean.pixels())
        except Unusual:
            pass  # pydicom knows more kinds of headers
    with opened(path) as source:
        return _described(PydicomElements(source.dataset), path, size, source.pixels)


def _described(
    elements: Elements, path: Path, size: int, pixels: PixelElement | None
) -> FileHeader:
    """The header as tags, or what kind of object it is if there is no image in it."""
    where = str(path)
    sop_class = sop_class_of(elements, where)
    if sop_class in LABEL_CLASSES:
        if not isinstance(elements, PydicomElements):
            raise Unusual
        return label_header(elements.dataset, path)
    for prefix, kind in _IGNORED_CLASSES:
        if sop_class.startswith(prefix):
            return FileHeader(path=where, format="dicom", tags={}, ignored=kind)
    if not elements.has("Rows") or not elements.has("Columns"):
        return _without_image(elements, sop_class, where)
    check_modality(elements, sop_class, where)
    tags, reader = tags_of(elements), "dicom"
    native = is_uncompressed(tags["syntax"]) and tags["syntax"] != DEFLATED
    wrong = length_refusal(elements, pixels, size, native=native)
    video = is_plane(tags) and is_video(tags["syntax"])
    wrong = wrong or (None if video else _no_decoder(tags))
    if is_plane(tags):
        tags["plane"] = plane_tags(elements, tags, size)
        if video:
            add_video(elements, tags, path)
        tags["plane"]["refused"] = tags["plane"]["refused"] or wrong
        if tags["modality"] in ULTRASOUND:
            add_ultrasound(elements, tags)
            reader = "ultrasound"
    else:
        tags["refused"] = _complete(elements, tags) or _refusal(elements, tags, size) or wrong
    # Some anonymisers delete the series id: then what lies in one folder is one series.
    series = tags["series"] or str(path.parent)
    return FileHeader(path=where, format=reader, tags=tags, key=f"{tags['study']}/{series}")


def _without_image(elements: Elements, sop_class: str, where: str) -> FileHeader:
    if not sop_class:
        raise ReadError("not_dicom", "no SOP class and no image", where=where)
    classes = (sop_class, elements.text("MediaStorageSOPClassUID"))
    if any("Image Storage" in UID(one).name for one in classes):
        what = "an image without rows and columns: the header breaks off"
        raise ReadError("broken_header", what, where=where)
    return FileHeader(path=where, format="dicom", tags={}, ignored="dicom_other")


def _no_decoder(tags: dict[str, Any]) -> tuple[str, str] | None:
    try:
        if not is_uncompressed(tags["syntax"]):
            plugin_for(tags["syntax"], tags["bits_stored"])
    except ReadError as error:
        return error.reason, f"{error.what}; {error.fix}"
    return None


def group(
    headers: list[FileHeader], policy: Policy = DEFAULT_POLICY
) -> tuple[list[Found], list[Refused]]:
    """Stack the slices of one series; files that cannot be slices are refused one by one."""
    planes = [one for one in headers if "plane" in one.tags]
    flat, refused = planes_found(planes)
    slices = []
    for one in headers:
        if "plane" in one.tags:
            continue
        if not one.tags["refused"]:
            slices.append(one)
            continue
        reason, message = one.tags["refused"]
        refused.append(Refused(files=(one.path,), reason=reason, message=message))
    found, unstacked = group_series(slices, policy)
    n_refused = len(headers) - len(planes) - len(slices)
    if n_refused:  # a volume that lost its last slice looks whole
        flag = f"slices_refused={n_refused}"
        found = [replace(one, flags=(*one.flags, flag)) for one in found]
    return flat + found, refused + unstacked


def load(found: Found, frames: Sequence[int] | None = None) -> npt.NDArray[Any]:
    """(1, D, H, W) in rescaled units, slice by slice; an image or clip frame by frame.

    Raises:
        ReadError: ``changed``, ``no_decoder:<uid>``, ``corrupt_pixels``, or the header's reasons.
    """
    if "plane" in found.options:
        return load_plane(found, header(Path(found.files[0])).tags, frames)
    return load_volume(found, header)


def trusted(found: Found) -> bool:
    """Uncompressed pixels are read by numpy alone."""
    return bool(found.options.get("uncompressed"))


def _complete(elements: Elements, tags: dict[str, Any]) -> tuple[str, str] | None:
    """Add the slices of a file that holds several; why not, if that fails."""
    try:
        if elements.has("PerFrameFunctionalGroupsSequence"):
            if not isinstance(elements, PydicomElements):
                raise Unusual
            with parsing():
                add_frames(elements.dataset, tags)
        elif tags["frames"] > 1:
            what = f"{tags['frames']} frames that do not say where they lie"
            return "unsupported_multiframe", what
        elif is_mosaic(tags):
            add_tiles(elements, tags)
    except ReadError as error:
        return error.reason, error.what
    return None


def _refusal(elements: Elements, tags: dict[str, Any], size: int) -> tuple[str, str] | None:
    """Why this file cannot hold slices of a volume."""
    slices = slices_of(FileHeader(path="", format="dicom", tags=tags))
    if tags["modality"] not in VOLUME_MODALITIES and not slices[0].tags["position_mm"]:
        return "unsupported_2d", f"a single image (modality {tags['modality']}), not a slice"
    if tags["channels"] != 1:
        return "unsupported_colour", f"{tags['channels']} colour channels"
    if refused := pixel_refusal(elements, size):
        return refused
    for one in slices:
        if one.tags["rescale"] is None:
            return "bad_scaling", "rescale slope or intercept is no number, or the slope is zero"
        if what := bad_geometry(one.tags):
            return "bad_geometry", what
    return None
