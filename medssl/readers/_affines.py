"""Affines of volume files: checked, and rounding of the directions repaired.

Axes within 0.06 degrees of right angles are header rounding. If that moves a corner by
more than 1e-3 mm they are replaced by the nearest rotation (same spacing, same centre) and the
record is flagged ``orthonormalised_mm=<how far the farthest corner moved>``. A larger angle may be
a real tilt: it is kept as stored and flagged ``sheared``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError
from medssl.core.geometry import check_affine, grid_distance_mm

RIGHT_ANGLE_TOLERANCE = 1e-3
VISIBLE_MM = 1e-3


def settle(
    affine: npt.NDArray[np.float64] | None, shape_WHD: tuple[int, int, int]
) -> tuple[npt.NDArray[np.float64] | None, list[str]]:
    """The affine by the rule of the module docstring, and its flags."""
    if affine is None:
        return None, ["geometry_unknown"]
    steps = affine[:3, :3]
    spacing = np.linalg.norm(steps, axis=0)
    directions = steps / spacing
    if np.abs(directions.T @ directions - np.eye(3)).max() > RIGHT_ANGLE_TOLERANCE:
        return affine, ["sheared"]
    left, _, right = np.linalg.svd(directions)
    centre = (np.array(shape_WHD) - 1) / 2
    nearest = np.eye(4)
    nearest[:3, :3] = (left @ right) * spacing
    nearest[:3, 3] = affine[:3, 3] + (steps - nearest[:3, :3]) @ centre
    moved_mm = grid_distance_mm(affine, nearest, shape_WHD[::-1])
    if moved_mm <= VISIBLE_MM:
        return affine, []
    return nearest, [f"orthonormalised_mm={moved_mm:.3g}"]


def checked_affine(
    columns_mm: npt.ArrayLike, origin_mm: npt.ArrayLike, where: str, *, lps: bool = False
) -> npt.NDArray[np.float64]:
    """RAS+ affine from the steps (columns) and position of the first voxel.

    Raises:
        ReadError: ``bad_geometry``.
    """
    affine = np.eye(4)
    affine[:3, :3] = columns_mm
    affine[:3, 3] = origin_mm
    if lps:
        affine[:2] *= -1.0
    try:
        return check_affine(affine)
    except ReadError as error:
        raise ReadError(error.reason, error.what, where=where, fix=error.fix) from None
