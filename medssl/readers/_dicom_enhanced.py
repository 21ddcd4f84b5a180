"""Enhanced multi-frame objects: every frame a slice (PS3.3 C.7.6.16).

What holds for all frames lies in SharedFunctionalGroupsSequence, what differs in
PerFrameFunctionalGroupsSequence; a group of a frame goes before the shared one.
"""

from __future__ import annotations

from typing import Any

from medssl.core.errors import ReadError
from medssl.readers._dicom_tags import PydicomElements
from medssl.readers._dicom_words import COMPLEX_COMPONENTS

# (sequence, element, name under which splitting knows it)
_SPLIT_NUMBERS = (
    ("MREchoSequence", "EffectiveEchoTime", "EchoTime"),
    ("MRDiffusionSequence", "DiffusionBValue", "DiffusionBValue"),
    ("FrameContentSequence", "TemporalPositionIndex", "TemporalPositionIndex"),
    ("FrameContentSequence", "FrameAcquisitionNumber", "AcquisitionNumber"),
    ("MRTimingAndRelatedParametersSequence", "FlipAngle", "FlipAngle"),
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime", "TriggerTime"),
)
_FRAME_TYPES = ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence")
_STACK_POSITION = {0x00209057, 0x00200032, 0x00209056}


def add_frames(dataset: Any, tags: dict[str, Any]) -> None:
    """Complete the tags of an enhanced file with what its frames state.

    Raises:
        ReadError: ``header_contradiction`` if the groups do not match the number of frames.
    """
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if len(groups) != tags["frames"]:
        what = f"{tags['frames']} frames, but {len(groups)} of them described"
        raise ReadError("header_contradiction", what)
    shared = _first(dataset.get("SharedFunctionalGroupsSequence"))
    dimensions = _dimensions(dataset)
    frames = [_frame_tags(_Frame(group, shared), tags, dimensions) for group in groups]
    if len(frames) == 1:
        tags.update({**frames[0], "split": {**tags["split"], **frames[0]["split"]}})
        return
    tags.update(_take_common(frames))
    tags["split"] = {**tags["split"], **_take_common([frame["split"] for frame in frames])}
    tags["slices"] = frames


def _take_common(frames: list[dict[str, Any]]) -> dict[str, Any]:
    """Take out what is the same in all: a file may have thousands of frames."""
    first = frames[0]
    common = {k: v for k, v in first.items() if k != "split" and all(f.get(k) == v for f in frames)}
    for frame in frames:
        for key in common:
            del frame[key]
    return common


class _Frame:
    """Functional groups of one frame."""

    def __init__(self, own: Any, shared: Any) -> None:
        self._own, self._shared = own, shared

    def item(self, sequence: str) -> Any:
        return _first(self._own.get(sequence)) or _first(self._shared.get(sequence))

    def group(self, sequence: str) -> PydicomElements:
        return PydicomElements(self.item(sequence))


def _frame_tags(frame: _Frame, tags: dict[str, Any], dimensions: list[int]) -> dict[str, Any]:
    place = frame.group("PlanePositionSequence").numbers("ImagePositionPatient", 3)
    plane = frame.group("PlaneOrientationSequence").numbers("ImageOrientationPatient", 6)
    pixel = frame.group("PixelMeasuresSequence").numbers("PixelSpacing", 2)
    kind = _frame_type(frame)
    return {
        "position_mm": place or tags["position_mm"],
        "orientation": plane or tags["orientation"],
        "pixel_spacing_mm": pixel or tags["pixel_spacing_mm"],
        "rescale": _rescale(frame, tags),
        "units": _units(frame, tags),
        "image_type": kind.text("FrameType").upper() or tags["image_type"],
        "split": _splits(frame, kind, dimensions),
    }


def _splits(frame: _Frame, kind: PydicomElements, dimensions: list[int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for sequence, keyword, name in _SPLIT_NUMBERS:
        number = frame.group(sequence).numbers(keyword, 1)
        if number is not None:
            found[name] = number[0]
    inversion = frame.group("MRModifierSequence").numbers("InversionTimes")
    if inversion:
        found["InversionTime"] = inversion[0]
    directions = frame.item("MRDiffusionSequence").get("DiffusionGradientDirectionSequence")
    gradient = PydicomElements(_first(directions)).numbers("DiffusionGradientOrientation", 3)
    if gradient is not None:
        found["DiffusionGradientOrientation"] = gradient
    component = kind.text("ComplexImageComponent").upper()
    if component in COMPLEX_COMPONENTS:
        found["ComplexImageComponent"] = component
    content = frame.group("FrameContentSequence")
    time = content.text("FrameReferenceDateTime") or content.text("FrameAcquisitionDateTime")
    if time.replace(".", "").isdigit():
        found["AcquisitionTime"] = time
    return found | _indices(content, dimensions)


def _indices(content: PydicomElements, dimensions: list[int]) -> dict[str, Any]:
    """Indices of the dimensions other than the position in the stack."""
    found: dict[str, Any] = {}
    stack = content.text("StackID")
    if stack.isdigit():
        found["StackID"] = float(stack)
    values = content.numbers("DimensionIndexValues")
    if values and len(values) == len(dimensions):
        pairs = zip(dimensions, values, strict=True)
        found["DimensionIndexValues"] = [v for tag, v in pairs if tag not in _STACK_POSITION]
    return found


def _dimensions(dataset: Any) -> list[int]:
    items = dataset.get("DimensionIndexSequence") or []
    return [int(item.get("DimensionIndexPointer") or 0) for item in items]


def _frame_type(frame: _Frame) -> PydicomElements:
    groups = [frame.group(sequence) for sequence in _FRAME_TYPES]
    return next((group for group in groups if group.has("FrameType")), groups[0])


def _rescale(frame: _Frame, tags: dict[str, Any]) -> list[float] | None:
    group = frame.group("PixelValueTransformationSequence")
    if not group.has("RescaleSlope") and not group.has("RescaleIntercept"):
        return None if tags["rescale"] is None else list(tags["rescale"])
    slope = group.numbers("RescaleSlope", 1)
    intercept = group.numbers("RescaleIntercept", 1)
    return [slope[0], intercept[0]] if slope and intercept and slope[0] else None


def _units(frame: _Frame, tags: dict[str, Any]) -> str:
    stated = frame.group("PixelValueTransformationSequence").text("RescaleType").upper()
    return "HU" if tags["modality"] == "CT" and stated == "HU" else str(tags["units"])


def _first(sequence: Any) -> Any:
    return sequence[0] if sequence else {}
