"""Where voxels lie in the patient.

The affine maps voxel indices ordered (W, H, D) to RAS+ millimetres, as NIfTI does; arrays are
ordered (D, H, W). :func:`to_array_order` and :func:`to_voxel_order` are the only places where
the two orders meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError

Kind = Literal["image", "volume", "clip"]
FloatArray = npt.NDArray[np.floating[Any]]
AnyArray = npt.NDArray[Any]

# Two files show one grid when no corner is further apart: header rounding, not a shift.
GRID_TOLERANCE_MM = 1e-2
# The spacing law: a slice lies on the even line of its volume within the larger of these.
LINE_TOLERANCE_MM = 0.1
LINE_TOLERANCE_FRACTION = 0.02
# DICOM's axes run to the left and back, NIfTI's to the right and front.
RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
FARTHEST_MM = 1e6
# Spacings closer than this (relative) do not tell the axis of the slices.
_SAME_SPACING = 0.01


@dataclass(frozen=True, kw_only=True, eq=False)
class Geometry:
    """Geometry of one sample; ``None`` means that the file does not say.

    Attributes:
        kind: ``image`` (C,H,W), ``volume`` (C,D,H,W) or ``clip`` (C,T,H,W).
        affine: 4x4 float64, voxel (W, H, D) -> RAS+ mm; volumes only.
        spacing_mm: (D, H, W) for volumes, (H, W) for images and clips.
        frame_times_s: presentation time of each frame; clips only.
    """

    kind: Kind
    affine: npt.NDArray[np.float64] | None = None
    spacing_mm: tuple[float, ...] | None = None
    frame_times_s: tuple[float, ...] | None = None

    @classmethod
    def of_volume(cls, affine: npt.ArrayLike) -> Geometry:
        """Geometry of a volume from its affine.

        Raises:
            ReadError: ``bad_geometry`` if the affine is not finite, not affine or singular.
        """
        checked = check_affine(affine)
        return cls(kind="volume", affine=checked, spacing_mm=spacing_of(checked))


def check_affine(affine: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the affine as float64 4x4, or refuse it.

    Raises:
        ReadError: ``bad_geometry`` for NaN, infinite, absurdly far, singular or non-affine ones.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    fix = "repair the header with the tool that wrote the file"
    if matrix.shape != (4, 4):
        raise ReadError("bad_geometry", f"affine has shape {matrix.shape}, not (4, 4)", fix=fix)
    if not np.isfinite(matrix).all():
        raise ReadError("bad_geometry", "affine holds NaN or infinite values", fix=fix)
    if not np.array_equal(matrix[3], [0.0, 0.0, 0.0, 1.0]):
        raise ReadError("bad_geometry", f"last affine row is {matrix[3].tolist()}", fix=fix)
    if np.abs(matrix[:3]).max() > FARTHEST_MM:
        raise ReadError("bad_geometry", "affine leads farther than a kilometre away", fix=fix)
    if np.linalg.matrix_rank(matrix[:3, :3]) < 3 or min(spacing_of(matrix)) < 1e-6:
        raise ReadError("bad_geometry", "affine is singular: two voxel axes coincide", fix=fix)
    return matrix


def spacing_of(affine: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Voxel size in mm in array order (D, H, W): column norms of the affine, reversed."""
    w, h, d = np.linalg.norm(affine[:3, :3], axis=0)
    return float(d), float(h), float(w)


Plane = Literal["acquired", "axial", "coronal", "sagittal"]


def plane_axis(plane: Plane, spacing_mm: tuple[float, ...]) -> int:
    """Array axis (of a RAS+ volume) that slices of a plane are stacked along.

    ``acquired`` is the axis of the largest spacing; the first of equal ones, so axial where a
    volume is isotropic.

    >>> plane_axis("acquired", (1.0, 4.0, 1.0)), plane_axis("sagittal", (1.0, 4.0, 1.0))
    (1, 2)
    """
    if plane != "acquired":
        return ("axial", "coronal", "sagittal").index(plane)
    widest = max(spacing_mm) * (1 - _SAME_SPACING)
    return next(axis for axis, size_mm in enumerate(spacing_mm) if size_mm >= widest)


def cut_axis(plane: Plane, shape_DHW: tuple[int, ...], spacing_mm: tuple[float, ...] | None) -> int:
    """Axis of :func:`plane_axis`; 0 for pictures and clips, whose spacing is (H, W) or unknown."""
    if shape_DHW[0] == 1 or spacing_mm is None or len(spacing_mm) == 2:
        return 0
    return plane_axis(plane, spacing_mm)


def to_array_order(voxels_WHD: AnyArray) -> AnyArray:
    """NIfTI voxel order (W, H, D[, C]) -> array order ([C,] D, H, W), as a view."""
    return voxels_WHD.transpose(range(voxels_WHD.ndim)[::-1])


def to_voxel_order(x_DHW: AnyArray) -> AnyArray:
    """Array order ([C,] D, H, W) -> NIfTI voxel order (W, H, D[, C]), as a view."""
    return x_DHW.transpose(range(x_DHW.ndim)[::-1])


