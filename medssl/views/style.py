"""Batch style standardisation (Scalbert et al. 2023): one scanner's look for a whole step.

Low frequencies hold much of what differs between scanners, sites and protocols. All samples of a
step get the amplitudes of one of them there and keep their own phases, so that an objective can
tell samples apart only by what they show. The reference is drawn per view index: two views of a
sample have different styles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def low_frequencies(shape: tuple[int, ...], share: float) -> npt.NDArray[np.bool_]:
    """Window of a half spectrum (as of ``rfftn``): below ``share`` of the highest frequency.

    The same above and below 0 for even and odd sizes, so that the inverse is real; the highest
    frequency of an even size has no partner and stays out. A share of 0 is an empty window.

    >>> low_frequencies((4, 4), 0.6).astype(int)
    array([[1, 1, 0],
           [1, 1, 0],
           [0, 0, 0],
           [1, 1, 0]])
    """
    *first, last = shape
    axes = [np.abs(np.fft.fftfreq(n)) for n in first] + [np.fft.rfftfreq(last)]
    window = np.ones([len(axis) for axis in axes], dtype=bool)
    for number, axis in enumerate(axes):
        inside = axis < share / 2
        window &= inside.reshape([-1 if k == number else 1 for k in range(len(axes))])
    return window


def standardise_style(x: Array, reference: Array, share: float, *, copy_mean: bool) -> Array:
    """``x`` with the low-frequency amplitudes of ``reference`` and its own phases.

    Args:
        x: (C, *space), real.
        reference: the same shape.
        share: side of the window as a share of the spectrum, in each axis.
        copy_mean: give the mean of the reference too (frequency 0); never for HU.

    Returns:
        Array like ``x``. What ``x`` does not hold at all (amplitude 0) has no phase and stays 0.
    """
    space = tuple(range(1, x.ndim))
    spectrum = np.fft.rfftn(x.astype(np.float64), axes=space)
    other = np.fft.rfftn(reference.astype(np.float64), axes=space)
    window = np.broadcast_to(low_frequencies(x.shape[1:], share), spectrum.shape).copy()
    zero: tuple[slice | int, ...] = (slice(None), *(0 for _ in space))
    mean = (other if copy_mean and share > 0 else spectrum)[zero].copy()
    amplitude = np.abs(spectrum)
    window &= amplitude > 1e-12 * amplitude.max()
    spectrum[window] *= np.abs(other[window]) / amplitude[window]
    spectrum[zero] = mean
    out = np.fft.irfftn(spectrum, s=x.shape[1:], axes=space)
    return np.asarray(out, dtype=x.dtype)


def restyle(
    view: Mapping[str, Any], reference: Mapping[str, Any], share: float, *, copy_mean: bool
) -> dict[str, Any]:
    """A view in the style of another: air keeps its values, nothing leaves the range of both."""
    x, other = view["x"], reference["x"]
    styled = standardise_style(x, other, share, copy_mean=copy_mean)
    low, high = min(x.min(), other.min()), max(x.max(), other.max())
    return {**view, "x": np.where(view["tissue"], np.clip(styled, low, high), x)}
