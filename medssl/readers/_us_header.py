"""What the header of an ultrasound object says beyond the common tags."""

from __future__ import annotations

from typing import Any

from medssl.readers._dicom_tags import Elements, whole
from medssl.readers._us_regions import BadRegionError, regions_of, whole_picture

ULTRASOUND = {"US", "IVUS"}
# Red, green, blue tables: plain, then segmented.
_PALETTES = ((0x00281201, 0x00281202, 0x00281203), (0x00281221, 0x00281222, 0x00281223))


def add_ultrasound(elements: Elements, tags: dict[str, Any]) -> None:
    """Add the regions of the picture and whether it holds colour to ``tags["plane"]``.

    Regions that contradict the size of the image (it was cropped or scaled after they were
    written) are worth nothing: flagged, and the picture counts as one without regions.
    """
    plane = tags["plane"]
    rows, columns = tags["rows"], tags["columns"]
    try:
        regions = regions_of(elements, rows, columns)
    except BadRegionError:
        plane["flags"].append("bad_region")
        regions = []
    if not regions:
        regions = [whole_picture(rows, columns, plane["spacing_mm"])]
        plane["flags"].append("sector_from_pixels")
        if elements.text("BurnedInAnnotation").upper() != "NO":
            plane["flags"].append("burned_in_text_possible")
    plane["regions"] = regions
    plane["colour"] = _holds_colour(elements, tags)


def _holds_colour(elements: Elements, tags: dict[str, Any]) -> bool:
    """Whether three channels are needed; colour that is only text or a logo is not.

    UltrasoundColorDataPresent decides, else the palette; colour pixels whose header says nothing
    stay in colour. Region types do not help: real Doppler cines call their regions tissue.
    """
    if tags["photometric"].startswith("MONOCHROME"):
        return False
    present = whole(elements, "UltrasoundColorDataPresent")
    if present is not None:
        return present != 0
    return not _is_grey_palette(elements)


def _is_grey_palette(elements: Elements) -> bool:
    for tables in _PALETTES:
        red, green, blue = (elements.bytes_at(tag) for tag in tables)
        if red and red == green == blue:
            return True
    return False
