"""Agreement of a label map with its reference: Dice, HD95 in mm, volume error in mm³.

Pictures: HD95 and area error in pixels, with the four face neighbours and the picture's diagonal.

Distances are measured between the centres of surface voxels in world coordinates, so that
anisotropic and oblique (even sheared) grids give true millimetres. A surface voxel is a voxel of
the label with at least one of its six face neighbours outside the label or outside the image.

Rules for empty labels: both empty gives Dice 1 and HD95 0; one empty gives Dice 0 and, as HD95,
the diagonal of the image in mm, so that a missed organ counts in the mean.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from medssl.core.geometry import shape_WHD

BoolArray = npt.NDArray[np.bool_]
Affine = npt.NDArray[np.float64]


class LabelScore(NamedTuple):
    """Scores of one label in one case; ``volume_error_mm3`` is predicted minus reference."""

    dice: float
    hd95_mm: float
    volume_error_mm3: float

    @classmethod
    def both_empty(cls) -> LabelScore:
        """Of a label that is in neither."""
        return cls(dice=1.0, hd95_mm=0.0, volume_error_mm3=0.0)


class PictureScore(NamedTuple):
    """Scores of one label in one picture, in pixels; the error is predicted minus reference."""

    dice: float
    hd95_px: float
    area_error_px: int

    @classmethod
    def both_empty(cls) -> PictureScore:
        """Of a label that is in neither."""
        return cls(dice=1.0, hd95_px=0.0, area_error_px=0)


def score_labels(
    pred_DHW: npt.NDArray[np.integer[Any]],
    ref_DHW: npt.NDArray[np.integer[Any]],
    affine: Affine,
) -> dict[int, LabelScore]:
    """Scores of every non-zero label that occurs in the prediction or in the reference.

    A label of the task that occurs in neither scores :meth:`LabelScore.both_empty`.

    Args:
        pred_DHW: predicted labels, 0 is background.
        ref_DHW: reference labels on the same grid.
        affine: voxel (W, H, D) -> mm.
    """
    present = np.union1d(np.unique(pred_DHW), np.unique(ref_DHW))
    return {int(k): score(pred_DHW == k, ref_DHW == k, affine) for k in present if k != 0}


def score_pictures(
    pred_HW: npt.NDArray[np.integer[Any]], ref_HW: npt.NDArray[np.integer[Any]]
) -> dict[int, PictureScore]:
    """As :func:`score_labels` for a picture; distances between pixel centres, in pixels."""
    present = np.union1d(np.unique(pred_HW), np.unique(ref_HW))
    return {int(k): _score_picture(pred_HW == k, ref_HW == k) for k in present if k != 0}


def _score_picture(pred_HW: BoolArray, ref_HW: BoolArray) -> PictureScore:
    outlines = (
        np.argwhere(m & ~ndimage.binary_erosion(m)).astype(float) for m in (pred_HW, ref_HW)
    )
    return PictureScore(
        dice=dice(pred_HW, ref_HW),
        hd95_px=_hd95(*outlines, missing=float(np.hypot(*pred_HW.shape))),
        area_error_px=int(pred_HW.sum()) - int(ref_HW.sum()),
    )


def dice(pred_DHW: BoolArray, ref_DHW: BoolArray) -> float:
    """Dice of one label; 1 where it is in neither.

    >>> dice(np.array([True, True]), np.array([True, False]))
    0.6666666666666666
    """
    total = int(pred_DHW.sum()) + int(ref_DHW.sum())
    return 2.0 * int((pred_DHW & ref_DHW).sum()) / total if total else 1.0


def score(pred_DHW: BoolArray, ref_DHW: BoolArray, affine: Affine) -> LabelScore:
    """Scores of one label, with the rules for empty labels stated above."""
    sizes_vox = int(pred_DHW.sum()), int(ref_DHW.sum())
    if sizes_vox == (0, 0):
        return LabelScore.both_empty()
    voxel_mm3 = float(abs(np.linalg.det(affine[:3, :3])))
    return LabelScore(
        dice=dice(pred_DHW, ref_DHW),
        hd95_mm=hd95_mm(pred_DHW, ref_DHW, affine),
        volume_error_mm3=(sizes_vox[0] - sizes_vox[1]) * voxel_mm3,
    )


def hd95_mm(pred_DHW: BoolArray, ref_DHW: BoolArray, affine: Affine) -> float:
    """Symmetric 95th-percentile Hausdorff distance in mm.

    The larger of the two directed 95th percentiles of the distance from a surface voxel of one
    mask to the nearest surface voxel of the other (MONAI's definition).
    """
    surfaces = surface_mm(pred_DHW, affine), surface_mm(ref_DHW, affine)
    return _hd95(*surfaces, missing=diagonal_mm(affine, pred_DHW.shape))


def _hd95(
    pred_NA: npt.NDArray[np.float64], ref_NA: npt.NDArray[np.float64], *, missing: float
) -> float:
    """Between two sets of points; ``missing`` where one of them is empty."""
    if len(pred_NA) == 0 and len(ref_NA) == 0:
        return 0.0
    if len(pred_NA) == 0 or len(ref_NA) == 0:
        return missing
    to_ref, _ = cKDTree(ref_NA).query(pred_NA)
    to_pred, _ = cKDTree(pred_NA).query(ref_NA)
    return float(max(np.percentile(to_ref, 95), np.percentile(to_pred, 95)))


def surface_mm(mask_DHW: BoolArray, affine: Affine) -> npt.NDArray[np.float64]:
    """World positions (N, 3) in mm of the centres of the surface voxels."""
    boxes = ndimage.find_objects(mask_DHW.astype(np.uint8))
    if not boxes:
        return np.zeros((0, 3))
    inside = mask_DHW[boxes[0]]
    index_DHW = np.argwhere(inside & ~ndimage.binary_erosion(inside))
    index_DHW += [axis.start for axis in boxes[0]]
    return np.asarray(index_DHW[:, ::-1] @ affine[:3, :3].T + affine[:3, 3])


def diagonal_mm(affine: Affine, shape_DHW: tuple[int, ...]) -> float:
    """Longest diagonal of the field of view (outer voxel edges) in mm."""
    signs = np.array([(1, *pair) for pair in itertools.product((1, -1), repeat=2)])
    diagonals = (signs * shape_WHD(shape_DHW)) @ affine[:3, :3].T
    return float(np.linalg.norm(diagonals, axis=1).max())
