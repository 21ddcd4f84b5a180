"""What grouping and decoding need of a DICOM header, as one JSON-able mapping.

The header may have been parsed by pydicom or by the lean reader: both offer :class:`Elements`, and
everything below sees only that, so the two give the same tags by construction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from pydicom.multival import MultiValue

from medssl.core.sample import UNKNOWN
from medssl.readers._dicom_open import parsing
from medssl.readers._dicom_words import labels_of, splits_of, units_of

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
VOLUME_MODALITIES = {"CT", "MR", "PT", "NM"}
# Anything else in Modality may be free text, and free text may identify.
MODALITIES = VOLUME_MODALITIES | {
    *("CR", "DX", "ES", "GM", "IO", "IVUS", "MG", "OCT", "OP", "OPT", "OT", "PX", "RF", "SM"),
    *("US", "XA", "XC"),
}

_LOSSY = (".4.50", ".4.51", ".4.81", ".4.91", ".4.203")
_SIEMENS_MOSAIC_IMAGES = 0x0019100A
_EXTRA_NUMBERS = (
    *("InstanceNumber", "HighBit", "PlanarConfiguration", "SliceThickness"),
    *("SpacingBetweenSlices", "GantryDetectorTilt", "FrameTime", "CineRate"),
)


class Elements(Protocol):
    """Top-level elements of a data set, by keyword; file meta keywords included."""

    def has(self, keyword: str) -> bool:
        """Whether the element is there, empty or not, sequences included."""

    def text(self, keyword: str) -> str:
        """The value as stripped text, several values joined by backslashes; empty if absent."""

    def numbers(self, keyword: str, count: int | None = None) -> list[float] | None:
        """Finite numbers, ``count`` of them if given; ``None`` if absent or anything else."""

    def bytes_at(self, tag: int) -> bytes:
        """The bytes of a (private) element as they lie in the file; empty if absent."""

    def items(self, keyword: str) -> Sequence[Elements]:
        """The items of a sequence, in order; none if it is absent or empty."""


class PydicomElements:
    """:class:`Elements` over a pydicom data set, which parses values when they are asked for.

    Raises:
        ReadError: every method, as :func:`~medssl.readers._dicom_open.parsing`.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    @parsing()
    def has(self, keyword: str) -> bool:
        return keyword in self.dataset or keyword in self._meta

    @parsing()
    def text(self, keyword: str) -> str:
        value = self._value(keyword)
        if value is None:
            return ""
        values = value if isinstance(value, MultiValue) else [value]
        return "\\".join(str(one).strip("\0 ") for one in values)

    @parsing()
    def numbers(self, keyword: str, count: int | None = None) -> list[float] | None:
        value = self._value(keyword)
        if value is None:
            return None
        values = list(value) if isinstance(value, MultiValue | list | tuple) else [value]
        try:
            numbers = [float(v) for v in values]
        except (TypeError, ValueError):
            return None
        wanted = len(numbers) if count is None else count
        return numbers if len(numbers) == wanted and all(map(math.isfinite, numbers)) else None

    @parsing()
    def bytes_at(self, tag: int) -> bytes:
        element = self.dataset.get_item(tag)
        value = None if element is None else element.value
        return value if isinstance(value, bytes) else b""

    @parsing()
    def items(self, keyword: str) -> Sequence[Elements]:
        return [PydicomElements(item) for item in self.dataset.get(keyword) or []]

    @property
    def _meta(self) -> Any:
        return getattr(self.dataset, "file_meta", {})

    def _value(self, keyword: str) -> Any:
        value = self.dataset.get(keyword)
        return self._meta.get(keyword) if value is None else value


def is_lossy(syntax: str) -> bool:
    """Whether the coding may have lost detail: JPEG, near-lossless JPEG-LS, JPEG 2000, HTJ2K."""
    return syntax.endswith(_LOSSY)


def whole(elements: Elements, keyword: str) -> int | None:
    """A single number as int."""
    numbers = elements.numbers(keyword, 1)
    return int(numbers[0]) if numbers else None


def tags_of(elements: Elements) -> dict[str, Any]:
    """The mapping that the rest of the DICOM reader works on.

    ``split``, ``labels`` and ``extra`` hold only what the header states: an archive has millions.
    """
    modality = elements.text("Modality")
    bits_allocated = whole(elements, "BitsAllocated") or 0
    return {
        "patient": elements.text("PatientID"),
        "study": elements.text("StudyInstanceUID"),
        "series": elements.text("SeriesInstanceUID"),
        "series_number": whole(elements, "SeriesNumber"),
        "object": elements.text("SOPInstanceUID"),
        "frame_of_reference": elements.text("FrameOfReferenceUID"),
        "class": elements.text("SOPClassUID") or elements.text("MediaStorageSOPClassUID"),
        "modality": modality if modality in MODALITIES else UNKNOWN,
        "rows": whole(elements, "Rows") or 0,
        "columns": whole(elements, "Columns") or 0,
        "frames": whole(elements, "NumberOfFrames") or 1,
        "channels": whole(elements, "SamplesPerPixel") or 1,
        "bits_allocated": bits_allocated,
        "bits_stored": whole(elements, "BitsStored") or bits_allocated,
        "signed": bool(whole(elements, "PixelRepresentation")),
        "photometric": elements.text("PhotometricInterpretation"),
        "syntax": elements.text("TransferSyntaxUID") or IMPLICIT_LITTLE,
        "rescale": _rescale(elements),
        "float": not elements.has("BitsStored") and not elements.has("PixelRepresentation"),
        "modality_lut": elements.has("ModalityLUTSequence"),
        "units": units_of(elements, modality),
        "orientation": elements.numbers("ImageOrientationPatient", 6),
        "position_mm": elements.numbers("ImagePositionPatient", 3),
        "pixel_spacing_mm": elements.numbers("PixelSpacing", 2),
        "image_type": elements.text("ImageType").upper(),
        "split": splits_of(elements),
        "labels": labels_of(elements),
        "extra": _extra(elements),
    }


def _rescale(elements: Elements) -> tuple[float, float] | None:
    if not elements.has("RescaleSlope") and not elements.has("RescaleIntercept"):
        return 1.0, 0.0
    slope = elements.numbers("RescaleSlope", 1)
    intercept = elements.numbers("RescaleIntercept", 1)
    return (slope[0], intercept[0]) if slope and intercept and slope[0] else None


def _extra(elements: Elements) -> dict[str, Any]:
    """Numbers and codes that only some kinds of object need."""
    extra: dict[str, Any] = {}
    for keyword in _EXTRA_NUMBERS:
        number = elements.numbers(keyword, 1)
        if number is not None:
            extra[keyword] = number[0]
    burned_in = elements.text("BurnedInAnnotation").upper()
    if burned_in in {"YES", "NO"}:
        extra["BurnedInAnnotation"] = burned_in
    images = elements.bytes_at(_SIEMENS_MOSAIC_IMAGES)
    if len(images) == 2:
        extra["MosaicImages"] = int.from_bytes(images, "little")
    return extra
