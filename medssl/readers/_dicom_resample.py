"""Interpolation that the user asked for: gaps between slices, and tilted stacks made upright."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def fill_gaps(
    x_DHW: npt.NDArray[Any], along_mm: list[float], n: int
) -> npt.NDArray[np.floating[Any]]:
    """Linear interpolation along the slice axis from slices at ``along_mm`` to ``n`` even steps."""
    wanted_mm = np.linspace(along_mm[0], along_mm[-1], n)
    after = np.clip(np.searchsorted(along_mm, wanted_mm), 1, len(along_mm) - 1)
    known_mm = np.array(along_mm)
    weight = (wanted_mm - known_mm[after - 1]) / (known_mm[after] - known_mm[after - 1])
    out = np.empty((n, *x_DHW.shape[1:]), dtype=np.float32)
    for k in range(n):
        below, above = x_DHW[after[k] - 1], x_DHW[after[k]]
        out[k] = (1.0 - weight[k]) * below + weight[k] * above
    return out


def make_upright(
    x_DHW: npt.NDArray[Any], shape_DHW: tuple[int, ...], shift_px: list[float], low_px: list[int]
) -> npt.NDArray[np.floating[Any]]:
    """Shift slice k by ``k * shift_px`` (rows, columns), linearly; outside is the minimum."""
    from scipy import ndimage  # slow to import, seldom needed

    air = x_DHW.min()
    out = np.full(shape_DHW, air, dtype=np.float32)
    rows, columns = x_DHW.shape[1:]
    for k, plane in enumerate(x_DHW):
        out[k, :rows, :columns] = plane
        offset = [k * shift - low for shift, low in zip(shift_px, low_px, strict=True)]
        # "grid-constant": the rim is interpolated towards the air around it, not cut off.
        out[k] = ndimage.shift(out[k], offset, order=1, mode="grid-constant", cval=float(air))
    return out
