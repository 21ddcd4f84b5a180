"""DICOM Segmentation and Label Map Segmentation objects (PS3.3 A.51).

The grid is that of the object itself: orientation and pixel spacing from its functional groups,
slices on an even line through the positions of its frames. Empty slices may be left out of the
file; they are background. Positions that no even line explains are refused, never averaged.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError
from medssl.core.sample import BYTE_CAP
from medssl.readers._base import FileHeader, Found
from medssl.readers._dicom_pixels import open_frames, pixel_refusal
from medssl.readers._dicom_tags import IMPLICIT_LITTLE, PydicomElements, whole
from medssl.readers._seg_frames import SAME_POSITION_MM, FunctionalGroups, even_grid, items

SEG_CLASSES = {"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"}
# A voxel of a fractional segment belongs to it from this share of the largest value on.
FRACTION = 0.5
_RLE = "1.2.840.10008.1.2.5"


def seg_tags(dataset: Any, size: int) -> dict[str, Any]:
    """What a SEG header says beside its identifiers; ``refused`` where it cannot be read.

    Args:
        dataset: pydicom data set, pixels not needed.
        size: bytes of the file.
    """
    elements = PydicomElements(dataset)
    pixels = {
        "rows": whole(elements, "Rows") or 0,
        "columns": whole(elements, "Columns") or 0,
        "frames": whole(elements, "NumberOfFrames") or 1,
        "channels": 1,
        "bits_allocated": whole(elements, "BitsAllocated") or 0,
        "syntax": elements.text("TransferSyntaxUID") or IMPLICIT_LITTLE,
        "rescale": (1.0, 0.0),
    }
    tags: dict[str, Any] = {"kind": "seg", "pixels": pixels, "refused": None}
    try:
        if refused := pixel_refusal(elements, size):
            raise ReadError(*refused)
        if pixels["syntax"] == _RLE and pixels["bits_allocated"] == 1:
            raise ReadError("unsupported_dtype", "single bits in run-length coding")
        tags |= _content(dataset, pixels)
    except ReadError as error:
        tags["refused"] = [error.reason, error.what]
    return tags


def seg_found(one: FileHeader, more: dict[str, Any]) -> dict[str, Any]:
    """Shape, type, flags and options of the record of a SEG header that was not refused."""
    tags = one.tags
    numbers = [segment["number"] for segment in tags["segments"]]
    flags = list(tags["flags"])
    stacked = _needs_channels(tags)
    if stacked and tags["overlap"] == "YES":
        flags.append("overlapping_segments")
    elif stacked:
        flags.append("overlap_unstated")
    shape = (len(numbers) if stacked else 1, *tags["shape"])
    wide = not stacked and max(numbers, default=0) > np.iinfo(np.uint8).max
    dtype = np.dtype("uint16" if wide else "uint8")
    if math.prod(shape) * dtype.itemsize > BYTE_CAP:
        raise ReadError("too_large", f"an array of shape {shape}")
    keys = ("kind", "pixels", "type", "frames", "segments", "max_fraction", "space", "instances")
    options = {key: tags[key] for key in keys}
    return {**more, "shape": shape, "dtype": dtype.name, "flags": tuple(flags), "options": options}


def load_seg(found: Found) -> npt.NDArray[Any]:
    """(1, D, H, W) with segment numbers as values, or one channel of 0 and 1 per segment.

    Raises:
        ReadError: ``overlapping_labels`` where one value per voxel cannot hold it,
            ``unknown_label_values``, and those of the pixel decoder.
    """
    options = found.options
    out = np.zeros(found.shape, dtype=found.dtype)
    channel = {segment["number"]: i for i, segment in enumerate(options["segments"])}
    with open_frames(found.files[0], options["pixels"]) as frames:
        for index, (number, place) in enumerate(options["frames"]):
            if options["type"] != "LABELMAP" and number not in channel:
                continue
            stored, _ = frames.stored(index)
            if options["type"] == "LABELMAP":
                out[0, place] = _known_values(stored, list(channel), options)
            elif found.shape[0] > 1:
                out[channel[number], place] = _inside(stored, options)
            else:
                _paint(out[0, place], _inside(stored, options), number)
    return out


def _content(dataset: Any, pixels: dict[str, Any]) -> dict[str, Any]:
    elements = PydicomElements(dataset)
    kind = elements.text("SegmentationType").upper()
    if kind not in {"BINARY", "FRACTIONAL", "LABELMAP"}:
        raise ReadError("unsupported_segmentation", "a type of segmentation that is not read")
    segments = _segments(dataset, smallest=0 if kind == "LABELMAP" else 1)
    groups = FunctionalGroups(dataset, pixels["frames"])
    positions = groups.positions()
    grid = even_grid(
        positions,
        groups.orientation(),
        groups.numbers("PixelMeasuresSequence", "PixelSpacing", 2),
        groups.optional("PixelMeasuresSequence", "SpacingBetweenSlices"),
        groups.optional("PixelMeasuresSequence", "SliceThickness"),
    )
    numbers = [0] * pixels["frames"] if kind == "LABELMAP" else groups.segment_numbers()
    frames = list(zip(numbers, grid.slices, strict=True))
    if len(set(frames)) < len(frames):
        raise ReadError("duplicate_position", "two frames show one segment in one slice")
    unknown = set(numbers) - {segment["number"] for segment in segments}
    if unknown and kind != "LABELMAP":
        raise ReadError("broken_header", f"{len(unknown)} segments have frames but no description")
    flags = [f"fractional_threshold={FRACTION}"] if kind == "FRACTIONAL" else []
    if grid.n_slices == 1:
        flags.append("single_slice")
    if grid.residual_mm > SAME_POSITION_MM:
        flags.append(f"position_residual_mm={grid.residual_mm:.3f}")
    return {
        "type": kind,
        "segments": segments,
        "frames": frames,
        "shape": (grid.n_slices, pixels["rows"], pixels["columns"]),
        "affine": grid.affine.ravel().tolist(),
        "overlap": elements.text("SegmentsOverlap").upper(),
        "max_fraction": _max_fraction(elements) if kind == "FRACTIONAL" else 1,
        "space": elements.text("FrameOfReferenceUID"),
        **_references(dataset),
        "flags": flags,
    }


def _segments(dataset: Any, smallest: int) -> list[dict[str, Any]]:
    """Number, label and codes of every segment but 0, the background of a label map."""
    segments = []
    for item in items(dataset, "SegmentSequence"):
        elements = PydicomElements(item)
        number = whole(elements, "SegmentNumber")
        if number is None or not smallest <= number <= np.iinfo(np.uint16).max:
            raise ReadError("broken_header", "a segment has no number")
        codes = {
            key: [PydicomElements(code).text(k) for k in ("CodingSchemeDesignator", "CodeValue")]
            for key, keyword in (
                ("category", "SegmentedPropertyCategoryCodeSequence"),
                ("type", "SegmentedPropertyTypeCodeSequence"),
            )
            for code in items(item, keyword)[:1]
        }
        segments.append({"number": number, "name": elements.text("SegmentLabel"), **codes})
    if not segments or len({one["number"] for one in segments}) < len(segments):
        raise ReadError("broken_header", "no segments, or two of one number")
    segments = [one for one in segments if one["number"] != 0]
    return sorted(segments, key=lambda one: int(one["number"]))


def _references(dataset: Any) -> dict[str, list[str]]:
    """Series and images that the object was drawn on."""
    series = items(dataset, "ReferencedSeriesSequence")
    images = [
        PydicomElements(item).text("ReferencedSOPInstanceUID")
        for one in [*series, dataset]
        for keyword in ("ReferencedInstanceSequence", "SourceImageSequence")
        for item in items(one, keyword)
    ]
    named = [PydicomElements(one).text("SeriesInstanceUID") for one in series]
    return {
        "references": sorted({uid for uid in named if uid}),
        "instances": sorted({uid for uid in images if uid}),
    }


def _max_fraction(elements: PydicomElements) -> int:
    largest = whole(elements, "MaximumFractionalValue")
    if not largest or largest < 1:
        raise ReadError("bad_scaling", "a fractional segmentation without its largest value")
    return largest


def _needs_channels(tags: dict[str, Any]) -> bool:
    """Whether one value per voxel may not hold all segments."""
    if tags["type"] == "LABELMAP" or tags["overlap"] == "NO" or len(tags["segments"]) == 1:
        return False
    places = [place for _, place in tags["frames"]]
    return len(set(places)) < len(places)


def _inside(stored: npt.NDArray[Any], options: dict[str, Any]) -> npt.NDArray[np.bool_]:
    return np.asarray(stored >= FRACTION * options["max_fraction"], dtype=np.bool_)


def _paint(out_HW: npt.NDArray[Any], inside_HW: npt.NDArray[np.bool_], number: int) -> None:
    shared = int(np.count_nonzero(out_HW[inside_HW]))
    if shared:
        what = f"{shared} voxels of one slice belong to two segments"
        fix = "a label map holds one label per voxel: choose segments in labels.json"
        raise ReadError("overlapping_labels", what, fix=fix)
    out_HW[inside_HW] = number


def _known_values(
    stored: npt.NDArray[Any], numbers: list[int], options: dict[str, Any]
) -> npt.NDArray[Any]:
    described = options.get("described", numbers)
    if not np.isin(stored, [0, *described]).all():
        raise ReadError("unknown_label_values", "pixels of segments that have no description")
    return np.where(np.isin(stored, numbers), stored, 0)
