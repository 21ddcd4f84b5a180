"""One grey picture of a record, on which hashes and detectors agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

# A few burnt-out or dead pixels do not decide what is black and what is white.
_LOW_PERCENT, _HIGH_PERCENT = 0.5, 99.5


def grey_image(x_CHW: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(H, W) in 0..1: mean over the channels, between two percentiles; flat pictures are zero.

    Where almost everything has one value, the darkest and the brightest pixel are the ends.
    """
    grey_HW = x_CHW.mean(axis=0, dtype=np.float64)
    low, high = np.percentile(grey_HW, (_LOW_PERCENT, _HIGH_PERCENT))
    if high <= low:
        low, high = grey_HW.min(), grey_HW.max()
    if high <= low:
        return np.zeros_like(grey_HW)
    return np.asarray(np.clip((grey_HW - low) / (high - low), 0, 1))
