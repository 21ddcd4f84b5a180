"""DICOM SEG and RT Structure Sets: what was drawn on an image, on the image's grid.

The DICOM reader recognises the files. A SEG is a volume on its own grid; an RTSTRUCT is listed
with shape (structures, 0, 0, 0), because contours become voxels only on the grid of an image:
:func:`labels_on_grid`. Names of segments and structures are free text and may identify: they stay
in ``Found.options`` and ``LabelMap.names``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError
from medssl.core.geometry import Geometry
from medssl.readers._base import DEFAULT_POLICY, FileHeader, Found, Policy, Refused
from medssl.readers._dicom_open import opened
from medssl.readers._dicom_pixels import is_trusted
from medssl.readers._dicom_tags import PydicomElements, whole
from medssl.readers._label_grid import LabelMap, drawn_names, label_record, labels_on_grid
from medssl.readers._rtstruct import RTSTRUCT_CLASS, rtstruct_tags
from medssl.readers._seg import SEG_CLASSES, load_seg, seg_found, seg_tags
from medssl.readers._source import size_of

__all__ = [
    "CONTOURS",
    "LABEL_CLASSES",
    "LabelMap",
    "drawn_names",
    "group",
    "header",
    "header_from_dataset",
    "label_record",
    "labels_on_grid",
    "load",
    "matches",
    "trusted",
]

LABEL_CLASSES = SEG_CLASSES | {RTSTRUCT_CLASS}
"""SOP classes that :func:`header_from_dataset` takes."""
CONTOURS = "contours"
"""Flag of records without voxels of their own: structure sets."""


def matches(_path: Path, _head: bytes) -> bool:
    """Never: the DICOM reader hands its label objects over."""
    return False


def header(path: Path) -> FileHeader:
    """Header of a SEG or RTSTRUCT file.

    Raises:
        ReadError: ``not_a_label`` for anything else, or as :func:`opened`.
    """
    with opened(path) as source:
        if _sop_class(source.dataset) not in LABEL_CLASSES:
            what = "the file is no DICOM segmentation and no structure set"
            raise ReadError("not_a_label", what, where=str(path))
        return header_from_dataset(source.dataset, path)


def header_from_dataset(dataset: Any, path: Path) -> FileHeader:
    """Header of a SEG or RTSTRUCT whose data set was parsed already, without its pixels."""
    elements = PydicomElements(dataset)
    if _sop_class(dataset) == RTSTRUCT_CLASS:
        tags = rtstruct_tags(dataset, path)
    else:
        tags = seg_tags(dataset, size_of(path))
    tags |= {
        "patient": elements.text("PatientID"),
        "study": elements.text("StudyInstanceUID"),
        "series": elements.text("SeriesInstanceUID"),
        "series_number": whole(elements, "SeriesNumber"),
        "object": elements.text("SOPInstanceUID"),
    }
    return FileHeader(path=str(path), format="labels", tags=tags)


def group(
    headers: list[FileHeader], _policy: Policy = DEFAULT_POLICY
) -> tuple[list[Found], list[Refused]]:
    """Each file is one label record."""
    found, refused = [], []
    for one in headers:
        try:
            if one.tags["refused"]:
                raise ReadError(*one.tags["refused"])
            found.append(_found(one))
        except ReadError as error:
            refused.append(Refused(files=(one.path,), reason=error.reason, message=error.what))
    return found, refused


def load(found: Found, _frames: Sequence[int] | None = None) -> npt.NDArray[Any]:
    """Segments on their own grid, see :func:`medssl.readers._seg.load_seg`.

    Raises:
        ReadError: ``needs_image_grid`` for an RTSTRUCT; those of the pixel decoder.
    """
    if found.options["kind"] == "rtstruct":
        what = "contours have no voxels until the grid of their image is known"
        fix = "use medssl.readers.labels.labels_on_grid, or give image and label to finetune"
        raise ReadError("needs_image_grid", what, where=found.files[0], fix=fix)
    return load_seg(found)


def trusted(found: Found) -> bool:
    """Contours are parsed by pydicom, uncompressed frames read by numpy alone."""
    pixels = found.options.get("pixels")
    return pixels is None or is_trusted(pixels["syntax"])


def _sop_class(dataset: Any) -> str:
    elements = PydicomElements(dataset)
    return elements.text("SOPClassUID") or elements.text("MediaStorageSOPClassUID")


def _found(one: FileHeader) -> Found:
    tags = one.tags
    common: dict[str, Any] = {
        "files": (one.path,),
        "format": "labels",
        "role": "label",
        "patient": tags["patient"],
        "study": tags["study"],
        "series": tags["series"] or one.path,
        "series_number": tags["series_number"],
        "references": tuple(tags["references"]),
        "objects": tags["object"],
    }
    if tags["kind"] == "seg":
        affine = np.reshape(tags["affine"], (4, 4))
        geometry = Geometry.of_volume(affine)
        return Found(modality="SEG", geometry=geometry, **seg_found(one, common))
    keys = ("kind", "segments", "space", "instances")
    return Found(
        **common,
        modality="RTSTRUCT",
        shape=(len(tags["segments"]), 0, 0, 0),
        dtype="uint8",
        geometry=Geometry(kind="volume"),
        flags=(CONTOURS,),
        options={key: tags[key] for key in keys},
    )
