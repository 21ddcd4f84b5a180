"""Slices as a radiologist expects them: head or front up, the patient's right on the left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medssl.core.geometry import Reorientation


def turned(
    x_CDHW: npt.NDArray[Any], affine: Sequence[float] | npt.NDArray[Any] | None,
    spacing_mm: Sequence[float] | None,
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64], int]:  # fmt: skip
    """The volume along the patient's axes, its spacing, and the axis of its slices.

    The slices are those of the acquisition: across the largest spacing.
    """
    spacing = np.array(spacing_mm or (1.0, 1.0, 1.0))
    if affine is not None:
        turn = Reorientation.to_ras(np.reshape(affine, (4, 4)))
        x_CDHW, spacing = turn.apply(x_CDHW), spacing[list(turn.order)]
    return x_CDHW, spacing, int(np.argmax(spacing))


def upright(
    x_HW: npt.NDArray[Any],
    spacing_mm: npt.NDArray[np.float64],
    across: int,
    order: Literal[0, 1] = 1,
) -> npt.NDArray[Any]:
    """One slice of :func:`turned`, with square pixels; ``order`` 0 for labels."""
    height_mm, width_mm = np.delete(spacing_mm, across)
    finest_mm = min(height_mm, width_mm)
    scale = height_mm / finest_mm, width_mm / finest_mm
    turned_HW: npt.NDArray[Any] = np.flip(x_HW, (0, 1))
    return np.asarray(ndimage.zoom(turned_HW, scale, order=order))
