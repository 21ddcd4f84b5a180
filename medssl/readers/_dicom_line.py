"""The line that the positions of a stack lie on, and the law for its spacing.

Order comes from ImagePositionPatient along the slice normal, never from InstanceNumber. Spacing is
(last - first) / (n - 1), and only where every position lies within max(0.1 mm, 2 % of the spacing)
of that line; anything else is a gap.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from medssl.core.geometry import line_tolerance_mm
from medssl.readers._dicom_slices import Slices, normal_of, positions_of

MIN_SLICES = 3


class Line(NamedTuple):
    """Slices in order along the normal, and how far they lie off an even line."""

    order: npt.NDArray[np.intp]
    positions_mm: npt.NDArray[np.float64]
    """(n, 3), in order."""
    along_mm: npt.NDArray[np.float64]
    """Distance of each slice from the first along the normal."""
    step_mm: npt.NDArray[np.float64]
    """Vector from slice to slice."""
    residual_mm: float

    @property
    def allowed_mm(self) -> float:
        """Largest residual at which the spacing is even."""
        return line_tolerance_mm(float(self.along_mm[-1]) / (len(self.order) - 1))

    @property
    def even(self) -> bool:
        """Whether the stack has one spacing."""
        return self.residual_mm <= self.allowed_mm


def fit_line(slices: Slices) -> Line:
    """The line through the first and last of at least two slices."""
    positions = positions_of(slices)
    along_mm = positions @ normal_of(slices)
    order = np.argsort(along_mm, kind="stable")
    positions, along_mm = positions[order], along_mm[order]
    n = len(slices)
    step = (positions[-1] - positions[0]) / (n - 1)
    line = positions[0] + np.arange(n)[:, None] * step
    residual_mm = float(np.linalg.norm(positions - line, axis=1).max())
    return Line(order, positions, along_mm - along_mm[0], step, residual_mm)


def is_even(slices: Slices) -> bool:
    """Whether at least :data:`MIN_SLICES` slices lie on a line at even steps."""
    return len(slices) >= MIN_SLICES and fit_line(slices).even
