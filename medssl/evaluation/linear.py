"""Linear probes on frozen features: ridge (closed form) and logistic regression.

Features are standardised with the mean and spread of the training set; the strength of the
penalty is the one with the best macro AUROC on validation features, the stronger one of equals.
Of numbers (an ejection fraction), it is the one with the least leave-one-out error.
Nothing here sees the encoder: its weights cannot change.

N samples, D features, K classes, G strengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from medssl.core.errors import UsageError
from medssl.evaluation.classification import auroc

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
# Relative to the mean loss: the same grid fits ten and ten thousand samples.
L2_GRID = tuple(10.0**power for power in range(-5, 3))


@dataclass(frozen=True, eq=False)
class _Linear:
    """A linear map of features that are standardised as the training set's were.

    Attributes:
        l2: the strength that was chosen.
    """

    mean_D: FloatArray
    spread_D: FloatArray
    weight_DK: FloatArray
    bias_K: FloatArray
    l2: float

    def scores(self, x_MD: npt.ArrayLike) -> FloatArray:
        """(M, K) values of the map."""
        x = (np.asarray(x_MD, dtype=np.float64) - self.mean_D) / self.spread_D
        return np.asarray(x @ self.weight_DK + self.bias_K)


class Probe(_Linear):
    """A linear classifier; ``scores`` grow with the chance of a class.

    They are log odds up to a constant of the row (logistic), or the regression (ridge).
    """

    def predict(self, x_MD: npt.ArrayLike) -> IntArray:
        """(M,) class with the largest score."""
        return np.asarray(self.scores(x_MD).argmax(1))


class Regression(_Linear):
    """A linear map from features to one number, K = 1."""

    def predict(self, x_MD: npt.ArrayLike) -> FloatArray:
        """(M,) numbers."""
        return self.scores(x_MD)[:, 0]


def linear_probe(
    train: tuple[npt.ArrayLike, npt.ArrayLike],
    val: tuple[npt.ArrayLike, npt.ArrayLike],
    *,
    kind: Literal["ridge", "logistic"] = "logistic",
    grid: Sequence[float] = L2_GRID,
) -> Probe:
    """The probe whose penalty does best on the validation set.

    Args:
        train: features (N, D) and classes (N,), whole numbers from 0.
        val: the same for validation; its patients are not in ``train``.
        kind: ``ridge`` regresses one-hot classes; ``logistic`` is multinomial.
        grid: strengths to try.

    Raises:
        UsageError: not finite, shapes that do not fit, fewer than two classes in either set,
            or a class in ``val`` alone.
    """
    x_ND, y_N = _table(*train)
    x_val, y_val = _table(*val)
    if x_val.shape[1] != x_ND.shape[1]:
        raise UsageError(f"{x_ND.shape[1]} features to train on, {x_val.shape[1]} to validate")
    if y_val.max() > y_N.max():
        raise UsageError("the validation set holds a class that the training set has not")
    fit = fit_ridge if kind == "ridge" else fit_logistic
    # From strong to weak: a weaker penalty has to be better to be taken.
    probes = [fit(x_ND, y_N, l2) for l2 in sorted(grid, reverse=True)]
    return max(probes, key=lambda probe: macro_auroc(y_val, probe.scores(x_val)))


def fit_ridge(x_ND: npt.ArrayLike, y_N: npt.ArrayLike, l2: float) -> Probe:
    """Least squares on one-hot classes: min |XW + b - Y|^2 / N + l2 |W|^2, in closed form.

    >>> x = np.array([[-1.0], [1.0]])  # standardised already: W = X'Y / (N + N l2)
    >>> fit_ridge(x, np.array([0, 1]), 1.0).weight_DK
    array([[-0.25,  0.25]])
    """
    x, y = _table(x_ND, y_N)
    x, mean_D, spread_D = _standardised(x)
    share_K = np.eye(int(y.max()) + 1)[y]
    bias_K = share_K.mean(0)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    weight_DK = vt.T @ (_shrunk(s, l2 * len(x))[:, None] * (u.T @ (share_K - bias_K)))
    return Probe(mean_D, spread_D, weight_DK, bias_K, l2)


def ridge_regression(
    x_ND: npt.ArrayLike, y_N: npt.ArrayLike, grid: Sequence[float] = L2_GRID
) -> Regression:
    """Least |Xw + b - y|^2 / N + l2 |w|^2, with the l2 of the least leave-one-out squared error.

    That error is exact for the standardised features, without fitting again: a residual r_i of
    the fit to all samples is r_i / (1 - h_i) without sample i, h_i = its leverage (Allen 1974).

    Args:
        x_ND: features.
        y_N: numbers.
        grid: strengths to try.

    Raises:
        UsageError: not finite, shapes that do not fit, or fewer than three samples.

    >>> x = np.array([[-1.0], [0.0], [1.0]])
    >>> bool(abs(ridge_regression(x, [1.0, 2.0, 3.0], [0.0]).predict([[2.0]])[0] - 4.0) < 1e-9)
    True
    """
    x, y = np.asarray(x_ND, dtype=np.float64), np.asarray(y_N, dtype=np.float64)
    if x.ndim != 2 or y.shape != (len(x),) or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise UsageError(f"features {x.shape} and numbers {y.shape} are no finite table")
    if len(x) < 3:
        raise UsageError(f"{len(x)} samples are too few for a regression")
    x, mean_D, spread_D = _standardised(x)
    bias_K = y.mean(keepdims=True)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    along = u.T @ (y - bias_K)

    def left_out(l2: float) -> float:
        kept = s * _shrunk(s, l2 * len(x))
        residual_N = y - bias_K - u @ (kept * along)
        leverage_N = 1 / len(x) + (u**2) @ kept
        return float(np.mean((residual_N / np.maximum(1 - leverage_N, 1e-9)) ** 2))

    # From strong to weak: a weaker penalty has to be better to be taken.
    l2 = min(sorted(grid, reverse=True), key=left_out)
    weight_D = vt.T @ (_shrunk(s, l2 * len(x)) * along)
    return Regression(mean_D, spread_D, weight_D[:, None], bias_K, l2)


def _shrunk(s: FloatArray, penalty: float) -> FloatArray:
    return np.asarray(s / np.maximum(s**2 + penalty, np.finfo(float).tiny))


def fit_logistic(x_ND: npt.ArrayLike, y_N: npt.ArrayLike, l2: float) -> Probe:
    """Multinomial logistic regression: min mean cross-entropy + l2/2 |W|^2 (bias not penalised)."""
    x, y = _table(x_ND, y_N)
    x, mean_D, spread_D = _standardised(x)
    one_hot_NK = np.eye(int(y.max()) + 1)[y]
    width, classes = x.shape[1], one_hot_NK.shape[1]

    def loss(flat: FloatArray) -> tuple[float, FloatArray]:
        weight = flat[classes:].reshape(width, classes)
        logits = x @ weight + flat[:classes]
        value = -(one_hot_NK * log_softmax(logits, axis=1)).sum() / len(x)
        slope_NK = (softmax(logits, axis=1) - one_hot_NK) / len(x)
        slope = np.concatenate([slope_NK.sum(0), (x.T @ slope_NK + l2 * weight).ravel()])
        return float(value + l2 / 2 * (weight**2).sum()), slope

    start = np.zeros((width + 1) * classes)
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000, "gtol": 1e-6}
    )
    weight_DK = found.x[classes:].reshape(width, classes)
    return Probe(mean_D, spread_D, weight_DK, found.x[:classes], l2)


def _standardised(x_ND: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    mean_D, spread_D = x_ND.mean(0), x_ND.std(0)
    # A feature that is constant up to rounding would be noise blown up to size 1.
    constant = spread_D <= 1e-7 * np.abs(x_ND).max(0)
    spread_D = np.where(constant, np.inf, spread_D)
    return (x_ND - mean_D) / spread_D, mean_D, spread_D


def macro_auroc(y_N: IntArray, scores_NK: npt.NDArray[Any]) -> float:
    """Mean over the classes that occur, each against the rest."""
    return float(np.mean([auroc(y_N == k, scores_NK[:, k]) for k in np.unique(y_N)]))


def _table(x_ND: npt.ArrayLike, y_N: npt.ArrayLike) -> tuple[FloatArray, IntArray]:
    x = np.asarray(x_ND, dtype=np.float64)
    return x, classes_of(x, y_N, 2)


def classes_of(x: npt.NDArray[Any], y_N: npt.ArrayLike, axes: int) -> IntArray:
    """Classes of the samples ``x``, an array with so many axes.

    Raises:
        UsageError: not finite, shapes that do not fit, or fewer than two classes.
    """
    y = np.asarray(y_N)
    if x.ndim != axes or y.shape != (len(x),) or not np.isfinite(x).all():
        raise UsageError(f"features {x.shape} and classes {y.shape} are no finite table")
    if len(y) == 0 or y.dtype.kind not in "iu" or y.min() < 0 or len(np.unique(y)) < 2:
        raise UsageError("a probe needs at least two classes, whole numbers from 0")
    return y.astype(np.int64)
