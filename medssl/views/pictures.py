"""Pictures and slices, (C, H, W) float32, through OpenCV and albumentations.

The only module that imports them, and only once a picture is changed: training on volumes starts
without them. Every number is given by the caller, so that equal draws give equal pixels.
Resampling and smoothing call OpenCV itself: albumentations adds only its own drawing there.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.float32]


def sample(x_CHW: Picture, rows_HW: Picture, columns_HW: Picture) -> Picture:
    """Linear interpolation at fractional rows and columns; outside, the nearest pixel's value."""
    cv2 = _cv2()
    border = cv2.BORDER_REPLICATE
    return np.stack(
        [
            cv2.remap(x, columns_HW, rows_HW, cv2.INTER_LINEAR, borderMode=border)
            for x in _float32(x_CHW)
        ]
    )


def blur(x_CHW: Picture, sigma_rows: float, sigma_columns: float) -> Picture:
    """Gaussian smoothing, standard deviations in pixels; 0 leaves an axis as it is."""
    cv2 = _cv2()
    least = 1e-6  # OpenCV reads 0 as "like the other axis"
    sigma = {"sigmaX": max(sigma_columns, least), "sigmaY": max(sigma_rows, least)}
    border = cv2.BORDER_REPLICATE
    return np.stack(
        [cv2.GaussianBlur(x, (0, 0), borderType=border, **sigma) for x in _float32(x_CHW)]
    )


def low_resolution(x_CHW: Picture, factor: float) -> Picture:
    """Averaged over ``factor`` pixels per axis and linearly interpolated back."""
    cv2 = _cv2()
    h, w = x_CHW.shape[1:]
    small = (max(round(w / factor), 1), max(round(h / factor), 1))
    return np.stack(
        [
            cv2.resize(cv2.resize(x, small, interpolation=cv2.INTER_AREA), (w, h))
            for x in _float32(x_CHW)
        ]
    )


def colour(x_CHW: Picture, hue: float, saturation: float, seed: int) -> Picture:
    """Turn the colour circle by ``hue`` (1 is once around) and scale the saturation.

    Values are clipped to [0, 1]. ``seed`` decides which of the two comes first.
    """
    library = _albumentations()
    jitter = library.ColorJitter(
        brightness=(1.0, 1.0),
        contrast=(1.0, 1.0),
        saturation=(saturation, saturation),
        hue=(hue, hue),
        p=1.0,
    )
    x_HWC = np.ascontiguousarray(np.moveaxis(np.clip(_float32(x_CHW), 0.0, 1.0), 0, -1))
    out_HWC = library.Compose([jitter], seed=seed)(image=x_HWC)["image"]
    return np.ascontiguousarray(np.moveaxis(out_HWC, -1, 0), dtype=np.float32)


def _float32(x: npt.NDArray[Any]) -> Picture:
    return np.ascontiguousarray(x, dtype=np.float32)


@lru_cache(maxsize=1)
def _cv2() -> Any:
    import cv2

    cv2.setNumThreads(1)  # loader workers are the threads
    return cv2


@lru_cache(maxsize=1)
def _albumentations() -> Any:
    # Without this it asks the network for a newer version of itself when imported.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations

    _cv2()
    return albumentations
