"""The header and frame behind each slice of a DICOM volume: what a result may refer to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl.readers._base import Found
from medssl.readers._dicom_open import opened
from medssl.readers._dicom_tags import PydicomElements


def slice_sources(found: Found) -> list[tuple[Any, int]]:
    """Data set (pydicom, without pixels) and frame number from 0 of every slice, in array order.

    A volume that was resampled on reading has fewer or more sources than slices.

    Raises:
        ReadError: as :func:`opened`.
    """
    headers = []
    for file in found.files:
        with opened(Path(file)) as source:
            headers.append(source.dataset)
    picks = found.options.get("picks") or [[n, 0] for n in range(len(headers))]
    return [(headers[file], frame) for file, frame in picks]


@dataclass(frozen=True)
class Identity:
    """What a label may name to say which images it was drawn on. Raw: stays in memory."""

    frame_of_reference: str
    instances: frozenset[str]


def identity_of(found: Found) -> Identity:
    """Frame of reference and SOP instance UIDs of a DICOM record.

    Raises:
        ReadError: as :func:`opened`.
    """
    spaces, instances = set(), set()
    for file in found.files:
        with opened(Path(file)) as source:
            elements = PydicomElements(source.dataset)
            spaces.add(elements.text("FrameOfReferenceUID"))
            uid = elements.text("SOPInstanceUID") or elements.text("MediaStorageSOPInstanceUID")
            instances.add(uid)
    return Identity(spaces.pop() if len(spaces) == 1 else "", frozenset(instances - {""}))
