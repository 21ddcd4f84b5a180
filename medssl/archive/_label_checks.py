"""Whether a label map fits its image: one grid, whole numbers, known values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError
from medssl.core.geometry import GRID_TOLERANCE_MM, Geometry, grid_distance_mm

MAX_LABEL = 255


def check_grid(
    shape: tuple[int, ...],
    geometry: Geometry,
    image_shape: tuple[int, ...],
    image_geometry: Geometry,
    path: Path,
    part: str,
) -> None:
    """Refuse a channel or label that does not lie on the grid of its image."""
    if geometry.affine is None or image_geometry.affine is None:
        what = f"the {part} or the image does not say where its voxels lie"
        raise ReadError("geometry_unknown", what, where=str(path))
    if shape[1:] != image_shape[1:] or (part == "label" and shape[0] != 1):
        what = f"the {part} has shape {shape}, the image {image_shape}"
        fix = f"resample the {part} to the grid of its image"
        raise ReadError(f"{part}_shape_mismatch", what, where=str(path), fix=fix)
    apart_mm = grid_distance_mm(geometry.affine, image_geometry.affine, shape[1:])
    if apart_mm > GRID_TOLERANCE_MM:
        what = f"a corner of the {part} lies {apart_mm:.3g} mm from the image's"
        fix = f"at most {GRID_TOLERANCE_MM} mm is rounding; correct the header that is wrong"
        raise ReadError(f"{part}_affine_mismatch", what, where=str(path), fix=fix)


def label_values(
    array_CDHW: npt.NDArray[Any], names: Mapping[int, str], path: Path
) -> npt.NDArray[np.uint8]:
    """Labels (D, H, W); refused if a value is unknown or all are background."""
    values = whole_values(array_CDHW, path)
    unknown = sorted(set(values) - set(names))
    if unknown:
        what = f"label values {unknown[:8]} are not among {sorted(names)}"
        fix = "add them to the labels of the data set, or remove them from the file"
        raise ReadError("unknown_label_values", what, where=str(path), fix=fix)
    if not any(values):
        fix = "label it, or take the case out"
        raise ReadError(
            "empty_label", "the label map holds only background", where=str(path), fix=fix
        )
    labels_DHW: npt.NDArray[np.uint8] = array_CDHW[0].astype(np.uint8)
    return labels_DHW


def whole_values(array: npt.NDArray[Any], path: Path) -> list[int]:
    """The values that occur; refused unless they are whole numbers of one byte."""
    values = np.unique(array)
    if not np.isfinite(values).all() or (values != np.round(values)).any():
        fix = "resample label maps by nearest neighbour"
        what = "the label map holds values that are no whole numbers"
        raise ReadError("non_integer_labels", what, where=str(path), fix=fix)
    if values.min() < 0 or values.max() > MAX_LABEL:
        what = (
            f"label values run from {values.min():.0f} to {values.max():.0f}, not 0 to {MAX_LABEL}"
        )
        raise ReadError("unknown_label_values", what, where=str(path))
    return [int(value) for value in values]