def shape_WHD(shape_DHW: tuple[int, ...]) -> tuple[int, int, int]:
    """Last three array axes in the affine's order."""
    d, h, w = shape_DHW[-3:]
    return w, h, d


def corners_mm(
    affine: npt.NDArray[np.float64], shape_DHW: tuple[int, ...]
) -> npt.NDArray[np.float64]:
    """World positions (8, 3) of the centres of the eight corner voxels, in mm."""
    w, h, d = shape_WHD(shape_DHW)
    grid = np.array([[i, j, k] for i in (0, w - 1) for j in (0, h - 1) for k in (0, d - 1)])
    return np.asarray(grid @ affine[:3, :3].T + affine[:3, 3])


def grid_distance_mm(
    affine: npt.NDArray[np.float64], other: npt.NDArray[np.float64], shape_DHW: tuple[int, ...]
) -> float:
    """Largest distance in mm between matching corners of two grids of one shape."""
    apart = corners_mm(affine, shape_DHW) - corners_mm(other, shape_DHW)
    return float(np.linalg.norm(apart, axis=1).max())


def line_tolerance_mm(step_mm: float) -> float:
    """How far a slice may lie off the even line of its volume.

    >>> line_tolerance_mm(2.0), line_tolerance_mm(10.0)
    (0.1, 0.2)
    """
    return max(LINE_TOLERANCE_MM, LINE_TOLERANCE_FRACTION * step_mm)


def axis_codes(affine: npt.NDArray[np.float64]) -> str:
    """Orientation of the voxel axes (W, H, D), e.g. ``RAS`` or ``LPS``."""
    axes, signs = _closest_axes(affine)
    names = ("RL", "AP", "SI")
    return "".join(names[a][0 if s > 0 else 1] for a, s in zip(axes, signs, strict=True))


def _closest_axes(affine: npt.NDArray[np.float64]) -> tuple[list[int], list[int]]:
    """For each voxel axis the world axis it runs along, and its sign (best permutation)."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    permutations = ([0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0])
    best = max(permutations, key=lambda p: sum(abs(directions[p[v], v]) for v in range(3)))
    signs = [1 if directions[best[v], v] >= 0 else -1 for v in range(3)]
    return best, signs


@dataclass(frozen=True)
class Reorientation:
    """Axis permutation and flips that bring a volume to RAS+ order, and back.

    No voxel is interpolated. ``order[k]`` is the source array axis (0=D, 1=H, 2=W) that becomes
    target axis k; ``flips`` are applied on the target axes.
    """

    order: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @classmethod
    def to_ras(cls, affine: npt.NDArray[np.float64]) -> Reorientation:
        """The lossless reorientation of a volume with this affine to closest RAS+."""
        axes, signs = _closest_axes(affine)
        source_voxel = [axes.index(world) for world in range(3)]  # per target voxel axis
        order = tuple(2 - source_voxel[2 - k] for k in range(3))
        flips = tuple(signs[source_voxel[2 - k]] < 0 for k in range(3))
        return cls(order, flips)  # type: ignore[arg-type]

    def apply(self, x_CDHW: AnyArray) -> AnyArray:
        """Reorient the last three axes; the result is a view."""
        lead = x_CDHW.ndim - 3
        turned = x_CDHW.transpose([*range(lead), *(lead + a for a in self.order)])
        return np.flip(turned, tuple(lead + k for k in range(3) if self.flips[k]))

    def undo(self, x_CDHW: AnyArray) -> AnyArray:
        """Inverse of :meth:`apply`."""
        lead = x_CDHW.ndim - 3
        straight = np.flip(x_CDHW, tuple(lead + k for k in range(3) if self.flips[k]))
        back = np.argsort(self.order)
        return straight.transpose([*range(lead), *(lead + int(a) for a in back)])

    def affine(
        self, affine: npt.NDArray[np.float64], shape_DHW: tuple[int, ...]
    ) -> npt.NDArray[np.float64]:
        """Affine of the reoriented volume; ``shape_DHW`` is the shape before."""
        size = shape_WHD(shape_DHW)
        old_from_new = np.eye(4)
        old_from_new[:3, :3] = 0.0
        for target in range(3):
            source = 2 - self.order[2 - target]
            flipped = self.flips[2 - target]
            old_from_new[source, target] = -1.0 if flipped else 1.0
            old_from_new[source, 3] = size[source] - 1 if flipped else 0.0
        return affine @ old_from_new


def resized_affine(
    affine: npt.NDArray[np.float64], old_DHW: tuple[int, ...], new_DHW: tuple[int, ...]
) -> npt.NDArray[np.float64]:
    """Affine of a grid of ``new_DHW`` voxels that fills the same field of view.

    Voxel edges, not centres, of first and last voxel stay in place, so that resampling there
    and back returns to the same grid.
    """
    step = np.array(shape_WHD(old_DHW)) / np.array(shape_WHD(new_DHW))
    old_from_new = np.eye(4)
    old_from_new[:3, :3] = np.diag(step)
    old_from_new[:3, 3] = (step - 1) / 2
    return affine @ old_from_new
