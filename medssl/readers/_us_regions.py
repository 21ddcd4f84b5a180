"""SequenceOfUltrasoundRegions (PS3.3 C.8.5.5): which box of the picture shows what."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from medssl.readers._dicom_tags import Elements, whole

# Codes of RegionSpatialFormat that are pictures; the others are graphics.
FORMATS = {1: "2D", 2: "M_MODE", 3: "SPECTRAL", 4: "WAVEFORM"}
_TISSUE, _COLOUR_FLOW = 1, 2
_CENTIMETRES = 3
# A colour box whose area lies this much within a tissue region is drawn over it.
_NESTED = 0.9
# No screen is divided into more.
_MAX_REGIONS = 64
# A strip that covers less than this of a 2D region lies over it; more, and its box is a slip.
_STRIP = 0.5

Box = tuple[int, int, int, int]
"""First row, last row + 1, first column, last column + 1."""


class BadRegionError(Exception):
    """A region that contradicts the image's size."""


@dataclass(frozen=True, kw_only=True)
class Region:
    """One region that is a record of its own.

    Attributes:
        number: place in the sequence, from 1.
        kind: ``2D``, ``M_MODE`` or ``SPECTRAL``.
        spacing_mm: (H, W) where both axes are lengths; 2D only.
        coloured: Doppler colour is drawn in it.
        blank: boxes of other regions, in this region's pixels, that lie over it.
    """

    number: int
    kind: str
    box: Box
    spacing_mm: tuple[float, float] | None
    coloured: bool
    blank: tuple[Box, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.box[1] - self.box[0], self.box[3] - self.box[2]


@dataclass(frozen=True)
class _Item:
    number: int
    kind: str
    data: int
    box: Box
    spacing_mm: tuple[float, float] | None


def regions_of(elements: Elements, rows: int, columns: int) -> list[dict[str, Any]]:
    """The regions that are records, as JSON; empty = the header does not say.

    Raises:
        BadRegionError: a box lies outside the image or is empty.
    """
    sequence = elements.items("SequenceOfUltrasoundRegions")
    if len(sequence) > _MAX_REGIONS:
        raise BadRegionError
    items = [
        item
        for number, one in enumerate(sequence, start=1)
        if (item := _item(one, number, rows, columns)) is not None
    ]
    return [asdict(region) for region in _records(items)]


def whole_picture(rows: int, columns: int, spacing_mm: list[float] | None) -> dict[str, Any]:
    """One 2D region over the whole image, as JSON: for headers that name no regions."""
    spacing = None if spacing_mm is None else (spacing_mm[0], spacing_mm[1])
    box = (0, rows, 0, columns)
    return asdict(Region(number=1, kind="2D", box=box, spacing_mm=spacing, coloured=False))


def region_from(content: dict[str, Any]) -> Region:
    """Inverse of the JSON of :func:`regions_of`."""
    spacing = content["spacing_mm"]
    return Region(
        number=content["number"],
        kind=content["kind"],
        box=_box(content["box"]),
        spacing_mm=None if spacing is None else (spacing[0], spacing[1]),
        coloured=content["coloured"],
        blank=tuple(_box(one) for one in content["blank"]),
    )


def _records(items: list[_Item]) -> list[Region]:
    flat = [one for one in items if one.kind == "2D"]
    strips = [one for one in items if one.kind != "2D"]
    found = []
    for one in items:
        if one.kind == "WAVEFORM" or _drawn_over(one, flat):
            continue
        colour = one.data == _COLOUR_FLOW or any(
            other.data == _COLOUR_FLOW and _overlap(other.box, one.box) > 0 for other in flat
        )
        is_flat = one.kind == "2D"
        region = Region(
            number=one.number,
            kind=one.kind,
            box=one.box,
            spacing_mm=one.spacing_mm if is_flat else None,
            coloured=colour and is_flat,
            blank=_blank(one.box, strips) if is_flat else (),
        )
        found.append(region)
    return found


def _item(one: Elements, number: int, rows: int, columns: int) -> _Item | None:
    kind = FORMATS.get(whole(one, "RegionSpatialFormat") or 0)
    data = whole(one, "RegionDataType") or 0
    if kind is None or (kind == "2D" and data not in {_TISSUE, _COLOUR_FLOW}):
        return None
    edges = [whole(one, f"RegionLocation{edge}") for edge in ("MinY0", "MaxY1", "MinX0", "MaxX1")]
    if any(edge is None for edge in edges):
        raise BadRegionError
    top, bottom, left, right = (edge or 0 for edge in edges)
    # The standard counts the last pixel in; some writers give the size instead.
    bottom = rows - 1 if bottom == rows else bottom
    right = columns - 1 if right == columns else right
    if not (0 <= top < bottom < rows and 0 <= left < right < columns):
        raise BadRegionError
    return _Item(number, kind, data, (top, bottom + 1, left, right + 1), _spacing_mm(one))


def _spacing_mm(one: Elements) -> tuple[float, float] | None:
    """(H, W) in mm, where both axes are in centimetres."""
    units = (whole(one, "PhysicalUnitsYDirection"), whole(one, "PhysicalUnitsXDirection"))
    steps = (one.numbers("PhysicalDeltaY", 1), one.numbers("PhysicalDeltaX", 1))
    if units != (_CENTIMETRES, _CENTIMETRES) or steps[0] is None or steps[1] is None:
        return None
    # The sign is the axis' direction.
    height, width = abs(steps[0][0]) * 10, abs(steps[1][0]) * 10
    valid = min(height, width) > 0 and math.isfinite(height + width)
    return (height, width) if valid else None


def _drawn_over(one: _Item, flat: list[_Item]) -> bool:
    """Whether a 2D region is part of the picture of another, or the same box again."""
    if one.kind != "2D":
        return False
    for other in flat:
        if other is one:
            continue
        nested = _overlap(one.box, other.box) >= _NESTED * _area(one.box)
        if nested and other.data == _TISSUE and one.data == _COLOUR_FLOW:
            return True
        if one.box == other.box and one.data == other.data and other.number < one.number:
            return True
    return False


def _blank(box: Box, strips: list[_Item]) -> tuple[Box, ...]:
    """Where strips lie over a 2D region, in its own pixels."""
    found = []
    for strip in strips:
        share = _overlap(box, strip.box)
        if 0 < share < _STRIP * _area(box):
            found.append(_within(strip.box, box))
    return tuple(found)


def _within(inner: Box, outer: Box) -> Box:
    top, left = outer[0], outer[2]
    height, width = outer[1] - top, outer[3] - left
    return (
        max(inner[0] - top, 0),
        min(inner[1] - top, height),
        max(inner[2] - left, 0),
        min(inner[3] - left, width),
    )


def _area(box: Box) -> int:
    return max(box[1] - box[0], 0) * max(box[3] - box[2], 0)


def _overlap(a: Box, b: Box) -> int:
    return _area((max(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), min(a[3], b[3])))


def _box(values: Any) -> Box:
    top, bottom, left, right = values
    return int(top), int(bottom), int(left), int(right)
