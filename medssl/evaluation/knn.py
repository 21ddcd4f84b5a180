"""k nearest neighbours on frozen features: no training, so it measures the features alone.

N bank vectors, M queries, D features, K classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.errors import UsageError

FloatArray = npt.NDArray[np.float64]
# Queries compared with the bank at once: bounds memory.
_CHUNK = 1024


def knn_predict(
    bank_ND: npt.ArrayLike,
    labels_N: npt.ArrayLike,
    query_MD: npt.ArrayLike,
    k: int = 20,
    temperature: float = 0.07,
    *,
    exclude: npt.NDArray[np.bool_] | None = None,
) -> FloatArray:
    """Class shares (M, K) of the ``k`` neighbours with the largest cosine; each row sums to 1.

    A neighbour's vote weighs exp(cosine / temperature) (Wu et al. 2018; DINO). Neighbours of equal
    cosine are taken in the order of the bank; ``k`` above the bank's size means all of it.

    Args:
        bank_ND: labelled vectors.
        labels_N: their classes, whole numbers from 0; K is the largest plus one.
        query_MD: vectors to classify.
        k: number of neighbours.
        temperature: ``inf`` gives every neighbour the same vote.
        exclude: (M, N), True = this bank vector has no vote for this query. Give the vectors of
            the query's own patient: ``query_patient[:, None] == bank_patient``.

    Raises:
        UsageError: shapes that do not fit, values that are not finite, k or temperature not above
            0, or a query without any neighbour left.

    >>> knn_predict([[1, 0], [0, 1], [0, 2]], [0, 1, 1], [[3, 0]], k=3, temperature=float("inf"))
    array([[0.33333333, 0.66666667]])
    """
    bank, query = _unit(bank_ND), _unit(query_MD)
    labels = np.asarray(labels_N)
    _check(bank, labels, query, exclude)
    if k < 1 or not temperature > 0:
        raise UsageError(f"k={k}, temperature={temperature}", fix="both have to be above 0")
    one_hot_NK = np.eye(int(labels.max()) + 1)[labels]
    shares = []
    for first in range(0, len(query), _CHUNK):
        part = slice(first, first + _CHUNK)
        cosine_MN = query[part] @ bank.T
        if exclude is not None:
            cosine_MN[exclude[part]] = -np.inf
        shares.append(_votes(cosine_MN, one_hot_NK, min(k, len(bank)), temperature))
    return np.concatenate(shares) if shares else np.zeros((0, one_hot_NK.shape[1]))


def _votes(cosine_MN: FloatArray, one_hot_NK: FloatArray, k: int, temperature: float) -> FloatArray:
    nearest_Mk = np.argsort(-cosine_MN, axis=1, kind="stable")[:, :k]
    cosine_Mk = np.take_along_axis(cosine_MN, nearest_Mk, axis=1)
    best_M1 = cosine_Mk[:, :1]
    if np.isneginf(best_M1).any():
        fix = "exclude less, or give a larger bank"
        raise UsageError("every neighbour of a query is excluded", fix=fix)
    # Relative to the nearest: finite at any temperature. An excluded one is never counted.
    counted_Mk = np.isfinite(cosine_Mk)
    gap_Mk = np.where(counted_Mk, cosine_Mk - best_M1, 0.0)
    with np.errstate(over="ignore"):
        weight_Mk = counted_Mk * np.exp(gap_Mk / temperature)
    votes_MK = np.einsum("mk,mkc->mc", weight_Mk, one_hot_NK[nearest_Mk])
    return np.asarray(votes_MK / votes_MK.sum(1, keepdims=True))


def _unit(x: npt.ArrayLike) -> FloatArray:
    """Rows of length 1; a row of zeros stays and is equally far from everything."""
    rows = np.asarray(x, dtype=np.float64)
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise UsageError(f"features of shape {rows.shape} are no table of finite numbers")
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1.0))


def _check(
    bank_ND: FloatArray,
    labels_N: npt.NDArray[Any],
    query_MD: FloatArray,
    exclude: npt.NDArray[np.bool_] | None,
) -> None:
    if bank_ND.shape[1] != query_MD.shape[1] or labels_N.shape != (len(bank_ND),):
        shapes = f"bank {bank_ND.shape}, labels {labels_N.shape}, queries {query_MD.shape}"
        raise UsageError(f"shapes do not fit: {shapes}")
    if len(bank_ND) == 0 or labels_N.dtype.kind not in "iu" or labels_N.min() < 0:
        raise UsageError("the bank needs vectors with classes, whole numbers from 0")
    if exclude is not None and exclude.shape != (len(query_MD), len(bank_ND)):
        raise UsageError(f"exclude has shape {exclude.shape}, not (queries, bank)")
