"""From DICOM slice headers to volumes: which slices belong together, in which order, and where.

Order comes from ImagePositionPatient along the slice normal, never from InstanceNumber. Spacing is
(last - first) / (n - 1), and only where every position lies within max(0.1 mm, 2 % of the spacing)
of that line; anything else is refused with a reason.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError
from medssl.core.geometry import Geometry
from medssl.readers._base import FileHeader, Found, Refused
from medssl.readers._dicom_pixels import is_uncompressed

MIN_SLICES = 3
# Direction cosines this close are one orientation (0.06 degrees).
ORIENTATION_TOLERANCE = 1e-3
# Closer than this two slices lie at one position.
SAME_POSITION_MM = 0.01
LINE_TOLERANCE_MM = 0.1
LINE_TOLERANCE_FRACTION = 0.02
# Stacks that lean more than this against their normal were scanned with a tilted gantry.
TILT_TOLERANCE_DEG = 0.1
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

Slices = list[FileHeader]


class Stack(NamedTuple):
    """Slices in order along the normal, their affine, and how far they lie off the line."""

    slices: Slices
    affine: npt.NDArray[np.float64]
    residual_mm: float


def stack_slices(headers: Slices) -> tuple[list[Found], list[Refused]]:
    """Assemble the slices of any number of series; every file ends in one of the two lists."""
    found: list[Found] = []
    refused: list[Refused] = []
    for members in _candidates(headers):
        try:
            found.append(_found(build_stack(members)))
        except ReadError as error:
            files = tuple(one.path for one in members)
            refused.append(Refused(files=files, reason=error.reason, message=error.what))
    return found, refused


def build_stack(slices: Slices) -> Stack:
    """Order slices of one orientation and lay a line through their positions.

    Raises:
        ReadError: ``too_few_slices``, ``duplicate_position``, ``gap``, ``gantry_tilt``.
    """
    n = len(slices)
    if n < MIN_SLICES:
        raise ReadError("too_few_slices", f"{n} slices; a volume needs at least {MIN_SLICES}")
    row, column = np.reshape(slices[0].tags["orientation"], (2, 3))
    normal = np.cross(row, column)
    positions = np.array([one.tags["position_mm"] for one in slices])
    along_mm = positions @ normal
    order = np.argsort(along_mm, kind="stable")
    along_mm, positions = along_mm[order], positions[order]
    steps_mm = np.diff(along_mm)
    if (steps_mm < SAME_POSITION_MM).any():
        doubled = int((steps_mm < SAME_POSITION_MM).sum())
        raise ReadError("duplicate_position", f"{doubled} of {n} slices share a position")
    step_mm = float(along_mm[-1] - along_mm[0]) / (n - 1)
    step_vector = (positions[-1] - positions[0]) / (n - 1)
    line = positions[0] + np.arange(n)[:, None] * step_vector
    residual_mm = float(np.linalg.norm(positions - line, axis=1).max())
    allowed_mm = max(LINE_TOLERANCE_MM, LINE_TOLERANCE_FRACTION * step_mm)
    if residual_mm > allowed_mm:
        low, high = steps_mm.min(), steps_mm.max()
        what = f"slice steps run from {low:.2f} to {high:.2f} mm; "
        what += f"{residual_mm:.2f} mm off an even line, {allowed_mm:.2f} mm allowed"
        raise ReadError("gap", what, fix="find the missing slices")
    _refuse_tilt(step_vector, normal)
    height_mm, width_mm = slices[0].tags["pixel_spacing_mm"]
    affine = np.eye(4)
    affine[:3, 0] = row * width_mm
    affine[:3, 1] = column * height_mm
    affine[:3, 2] = step_vector
    affine[:3, 3] = positions[0]
    return Stack([slices[i] for i in order], _RAS_FROM_LPS @ affine, residual_mm)


def _refuse_tilt(step_vector: npt.NDArray[np.float64], normal: npt.NDArray[np.float64]) -> None:
    along = float(step_vector @ normal)
    across = float(np.linalg.norm(step_vector - along * normal))
    tilt_deg = float(np.degrees(np.arctan2(across, along)))
    if tilt_deg > TILT_TOLERANCE_DEG:
        what = f"slices lean {tilt_deg:.1f} degrees against their normal (gantry tilt)"
        raise ReadError("gantry_tilt", what)


def _candidates(headers: Slices) -> list[Slices]:
    """Groups of one series, matrix, spacing and orientation."""
    by_series: dict[tuple[Any, ...], Slices] = defaultdict(list)
    for one in headers:
        t = one.tags
        # Some anonymisers delete the series id: then what lies in one folder is one series.
        series = t["series"] or str(Path(one.path).parent)
        by_series[t["study"], series, t["rows"], t["columns"]].append(one)
    groups: list[Slices] = []
    for members in by_series.values():
        for group in _by_orientation(members):
            groups += _by_folder(group)
    return groups


def _by_orientation(slices: Slices) -> list[Slices]:
    clusters: list[tuple[npt.NDArray[np.float64], Slices]] = []
    for one in slices:
        key = np.array([*one.tags["orientation"], *one.tags["pixel_spacing_mm"]])
        for reference, members in clusters:
            if np.abs(key - reference).max() <= ORIENTATION_TOLERANCE:
                members.append(one)
                break
        else:
            clusters.append((key, [one]))
    return [members for _, members in clusters]


def _by_folder(slices: Slices) -> list[Slices]:
    """A series copied into several folders is several complete copies, not one doubled stack."""
    folders: dict[Path, Slices] = defaultdict(list)
    for one in slices:
        folders[Path(one.path).parent].append(one)
    if len(folders) == 1 or not _has_doubles(slices):
        return [slices]
    if any(_has_doubles(members) for members in folders.values()):
        return [slices]
    return list(folders.values())


def _has_doubles(slices: Slices) -> bool:
    positions = {tuple(np.round(one.tags["position_mm"], 2)) for one in slices}
    return len(positions) < len(slices)


def _found(stack: Stack) -> Found:
    first = stack.slices[0].tags
    shape = (1, len(stack.slices), first["rows"], first["columns"])
    flags = []
    if stack.residual_mm > SAME_POSITION_MM:
        flags.append(f"position_residual_mm={stack.residual_mm:.3f}")
    if not first["series"]:
        flags.append("no_series_id")
    if first["photometric"] == "MONOCHROME1":
        flags.append("monochrome1")
    return Found(
        files=tuple(one.path for one in stack.slices),
        format="dicom",
        shape=shape,
        dtype=_dtype(stack.slices),
        geometry=Geometry.of_volume(stack.affine),
        modality=first["modality"],
        patient=first["patient"],
        study=first["study"],
        series=first["series"] or str(Path(stack.slices[0].path).parent),
        series_number=first["series_number"],
        flags=tuple(flags),
        options={
            "residual_mm": stack.residual_mm,
            "uncompressed": all(is_uncompressed(one.tags["syntax"]) for one in stack.slices),
        },
    )


def _dtype(slices: Slices) -> str:
    """Smallest type that holds every rescaled value exactly; float32 for fractional slopes."""
    bounds = []
    for one in slices:
        slope, intercept = one.tags["rescale"]
        if slope != int(slope) or intercept != int(intercept):
            return "float32"
        bits, signed = one.tags["bits_stored"], one.tags["signed"]
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        bounds += [low * slope + intercept, high * slope + intercept]
    for bits in (16, 32):
        if min(bounds) >= -(2 ** (bits - 1)) and max(bounds) < 2 ** (bits - 1):
            return f"int{bits}"
    return "int64"
