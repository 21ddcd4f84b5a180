"""Interpolation of a box of voxels at given places; pictures and slices go through OpenCV.

Measured on one core: a 96^3 crop takes 23 ms (SciPy); 3 x 224^2 pixels take 2.5 ms in SciPy and
0.4 ms in OpenCV, with the same values to 1e-7.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medssl.core.geometry import AnyArray
from medssl.views import pictures

# Smoothing below this many voxels is less than linear interpolation does by itself.
_LEAST_SIGMA = 0.5

Vector = npt.NDArray[np.float64]


def resample(
    x_CDHW: AnyArray, places: npt.NDArray[np.float32], step: Vector, *, nearest: bool
) -> AnyArray:
    """Values of ``x_CDHW`` at ``places`` (3, d, h, w), in voxels; outside, the nearest one's.

    ``step`` is the distance of neighbouring places per axis: above 1 the box is smoothed first,
    so that fine detail does not alias.
    """
    if nearest:
        return _interpolate(x_CDHW, places, order=0)
    # Half the excess of the new voxel over the old one, as a Gaussian.
    sigma = 0.5 * np.sqrt(np.maximum(step**2 - 1, 0.0))
    if sigma.max() >= _LEAST_SIGMA:
        x_CDHW = smoothed(x_CDHW, sigma)
    if x_CDHW.shape[1] == 1:
        return pictures.sample(x_CDHW[:, 0], places[1, 0], places[2, 0])[:, None]
    return _interpolate(x_CDHW, places, order=1)


def smoothed(x_CDHW: AnyArray, sigma: Vector) -> AnyArray:
    """Gaussian smoothing of each channel, deviations in voxels; borders repeat their last one."""
    if x_CDHW.shape[1] == 1:
        return pictures.blur(x_CDHW[:, 0], float(sigma[1]), float(sigma[2]))[:, None]
    return np.stack([ndimage.gaussian_filter(x, sigma, mode="nearest", truncate=3) for x in x_CDHW])


def _interpolate(
    x_CDHW: AnyArray, places: npt.NDArray[np.float32], *, order: Literal[0, 1]
) -> AnyArray:
    return np.stack(
        [ndimage.map_coordinates(x, places, order=order, mode="nearest") for x in x_CDHW]
    )
