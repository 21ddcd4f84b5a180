"""From the slices of one volume to its grid: gaps and tilt by the user's policy.

A gantry tilt is seen from the positions, which lean against the slice normal; the header's own tilt
angle is not for computing.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError
from medssl.core.geometry import RAS_FROM_LPS
from medssl.readers._base import Policy
from medssl.readers._dicom_line import MIN_SLICES, Line, fit_line, is_even
from medssl.readers._dicom_slices import SAME_POSITION_MM, Slices, count_doubled, normal_of

# Stacks that lean more than this against their normal were scanned with a tilted gantry.
TILT_TOLERANCE_DEG = 0.1
# A resampled gap may not make more slices than this many times those that were scanned.
_MAX_FILL = 4
_LOCALIZERS = {"LOCALIZER", "SCOUT", "TOPOGRAM", "SURVEY"}


class Stack(NamedTuple):
    """Slices in order along the normal and the grid that they become."""

    slices: Slices
    affine: npt.NDArray[np.float64]
    """Voxel (W, H, D) -> RAS+ mm."""
    shape_DHW: tuple[int, int, int]
    residual_mm: float
    flags: tuple[str, ...]
    resampling: dict[str, Any]
    """What ``load`` does beside stacking, see :mod:`medssl.readers._dicom_resample`."""


def build_stacks(slices: Slices, policy: Policy) -> tuple[list[Stack], Slices]:
    """The volumes of slices that share an orientation, and slices left over beside a gap.

    Raises:
        ReadError: ``too_few_slices``, ``localizer``, ``duplicate_position``, ``bad_geometry``,
            ``gap``.
    """
    n = len(slices)
    if n < MIN_SLICES:
        raise _too_few(slices)
    doubled = count_doubled(slices)
    if doubled:
        raise ReadError("duplicate_position", f"{doubled} of {n} slices share a position")
    line = fit_line(slices)
    ordered = [slices[i] for i in line.order]
    if line.even:
        return [_stack(ordered, line, policy)], []
    if policy.gaps == "resample":
        return [_filled(ordered, line, policy)], []
    if policy.gaps == "split":
        runs, left = _even_runs(ordered)
        if runs:
            return [_stack(run, fit_line(run), policy) for run in runs], left
    raise _gap(line)


def _too_few(slices: Slices) -> ReadError:
    what = f"{len(slices)} slices; a volume needs at least {MIN_SLICES}"
    kinds = {word for one in slices for word in one.tags["image_type"].split("\\")}
    return ReadError("localizer" if kinds & _LOCALIZERS else "too_few_slices", what)


def _gap(line: Line) -> ReadError:
    steps_mm = np.diff(line.along_mm)
    if np.ptp(steps_mm) <= line.allowed_mm:
        what = f"a slice lies {line.residual_mm:.2f} mm beside the line through the others"
        return ReadError("bad_geometry", what)
    what = f"slice steps run from {steps_mm.min():.2f} to {steps_mm.max():.2f} mm; "
    what += f"{line.residual_mm:.2f} mm off an even line, {line.allowed_mm:.2f} mm allowed"
    return ReadError("gap", what, fix="find the missing slices")


def _even_runs(ordered: Slices) -> tuple[list[Slices], Slices]:
    """Longest even runs from the first slice on, and the slices that are in none."""
    runs: list[Slices] = []
    left: Slices = []
    start = 0
    while start < len(ordered):
        end = start + MIN_SLICES
        while end <= len(ordered) and is_even(ordered[start:end]):
            end += 1
        run = ordered[start : end - 1]
        if is_even(run):
            runs.append(run)
            start = end - 1
        else:
            left.append(ordered[start])
            start += 1
    return runs, left


def _filled(ordered: Slices, line: Line, policy: Policy) -> Stack:
    """A stack whose gaps are interpolated: its step is the smallest one that was scanned."""
    length_mm = float(line.along_mm[-1])
    n = round(length_mm / float(np.diff(line.along_mm).min())) + 1
    ends = line.positions_mm[-1] - line.positions_mm[0]
    straight = line.positions_mm[0] + line.along_mm[:, None] / length_mm * ends
    off_mm = float(np.linalg.norm(line.positions_mm - straight, axis=1).max())
    if n > _MAX_FILL * len(ordered) or off_mm > line.allowed_mm:
        raise _gap(line)
    even = line._replace(step_mm=ends / (n - 1), residual_mm=off_mm)
    stack = _stack(ordered, even, policy, n)
    resampling = {**stack.resampling, "along_mm": line.along_mm.tolist()}
    return stack._replace(flags=(*stack.flags, "gap_resampled"), resampling=resampling)


def _stack(ordered: Slices, line: Line, policy: Policy, n: int | None = None) -> Stack:
    tags = ordered[0].tags
    n = n or len(ordered)
    row, column = np.reshape(tags["orientation"], (2, 3))
    height_mm, width_mm = tags["pixel_spacing_mm"]
    affine = np.eye(4)
    affine[:3, 0] = row * width_mm
    affine[:3, 1] = column * height_mm
    affine[:3, 2] = line.step_mm
    affine[:3, 3] = line.positions_mm[0]
    shape = (n, tags["rows"], tags["columns"])
    flags: tuple[str, ...] = ()
    if line.residual_mm > SAME_POSITION_MM:
        flags = (f"position_residual_mm={line.residual_mm:.3f}",)
    stack = Stack(ordered, affine, shape, line.residual_mm, flags, {})
    tilt_deg = _tilt_deg(line.step_mm, normal_of(ordered))
    if tilt_deg > TILT_TOLERANCE_DEG:
        stack = stack._replace(flags=(*flags, f"gantry_tilt_deg={tilt_deg:.1f}"))
        if policy.tilt == "resample":
            stack = _upright(stack)
    return stack._replace(affine=RAS_FROM_LPS @ stack.affine)


def _tilt_deg(step_mm: npt.NDArray[np.float64], normal: npt.NDArray[np.float64]) -> float:
    along = float(step_mm @ normal)
    return math.degrees(math.atan2(float(np.linalg.norm(step_mm - along * normal)), along))


def _upright(stack: Stack) -> Stack:
    """The grid with right angles that holds all of a sheared stack; ``affine`` is still LPS."""
    affine = stack.affine.copy()
    n, *size = stack.shape_DHW
    normal = normal_of(stack.slices)
    along = normal * (affine[:3, 2] @ normal)
    across = affine[:3, 2] - along
    # Rows and columns by which each slice lies further than the one before.
    shift_px = [float(across @ affine[:3, a] / (affine[:3, a] @ affine[:3, a])) for a in (1, 0)]
    low = [math.floor(min(0.0, d * (n - 1))) for d in shift_px]
    high = [math.ceil(max(0.0, d * (n - 1))) for d in shift_px]
    affine[:3, 3] += low[0] * affine[:3, 1] + low[1] * affine[:3, 0]
    affine[:3, 2] = along
    rows, columns = (size[a] + high[a] - low[a] for a in (0, 1))
    return stack._replace(
        affine=affine,
        shape_DHW=(n, rows, columns),
        flags=(*stack.flags, "tilt_resampled"),
        resampling={"shift_px": shift_px, "low_px": low},
    )
