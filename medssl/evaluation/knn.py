"""k nearest neighbours on frozen features: no training, so it measures the features alone.

N bank vectors, M queries, D features, K classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medssl.core.errors import UsageError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
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
    labels = np.asarray(labels_N)
    if labels.shape != (len(np.asarray(bank_ND)),):
        raise UsageError(f"labels of shape {labels.shape} do not fit the bank")
    if len(labels) == 0 or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise UsageError("the bank needs vectors with classes, whole numbers from 0")
    if not temperature > 0:
        raise UsageError(f"temperature={temperature}", fix="it has to be above 0")
    nearest_Mk, cosine_Mk = nearest_cosines(bank_ND, query_MD, k, exclude)
    # Relative to the nearest: finite at any temperature. An excluded one is never counted.
    counted_Mk = np.isfinite(cosine_Mk)
    gap_Mk = np.where(counted_Mk, cosine_Mk - cosine_Mk[:, :1], 0.0)
    with np.errstate(over="ignore"):
        weight_Mk = counted_Mk * np.exp(gap_Mk / temperature)
    one_hot_NK = np.eye(int(labels.max()) + 1)[labels]
    votes_MK = np.einsum("mk,mkc->mc", weight_Mk, one_hot_NK[nearest_Mk])
    return np.asarray(votes_MK / votes_MK.sum(1, keepdims=True))


def nearest_cosines(
    bank_ND: npt.ArrayLike,
    query_MD: npt.ArrayLike,
    k: int,
    exclude: npt.NDArray[np.bool_] | None = None,
) -> tuple[IntArray, FloatArray]:
    """The ``k`` neighbours of each query with the largest cosine: their places and their cosines.

    Both are (M, k) and sorted, equal ones in the order of the bank. Where ``exclude`` leaves fewer
    than ``k``, the last cosines are minus infinity.

    Raises:
        UsageError: shapes that do not fit, an empty bank, values that are not finite, k below 1, or
            a query without any neighbour left.
    """
    bank, query = unit_rows(bank_ND), unit_rows(query_MD)
    check_bank(bank, query, exclude)
    if k < 1:
        raise UsageError(f"k={k}", fix="k has to be above 0")
    k = min(k, len(bank))
    places, cosines = [np.zeros((0, k), dtype=np.int64)], [np.zeros((0, k))]
    for first in range(0, len(query), _CHUNK):
        part = slice(first, first + _CHUNK)
        cosine_MN = query[part] @ bank.T
        if exclude is not None:
            cosine_MN[exclude[part]] = -np.inf
        places.append(np.argsort(-cosine_MN, axis=1, kind="stable")[:, :k])
        cosines.append(np.take_along_axis(cosine_MN, places[-1], axis=1))
    cosine_Mk = np.concatenate(cosines)
    if np.isneginf(cosine_Mk[:, 0]).any():
        fix = "exclude less, or give a larger bank"
        raise UsageError("every neighbour of a query is excluded", fix=fix)
    return np.concatenate(places), cosine_Mk


def unit_rows(x: npt.ArrayLike) -> FloatArray:
    """Rows of length 1; a row of zeros stays and is equally far from everything."""
    rows = finite_table(x)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1.0))


def finite_table(x: npt.ArrayLike) -> FloatArray:
    """Features as float64.

    Raises:
        UsageError: no table, or values that are not finite.
    """
    rows = np.asarray(x, dtype=np.float64)
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise UsageError(f"features of shape {rows.shape} are no table of finite numbers")
    return rows


def check_bank(
    bank_ND: FloatArray, query_MD: FloatArray, exclude: npt.NDArray[np.bool_] | None
) -> None:
    """Refuse what does not fit together.

    Raises:
        UsageError: an empty bank, other features in the queries, ``exclude`` of another shape.
    """
    if len(bank_ND) == 0 or bank_ND.shape[1] != query_MD.shape[1]:
        raise UsageError(f"shapes do not fit: bank {bank_ND.shape}, queries {query_MD.shape}")
    if exclude is not None and exclude.shape != (len(query_MD), len(bank_ND)):
        raise UsageError(f"exclude has shape {exclude.shape}, not (queries, bank)")
