"""DICOM RT Structure Sets: closed planar contours, filled on the slices of an image.

A structure set has no grid of its own. A voxel belongs to a structure if its centre lies inside
an odd number of the structure's contours on its slice: holes and keyholes come out as drawn.
Slices between contours stay empty: nothing is interpolated.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError
from medssl.core.geometry import RAS_FROM_LPS, line_tolerance_mm
from medssl.readers._contours import Polygons, area_px, error_allowed_px, fill
from medssl.readers._dicom_open import PARSE_ERRORS, opened
from medssl.readers._dicom_places import Short, Unusual, find_places
from medssl.readers._dicom_tags import PydicomElements, whole
from medssl.readers._seg_frames import items
from medssl.readers._source import open_source, size_of

RTSTRUCT_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
# More is no drawing of a person; each point takes 24 bytes.
MAX_POINTS = 5_000_000
MAX_BYTES = 2**30
# A structure's filled volume may differ by this share from that of its contours.
VOLUME_TOLERANCE = 0.05
_CLOSED = {"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"}
_CONTOUR_DATA = 0x30060050

FloatArray = npt.NDArray[np.float64]


@dataclass
class Structure:
    """Contours of one structure, (N, 3) in patient (LPS) mm."""

    number: int
    contours_mm: list[FloatArray] = field(default_factory=list)
    left_out: int = 0
    """Points and open lines, which enclose nothing."""


class Filled(NamedTuple):
    """Label map (D, H, W) of structure numbers, and remarks."""

    labels_DHW: npt.NDArray[np.int32]
    flags: tuple[str, ...]


def rtstruct_tags(dataset: Any, path: Path) -> dict[str, Any]:
    """What the header says: structures by number with their names, what they were drawn on."""
    if size_of(path) > MAX_BYTES:
        return _refused("too_large", f"a structure set of {size_of(path) / 2**30:.1f} GiB")
    if _is_cut_short(path):
        return _refused("truncated", "the structure set ends within an element")
    structures: list[dict[str, Any]] = []
    spaces = set()
    for item in items(dataset, "StructureSetROISequence"):
        elements = PydicomElements(item)
        number = whole(elements, "ROINumber")
        if number is None:
            return _refused("broken_header", "a structure has no number")
        structures.append({"number": number, "name": elements.text("ROIName")})
        spaces.add(elements.text("ReferencedFrameOfReferenceUID"))
    drawn = _drawn_numbers(dataset)
    for one in structures:
        one["drawn"] = one["number"] in drawn
    numbers = {one["number"] for one in structures}
    if not structures or len(numbers) < len(structures):
        return _refused("broken_header", "no structures, or two of one number")
    if "ROIContourSequence" not in dataset or drawn - numbers:
        return _refused("broken_header", "structures without contours, or the other way round")
    if len(spaces) > 1:
        return _refused("other_frame_of_reference", "structures in several frames of reference")
    return {
        "kind": "rtstruct",
        "refused": None,
        "segments": sorted(structures, key=lambda one: int(one["number"])),
        "space": spaces.pop(),
        **_references(dataset),
    }


def _is_cut_short(path: Path) -> bool:
    """Whether a structure set ends within an element: its last contours would go missing unseen.

    Raises:
        OSError: as ``open`` does.
    """
    with open_source(path) as file:
        data = file.read()
    try:
        find_places(data, whole=True)
    except (Short, struct.error):
        return True
    except Unusual:
        return False  # big endian or deflated: pydicom reads it, or finds it broken
    return False


def read_structures(path: str, wanted: Collection[int]) -> list[Structure]:
    """The closed contours of the structures asked for.

    Raises:
        ReadError: ``broken_contour``, ``too_large``, and those of an unreadable file.
    """
    structures = {number: Structure(number) for number in sorted(wanted)}
    budget = MAX_POINTS
    with opened(path) as source:
        try:
            for item in items(source.dataset, "ROIContourSequence"):
                number = whole(PydicomElements(item), "ReferencedROINumber")
                if number in structures:
                    budget -= _add_contours(structures[number], item, budget)
        except PARSE_ERRORS as error:
            what = f"contours do not parse ({type(error).__name__})"
            raise ReadError("broken_contour", what, where=path) from None
    return list(structures.values())


def fill_structures(
    structures: list[Structure], affine: FloatArray, shape_DHW: tuple[int, int, int]
) -> Filled:
    """Fill every structure on the slices of an image.

    Args:
        structures: what :func:`read_structures` gave.
        affine: voxel (W, H, D) -> RAS+ mm of the image.
        shape_DHW: its size.

    Raises:
        ReadError: ``contour_off_slice``, ``contour_volume_error``, ``overlapping_labels``.
    """
    labels_DHW = np.zeros(shape_DHW, dtype=np.int32)
    counts: dict[str, int] = {
        "empty_structures": 0,
        "open_contours_left_out": sum(one.left_out for one in structures),
        "slices_between_contours": 0,
    }
    worst = 0.0
    for index, structure in enumerate(structures, start=1):
        if not structure.contours_mm:
            counts["empty_structures"] += 1
            continue
        polygons = _on_slices(structure, affine, shape_DHW)
        places = sorted(polygons)
        counts["slices_between_contours"] += places[-1] - places[0] + 1 - len(places)
        worst = max(worst, _fill_one(polygons, labels_DHW, index))
    numbers = np.array([0, *(one.number for one in structures)], dtype=np.int32)
    flags = [f"{name}={count}" for name, count in counts.items() if count]
    if worst > VOLUME_TOLERANCE:
        flags.append(f"contour_volume_error={worst:.3f}")
    return Filled(numbers[labels_DHW], tuple(flags))


def _fill_one(
    polygons: dict[int, Polygons], labels_DHW: npt.NDArray[np.int32], value: int
) -> float:
    """Write one structure; returns the relative error of its volume."""
    filled_px, drawn_px, allowed_px = 0, 0.0, 0.0
    for place, contours in polygons.items():
        inside_HW = fill(contours, labels_DHW.shape[1:])
        shared = int(np.count_nonzero(labels_DHW[place][inside_HW]))
        if shared:
            what = f"{shared} voxels of one slice belong to two structures"
            fix = "a label map holds one label per voxel: choose structures in labels.json"
            raise ReadError("overlapping_labels", what, fix=fix)
        labels_DHW[place][inside_HW] = value
        filled_px += int(np.count_nonzero(inside_HW))
        drawn_px += area_px(contours)
        allowed_px += error_allowed_px(contours)
    error_px = abs(filled_px - drawn_px)
    share = error_px / max(drawn_px, 1e-9)
    if error_px > VOLUME_TOLERANCE * drawn_px + allowed_px:
        what = f"a structure fills {share:.0%} more or less than its contours enclose"
        fix = "look for contours that cross themselves or one another, or leave the image"
        raise ReadError("contour_volume_error", what, fix=fix)
    return share


def _on_slices(
    structure: Structure, affine: FloatArray, shape_DHW: tuple[int, int, int]
) -> dict[int, Polygons]:
    """Contours by slice, in voxel units (W, H); each must lie in one slice of the image."""
    voxel_from_lps = np.linalg.inv(RAS_FROM_LPS @ affine)
    normal_mm = 1 / float(np.linalg.norm(voxel_from_lps[2, :3]))
    allowed = line_tolerance_mm(normal_mm) / normal_mm
    by_slice: dict[int, Polygons] = {}
    for contour_mm in structure.contours_mm:
        points = contour_mm @ voxel_from_lps[:3, :3].T + voxel_from_lps[:3, 3]
        place = round(float(np.median(points[:, 2])))
        off = float(np.abs(points[:, 2] - place).max())
        if off > allowed or not 0 <= place < shape_DHW[0]:
            what = f"a contour lies {off * normal_mm:.2f} mm off the nearest slice of the image"
            if off <= allowed:
                what = "a contour lies above or below the image"
            fix = "was it drawn on another series, or on planes between the slices?"
            raise ReadError("contour_off_slice", what, fix=fix)
        by_slice.setdefault(place, []).append(points[:, :2])
    return by_slice


def _add_contours(structure: Structure, item: Any, budget: int) -> int:
    """Read the contours of a structure; returns the number of points."""
    n_points = 0
    for contour in items(item, "ContourSequence"):
        if not _is_closed(contour):
            structure.left_out += 1
            continue
        points_mm = _points(contour)
        n_points += len(points_mm)
        if n_points > budget:
            raise ReadError("too_large", f"more than {MAX_POINTS} contour points")
        if len(points_mm) < 3:
            structure.left_out += 1
        elif not any(np.array_equal(points_mm, other) for other in structure.contours_mm[-50:]):
            # A contour stored twice is one contour; filled twice it would cancel itself.
            structure.contours_mm.append(points_mm)
    return n_points


def _drawn_numbers(dataset: Any) -> set[int | None]:
    """Structures with at least one closed contour; the rest are points, lines or empty."""
    return {
        whole(PydicomElements(item), "ReferencedROINumber")
        for item in items(dataset, "ROIContourSequence")
        if any(_is_closed(contour) for contour in items(item, "ContourSequence"))
    }


def _is_closed(contour: Any) -> bool:
    return PydicomElements(contour).text("ContourGeometricType").upper() in _CLOSED


def _points(contour: Any) -> FloatArray:
    # The text itself: a decimal string per number would take minutes on a large set.
    element = contour.get_item(_CONTOUR_DATA)
    raw = b"" if element is None or element.value is None else element.value
    values = raw.split(b"\\") if isinstance(raw, bytes) and raw else list(raw)
    try:
        numbers = np.array(
            [float(v.strip(b"\0 ") if isinstance(v, bytes) else v) for v in values],
            dtype=np.float64,
        )
    except ValueError:
        raise ReadError("broken_contour", "a contour point is no number") from None
    if len(numbers) % 3 or not np.isfinite(numbers).all():
        raise ReadError("broken_contour", "a contour point is not three finite numbers")
    stated = whole(PydicomElements(contour), "NumberOfContourPoints")
    if stated is not None and stated != len(numbers) // 3:
        what = f"a contour of {len(numbers) // 3} points, its header says {stated}"
        raise ReadError("broken_contour", what)
    return numbers.reshape(-1, 3)


def _references(dataset: Any) -> dict[str, list[str]]:
    series, images = set(), set()
    for frame in items(dataset, "ReferencedFrameOfReferenceSequence"):
        for study in items(frame, "RTReferencedStudySequence"):
            for one in items(study, "RTReferencedSeriesSequence"):
                series.add(PydicomElements(one).text("SeriesInstanceUID"))
                for image in items(one, "ContourImageSequence"):
                    images.add(PydicomElements(image).text("ReferencedSOPInstanceUID"))
    return {"references": sorted(series - {""}), "instances": sorted(images - {""})}


def _refused(reason: str, what: str) -> dict[str, Any]:
    return {"kind": "rtstruct", "refused": [reason, what]}
