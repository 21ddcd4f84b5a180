"""Siemens mosaics: the slices of a volume tiled into one image.

The position in the header is that of the large image; the first tile lies where an image of the
tile's size with the same centre would. Number and direction of the slices come from the CSA header
(0029,1010); layout of that header as documented by nibabel and GDCM.
"""

from __future__ import annotations

import math
import re
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError
from medssl.readers._dicom_tags import Elements

_CSA_IMAGE_HEADER = 0x00291010
_MAX_TAGS, _MAX_ITEMS = 1024, 4096
_MAX_TILES = 1024
# Cosine between the CSA normal and that of the image plane.
_PARALLEL = 0.999


def is_mosaic(tags: dict[str, Any]) -> bool:
    """Whether ImageType says so."""
    return "MOSAIC" in tags["image_type"].split("\\")


def add_tiles(elements: Elements, tags: dict[str, Any]) -> None:
    """Complete the tags of a mosaic with the place of each slice.

    Raises:
        ReadError: ``unsupported_mosaic`` without a CSA header, ``header_contradiction``,
            ``bad_geometry``.
    """
    csa = read_csa(elements.bytes_at(_CSA_IMAGE_HEADER))
    n, normal = _tiles(csa, tags), _normal(csa, tags)
    per_row = math.ceil(math.sqrt(n))
    if tags["rows"] % per_row or tags["columns"] % per_row:
        what = f"{n} tiles do not fit {tags['rows']} x {tags['columns']} pixels"
        raise ReadError("header_contradiction", what)
    rows, columns = tags["rows"] // per_row, tags["columns"] // per_row
    first_mm = _first_position(tags, rows, columns)
    step_mm = tags["extra"].get("SpacingBetweenSlices", 0.0)
    if not step_mm > 0:
        raise ReadError("bad_geometry", "a mosaic without SpacingBetweenSlices")
    places = first_mm + np.arange(n)[:, None] * step_mm * normal
    tags["tiles_per_row"] = per_row
    tags["slices"] = [
        {"rows": rows, "columns": columns, "position_mm": place} for place in places.tolist()
    ]


def tile(image_HW: npt.NDArray[Any], number: int, per_row: int) -> npt.NDArray[Any]:
    """Tile of a mosaic, counted row by row."""
    rows, columns = (size // per_row for size in image_HW.shape)
    top, left = number // per_row * rows, number % per_row * columns
    return image_HW[top : top + rows, left : left + columns]


def read_csa(content: bytes) -> dict[str, list[str]]:
    """Values of a Siemens CSA header by name, both forms (with and without ``SV10``).

    Raises:
        ReadError: ``unsupported_mosaic`` if it is absent or broken.
    """
    try:
        return _read_csa(content)
    except (struct.error, IndexError, ValueError):
        what = "the Siemens CSA header is missing or broken"
        raise ReadError("unsupported_mosaic", what) from None


def _read_csa(content: bytes) -> dict[str, list[str]]:
    second_form = content[:4] == b"SV10"
    at = 8 if second_form else 0
    n_tags, check = struct.unpack_from("<2I", content, at)
    at += 8
    if check != 77 or not 1 <= n_tags <= _MAX_TAGS:
        raise ValueError
    found: dict[str, list[str]] = {}
    first_count = 0
    for number in range(n_tags):
        name, _, _, _, n_items, check = struct.unpack_from("<64si4s3i", content, at)
        at += 84
        if check not in {77, 205} or not 0 <= n_items <= _MAX_ITEMS:
            raise ValueError
        first_count = n_items if number == 0 else first_count
        values = []
        for _ in range(n_items):
            lengths = struct.unpack_from("<4i", content, at)
            at += 16
            # The first form counts lengths from the number of items of the first tag.
            length = lengths[1] if second_form else lengths[0] - first_count
            if length < 0 or at + length > len(content):
                raise ValueError
            values.append(content[at : at + length].split(b"\0", 1)[0].decode("latin-1").strip())
            at += (length + 3) // 4 * 4
        found[name.split(b"\0", 1)[0].decode("latin-1")] = [value for value in values if value]
    return found


def _tiles(csa: dict[str, list[str]], tags: dict[str, Any]) -> int:
    stated = csa.get("NumberOfImagesInMosaic", [])
    if len(stated) != 1 or not re.fullmatch(r"\d{1,4}", stated[0]):
        raise ReadError("unsupported_mosaic", "the CSA header does not count the tiles")
    n = int(stated[0])
    if n != tags["extra"].get("MosaicImages", n) or not 1 <= n <= _MAX_TILES:
        raise ReadError("header_contradiction", f"a mosaic of {n} tiles in one place, not another")
    return n


def _normal(csa: dict[str, list[str]], tags: dict[str, Any]) -> npt.NDArray[np.float64]:
    """Direction in which the tiles follow each other."""
    if not tags["orientation"] or not tags["position_mm"] or not tags["pixel_spacing_mm"]:
        raise ReadError("bad_geometry", "a mosaic without orientation, position or PixelSpacing")
    row, column = np.reshape(tags["orientation"], (2, 3))
    plane = np.cross(row, column)
    try:
        stated = np.array([float(value) for value in csa.get("SliceNormalVector", [])])
    except ValueError:
        stated = np.empty(0)
    if stated.shape != (3,) or not np.isfinite(stated).all():
        raise ReadError("unsupported_mosaic", "the CSA header has no SliceNormalVector")
    cosine = float(stated @ plane)
    if abs(cosine) < _PARALLEL:
        what = "the tiles do not follow each other along the normal of the image plane"
        raise ReadError("header_contradiction", what)
    return np.asarray(plane * np.sign(cosine))


def _first_position(tags: dict[str, Any], rows: int, columns: int) -> npt.NDArray[np.float64]:
    row, column = np.reshape(tags["orientation"], (2, 3))
    height_mm, width_mm = tags["pixel_spacing_mm"]
    right = (tags["columns"] - columns) / 2 * width_mm * row
    down = (tags["rows"] - rows) / 2 * height_mm * column
    return np.asarray(np.array(tags["position_mm"]) + right + down)
