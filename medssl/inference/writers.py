"""Label maps as NIfTI on the input's grid or as PNG, and their volumes in mm³ or areas."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from isal import igzip
from PIL import Image

from medssl.core.geometry import grid_distance_mm, to_voxel_order
from medssl.core.runlog import disk_error, write_bytes, write_text

Affine = npt.NDArray[np.float64]
Labels = npt.NDArray[np.uint8]

# All that places a NIfTI in space. Nothing else is copied: `descrip`, `db_name` and extensions
# may name the patient.
_PLACE = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)
_SCANNER = 1
PROBABILITIES = "_prob.npz"
"""End of the name of a file of class probabilities."""
_ONE = np.float32(65535)
# The reader flags files whose qform and sform differ by more.
_FORM_TOLERANCE_MM = 0.1


def write_segmentation(
    path: Path, labels_DHW: Labels, affine: Affine, *, like: Path | None = None
) -> None:
    """Write a label map as .nii.gz, uint8.

    Args:
        path: the file; written whole or not at all.
        labels_DHW: label of each voxel.
        affine: voxel (W, H, D) -> RAS+ mm; used where there is no ``like``.
        like: the input NIfTI; its sform and qform are kept bit for bit.

    Raises:
        ResourceError: the disk is full.
    """
    voxels_WHD = to_voxel_order(labels_DHW)
    image = _on_scanner(voxels_WHD, affine) if like is None else _on_grid(voxels_WHD, like)
    write_bytes(path, igzip.compress(image.to_bytes(), mtime=0))


def voxel_mm3(affine: Affine) -> float:
    """Volume of one voxel, sheared grids included."""
    return float(abs(np.linalg.det(affine[:3, :3])))


def volumes_mm3(labels_DHW: Labels, affine: Affine, names: Mapping[int, str]) -> dict[int, float]:
    """Volume of every named label but the background, absent labels included."""
    counts = np.bincount(labels_DHW.ravel(), minlength=256)
    return {k: int(counts[k]) * voxel_mm3(affine) for k in names if k != 0}


def write_mask(path: Path, labels_HW: Labels) -> None:
    """Write a label map as grey PNG; levels are label values.

    No palette: OpenCV, ITK and others would read its colours instead of the labels.

    Raises:
        ResourceError: the disk is full.
    """
    png = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(labels_HW)).save(png, format="PNG")
    write_bytes(path, png.getvalue())


def write_probabilities(path: Path, p_KDHW: npt.NDArray[np.floating[Any]]) -> None:
    """Write class probabilities as ``p_KDHW`` of an .npz file, 65535 = 1.

    Raises:
        ResourceError: the disk is full.
    """
    packed = io.BytesIO()
    np.savez_compressed(packed, p_KDHW=np.rint(p_KDHW * _ONE).astype(np.uint16))
    write_bytes(path, packed.getvalue())


def read_probabilities(path: Path) -> npt.NDArray[np.float32]:
    """(K, D, H, W) as they were written; they sum to 1."""
    with np.load(path) as file:
        p_KDHW = file["p_KDHW"].astype(np.float32)
    p_KDHW = np.maximum(p_KDHW, np.float32(0.5))  # what was rounded to 0 is not impossible
    return np.asarray(p_KDHW / p_KDHW.sum(0))


def areas(
    labels_HW: Labels, spacing_mm: tuple[float, ...] | None, names: Mapping[int, str]
) -> dict[int, tuple[int, float | None]]:
    """Pixels and mm² of every named label but the background; mm² where pixels have a size."""
    counts = np.bincount(labels_HW.ravel(), minlength=256)
    mm2 = None if spacing_mm is None else spacing_mm[0] * spacing_mm[1]
    return {
        k: (int(counts[k]), None if mm2 is None else int(counts[k]) * mm2) for k in names if k != 0
    }


def write_label_names(path: Path, names: Mapping[int, str]) -> None:
    """Write ``{"0": "background", ...}``."""
    write_text(path, json.dumps({str(k): v for k, v in sorted(names.items())}, indent=1) + "\n")


def write_table(path: Path, rows: Sequence[Sequence[object]]) -> None:
    """Write a CSV file; the first row names the columns."""
    write_text(path, _csv(rows))


def append_table(path: Path, rows: Sequence[Sequence[object]]) -> None:
    """Add rows to a CSV file; a crash can leave the last one torn.

    Raises:
        ResourceError: the disk is full.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(_csv(rows))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise disk_error(error) from error


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _on_grid(voxels_WHD: Labels, like: Path) -> Any:
    source = nib.load(like).header
    header = type(source)()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(voxels_WHD.shape)
    for field in _PLACE:
        header[field] = source[field]
    header["pixdim"][:4] = source["pixdim"][:4]
    image_class = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    return image_class(voxels_WHD, None, header)


def _on_scanner(voxels_WHD: Labels, affine: Affine) -> Any:
    image = nib.Nifti1Image(voxels_WHD, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, _SCANNER)
    # A qform holds no shear. ITK needs one where direction cosines are rounded; a wrong one harms.
    image.set_qform(affine, _SCANNER, strip_shears=True)
    off_mm = grid_distance_mm(affine, image.header.get_qform(), voxels_WHD.shape[::-1])
    if off_mm > _FORM_TOLERANCE_MM:
        image.header["qform_code"] = 0
    return image
