"""Do probabilities mean what they say? Temperature, calibration error, NLL, Brier score.

**Temperature.** Probabilities p become p^(1/T) / sum p^(1/T): of a softmax that is its logits over
T. One number for all classes, the one with the least negative log-likelihood (Guo et al. 2017). The
order of classes stays, and with it every label. It is applied to pooled probabilities, windows
blended, not within each window (pool first, then calibrate: Rahaman and Thiery 2021).

**Calibration error (ECE).** Cases fall into bins of confidence, 15 of equal width or of equal mass;
the error is the mean over cases of |share right - mean confidence| of their bin. Confidence is the
probability of the predicted class; per class it is that of the class, and right means its cases.

**NLL** is the mean of -log p of the true class, **Brier** the mean over cases of the sum over
classes of (p - y)^2, 0 to 2.

Sums over fine cells of confidence are kept, not cases: whole volumes are added voxel by voxel, one
after the other. Cells end at the edges of the bins of equal width, so that these are exact; bins of
equal mass are so to one part in a thousand.

N cases (or voxels, or frames), K classes, C cells, B bins.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import expit, softmax

from medssl.core.errors import UsageError

FloatArray = npt.NDArray[np.float64]
BINS = 15
BOUNDS = (0.05, 20.0)
"""Of the temperature. At an end there is no best one: say, every case is right."""
# Log odds beyond which probabilities are told apart no more, and cells between.
_FAR, _FINE = 14.0, 4096
# A probability of 0 costs as much as this one: float32 has no smaller share of a whole.
_LEAST = 1e-12


def temper(
    p_K: npt.NDArray[np.floating[Any]], temperature: float, axis: int = -1
) -> npt.NDArray[np.floating[Any]]:
    """Distributions along ``axis`` at a temperature; 1 leaves them bit for bit.

    >>> temper(np.array([0.9, 0.1]), 0.5).round(4)  # odds 9 become odds 81
    array([0.9878, 0.0122])
    """
    if temperature == 1.0:
        return p_K
    powered = np.power(p_K, p_K.dtype.type(1 / temperature))
    return np.asarray(powered / powered.sum(axis, keepdims=True))


def temper_chance(
    p: npt.NDArray[np.floating[Any]], temperature: float
) -> npt.NDArray[np.floating[Any]]:
    """Chances of single events, each against its opposite, at a temperature.

    >>> temper_chance(np.array([0.9]), 0.5).round(4)
    array([0.9878])
    """
    return np.asarray(temper(np.stack([p, 1 - p]), temperature, axis=0)[0])


def as_two_classes(p: npt.ArrayLike) -> FloatArray:
    """Chances of single events (of any shape) -> (N, 2): no, yes.

    >>> as_two_classes([0.25])
    array([[0.75, 0.25]])
    """
    flat = np.asarray(p, dtype=np.float64).ravel()
    return np.stack([1 - flat, flat], axis=1)


def fit_temperature(
    p_NK: npt.ArrayLike, label_N: npt.ArrayLike, weight_N: npt.ArrayLike | None = None
) -> float:
    """Temperature with the least weighted NLL, within ``BOUNDS``; 1 where it makes no difference.

    The NLL is convex in 1/T; the search, in log T, is for the zero of its slope.

    >>> p, label = [[0.8, 0.2]] * 4, [0, 0, 0, 1]  # odds 4 should be odds 3
    >>> round(fit_temperature(p, label), 4) == round(math.log(4) / math.log(3), 4)
    True
    """
    p, label, weight = checked(p_NK, label_N, weight_N)
    s_NK = np.log(np.maximum(p, _LEAST))
    true_N = np.take_along_axis(s_NK, label[:, None], 1)[:, 0]

    def slope(log_t: float) -> float:
        each_N = (softmax(s_NK * math.exp(-log_t), axis=1) * s_NK).sum(1) - true_N
        return float(weight @ each_N)

    low, high = map(math.log, BOUNDS)
    if abs(slope(0.0)) <= 1e-12 * float(weight @ np.abs(true_N)):
        return 1.0
    # From low to high temperature the slope falls from wanting a higher one to a lower one.
    if slope(high) >= 0:
        return BOUNDS[1]
    if slope(low) <= 0:
        return BOUNDS[0]
    return math.exp(brentq(slope, low, high, xtol=1e-10))


def nll(
    p_NK: npt.ArrayLike, label_N: npt.ArrayLike, weight_N: npt.ArrayLike | None = None
) -> float:
    """Mean of -log p of the true class.

    >>> round(nll([[0.5, 0.5], [0.25, 0.75]], [0, 1]), 4)  # (log 2 + log 4/3) / 2
    0.4904
    """
    p, label, weight = checked(p_NK, label_N, weight_N)
    return float(weight @ costs(p, label)[0] / weight.sum())


def brier(
    p_NK: npt.ArrayLike, label_N: npt.ArrayLike, weight_N: npt.ArrayLike | None = None
) -> float:
    """Mean over cases of the sum over classes of (p - y)^2.

    >>> brier([[1.0, 0.0], [0.5, 0.5]], [1, 0])  # (2 + 0.5) / 2
    1.25
    """
    p, label, weight = checked(p_NK, label_N, weight_N)
    return float(weight @ costs(p, label)[1] / weight.sum())


def ece(
    confidence_N: npt.ArrayLike,
    right_N: npt.ArrayLike,
    weight_N: npt.ArrayLike | None = None,
    *,
    bins: int = BINS,
    equal_mass: bool = False,
) -> float:
    """Expected calibration error of confidences.

    >>> ece([1.0, 1.0, 1.0, 1.0], [True, True, True, False])
    0.25
    """
    cells = Cells(bins)
    cells.add(confidence_N, right_N, weight_N)
    return cells.ece(equal_mass=equal_mass)


class Bin(NamedTuple):
    """Cases of similar confidence: their weight, mean confidence and share right."""

    weight: float
    confidence: float
    right: float


class Cells:
    """Confidences and how often they were right, summed over fine cells."""

    def __init__(self, bins: int = BINS) -> None:
        self.count = bins
        wide, fine = np.arange(1, bins) / bins, expit(np.linspace(-_FAR, _FAR, _FINE))
        self.edges = np.unique(np.concatenate([wide, fine]))
        # weight, weight x confidence, weight x right
        self.sums_3C = np.zeros((3, len(self.edges) + 1))

    def add(
        self,
        confidence_N: npt.ArrayLike,
        right_N: npt.ArrayLike,
        weight_N: npt.ArrayLike | None = None,
    ) -> None:
        """Take in more cases."""
        confidence = np.asarray(confidence_N, dtype=np.float64)
        right = np.asarray(right_N, dtype=np.float64)
        weight = np.ones(len(right)) if weight_N is None else np.asarray(weight_N, dtype=np.float64)
        cell_N = np.searchsorted(self.edges, confidence, side="right")
        for row, values_N in enumerate((weight, weight * confidence, weight * right)):
            self.sums_3C[row] += np.bincount(cell_N, values_N, self.sums_3C.shape[1])

    def bins(self, *, equal_mass: bool = False) -> list[Bin]:
        """Bins in the order of confidence; empty ones are left out.

        Cases of one cell, those of equal confidence among them, stay in one bin.
        """
        sums_3C = self.sums_3C[:, self.sums_3C[0] > 0]
        weight_C = sums_3C[0]
        if equal_mass:
            at_C = (np.cumsum(weight_C) - weight_C / 2) / weight_C.sum()
        else:
            at_C = sums_3C[1] / weight_C
        bin_C = np.minimum((at_C * self.count).astype(np.int64), self.count - 1)
        total_3B = np.stack([np.bincount(bin_C, row, self.count) for row in sums_3C])
        return [
            Bin(float(weight), float(confidence / weight), float(right / weight))
            for weight, confidence, right in total_3B.T
            if weight > 0
        ]

    def ece(self, *, equal_mass: bool = False) -> float:
        """Expected calibration error; NaN without a case."""
        bins = self.bins(equal_mass=equal_mass)
        total = sum(one.weight for one in bins)
        gaps = sum(one.weight * abs(one.right - one.confidence) for one in bins)
        return gaps / total if total else math.nan


def checked(
    p_NK: npt.ArrayLike, label_N: npt.ArrayLike, weight_N: npt.ArrayLike | None
) -> tuple[FloatArray, npt.NDArray[np.int64], FloatArray]:
    """Arrays of one length, or an error.

    Raises:
        UsageError: no case, lengths that differ, rows that are no distribution, labels or weights
            out of range.
    """
    p, label = np.asarray(p_NK, dtype=np.float64), np.asarray(label_N, dtype=np.int64)
    weight = np.ones(len(label)) if weight_N is None else np.asarray(weight_N, dtype=np.float64)
    if p.ndim != 2 or label.shape != (len(p),) or weight.shape != label.shape or not len(p):
        raise UsageError(f"{p.shape} probabilities, {label.shape} labels, {weight.shape} weights")
    if not (p >= 0).all() or (abs(p.sum(1) - 1) > 1e-3).any():
        raise UsageError("a row of probabilities is no distribution")
    if label.min() < 0 or label.max() >= p.shape[1]:
        raise UsageError(f"a label is none of 0 to {p.shape[1] - 1}")
    if not (weight >= 0).all() or not 0 < weight.sum() < math.inf:
        raise UsageError("weights are below 0, or all 0")
    return p, label, weight


def costs(p_NK: FloatArray, label_N: npt.NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
    """NLL and Brier score of each case."""
    true_N = np.take_along_axis(p_NK, label_N[:, None], 1)[:, 0]
    # (p_y - 1)^2 instead of p_y^2 among the squares.
    return -np.log(np.maximum(true_N, _LEAST)), (p_NK**2).sum(1) + 1 - 2 * true_N
