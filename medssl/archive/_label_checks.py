"""Whether a label map fits its image: one grid, whole numbers, known values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError
from medssl.core.geometry import GRID_TOLERANCE_MM, Geometry, grid_distance_mm
from medssl.readers._base import Found
from medssl.readers._dicom_sources import identity_of


def check_grid(
    shape: tuple[int, ...],
    geometry: Geometry,
    image_shape: tuple[int, ...],
    image_geometry: Geometry,
    path: Path,
) -> None:
    """Refuse a channel that does not lie on the grid of the first one."""
    if geometry.affine is None or image_geometry.affine is None:
        what = "a channel does not say where its voxels lie"
        raise ReadError("geometry_unknown", what, where=str(path))
    if shape[1:] != image_shape[1:]:
        what = f"the channel has shape {shape}, the image {image_shape}"
        fix = "resample the channel to the grid of its image"
        raise ReadError("channel_shape_mismatch", what, where=str(path), fix=fix)
    apart_mm = grid_distance_mm(geometry.affine, image_geometry.affine, shape[1:])
    if apart_mm > GRID_TOLERANCE_MM:
        what = f"a corner of the channel lies {apart_mm:.3g} mm from the image's"
        fix = f"at most {GRID_TOLERANCE_MM} mm is rounding; correct the header that is wrong"
        raise ReadError("channel_affine_mismatch", what, where=str(path), fix=fix)


def check_space(label: Found, image: Found) -> None:
    """Refuse a DICOM label of another frame of reference than its DICOM image."""
    space = label.options.get("space")
    if not space or image.format != "dicom":
        return
    other = identity_of(image).frame_of_reference
    if other and other != space:
        what = "label and image were made in different frames of reference"
        fix = "register them, and export the label on the image"
        raise ReadError("other_frame_of_reference", what, where=label.files[0], fix=fix)


def check_values(labels_DHW: npt.NDArray[np.uint8], names: Mapping[int, str], path: Path) -> None:
    """Refuse labels with a value that has no name, or with background only."""
    check_names(labels_DHW, names, path)
    if not labels_DHW.any():
        fix = "label it, or take the case out"
        raise ReadError(
            "empty_label", "the label map holds only background", where=str(path), fix=fix
        )


def check_names(labels: npt.NDArray[np.uint8], names: Mapping[int, str], path: Path) -> None:
    """Refuse labels with a value that has no name."""
    unknown = sorted(set(np.unique(labels).tolist()) - set(names))
    if unknown:
        what = f"label values {unknown[:8]} are not among {sorted(names)}"
        fix = "add them to the labels of the data set, or remove them from the file"
        raise ReadError("unknown_label_values", what, where=str(path), fix=fix)
