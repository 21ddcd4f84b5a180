"""How far a query is from what is normal, on frozen features; larger scores are less normal.

``normal_knn_scores`` and ``normal_density_scores`` are zero-shot: their bank holds **normals only**
and no label of an abnormal case is used anywhere. ``labelled_bank_scores`` is what DISCOVR's public
code reports as zero-shot: there is no fine-tuning, but the bank holds both classes with their
labels. A table that shows it beside the others names it *labelled bank*.

N bank vectors, M queries, D features.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medssl.core.errors import UsageError
from medssl.evaluation.knn import (
    FloatArray,
    check_bank,
    finite_table,
    knn_predict,
    nearest_cosines,
)

# DISCOVR's.
_NEIGHBOURS = 10
_TEMPERATURE = 0.07
# Smallest share of the sphere in a covariance: two opposite vectors are their own, without inverse.
_LEAST_SHRINKAGE = 1e-6


def normal_knn_scores(
    bank_ND: npt.ArrayLike,
    query_MD: npt.ArrayLike,
    k: int = _NEIGHBOURS,
    *,
    exclude: npt.NDArray[np.bool_] | None = None,
    bank_labels_N: npt.ArrayLike | None = None,
) -> FloatArray:
    """(M,) mean cosine distance to the ``k`` nearest normals (Bergman et al. 2020), 0 to 2.

    Args:
        bank_ND: normals.
        query_MD: vectors to judge.
        k: number of neighbours; above the bank's size means all of it.
        exclude: (M, N), True = this bank vector does not count for this query: that of the query's
            own patient, ``query_patient[:, None] == bank_patient``.
        bank_labels_N: give them where they are known; 0 = normal, anything else is refused.

    Raises:
        UsageError: an abnormal vector in the bank, shapes that do not fit, values that are not
            finite, k below 1, or a query without any neighbour left.

    >>> normal_knn_scores([[1, 0], [0, 1]], [[2, 0], [0, -1]], k=1)
    array([0., 1.])
    """
    _refuse_abnormal(bank_labels_N)
    _, cosine_Mk = nearest_cosines(bank_ND, query_MD, k, exclude)
    counted_Mk = np.isfinite(cosine_Mk)
    near_M = np.where(counted_Mk, cosine_Mk, 0.0).sum(1) / counted_Mk.sum(1)
    return np.asarray(np.maximum(1.0 - near_M, 0.0))


def normal_density_scores(
    bank_ND: npt.ArrayLike,
    query_MD: npt.ArrayLike,
    *,
    exclude: npt.NDArray[np.bool_] | None = None,
    bank_labels_N: npt.ArrayLike | None = None,
) -> FloatArray:
    """(M,) Mahalanobis distance to the Gaussian of the normals, with a shrunk covariance.

    The order is that of the density. A Gaussian and no kernel density: with fewer normals than
    features a kernel sees every query equally far away, and its width could be chosen well only
    with abnormals at hand; Ledoit and Wolf's shrinkage has a closed form and nothing to choose.

    Args:
        bank_ND: normals.
        query_MD: vectors to judge.
        exclude: as in :func:`normal_knn_scores`; the Gaussian is fitted without these.
        bank_labels_N: as in :func:`normal_knn_scores`.

    Raises:
        UsageError: as :func:`normal_knn_scores`; fewer than two normals left, or all equal.

    >>> normal_density_scores([[-1.0], [1.0]], [[0.0], [3.0]])
    array([0., 3.])
    """
    _refuse_abnormal(bank_labels_N)
    bank, query = finite_table(bank_ND), finite_table(query_MD)
    check_bank(bank, query, exclude)
    if exclude is None:
        return _mahalanobis(bank, query)
    scores_M = np.empty(len(query))
    # Queries of one patient leave out the same vectors: one fit for all of them.
    left_out, of_query_M = np.unique(exclude, axis=0, return_inverse=True)
    for k, out_N in enumerate(left_out):
        own_M = of_query_M.ravel() == k
        scores_M[own_M] = _mahalanobis(bank[~out_N], query[own_M])
    return scores_M


def labelled_bank_scores(
    bank_ND: npt.ArrayLike,
    bank_labels_N: npt.ArrayLike,
    query_MD: npt.ArrayLike,
    k: int = _NEIGHBOURS,
    *,
    exclude: npt.NDArray[np.bool_] | None = None,
) -> FloatArray:
    """(M,) share of the weighted votes that go to abnormal neighbours; **uses labels of both**.

    Args:
        bank_ND: labelled vectors.
        bank_labels_N: 0 = normal, any other whole number = abnormal.
        query_MD: vectors to judge.
        k: number of neighbours, see :func:`medssl.evaluation.knn.knn_predict`.
        exclude: as in :func:`normal_knn_scores`.

    Raises:
        UsageError: as ``knn_predict``; or a bank without normals or without abnormals.

    >>> labelled_bank_scores([[1, 0], [0, 1]], [0, 3], [[1, 1]], k=2)
    array([0.5])
    """
    abnormal_N = (np.asarray(bank_labels_N) != 0).astype(np.int64)
    if len(np.unique(abnormal_N)) < 2:
        fix = "for a bank of normals use normal_knn_scores"
        raise UsageError("a labelled bank holds normal and abnormal cases", fix=fix)
    votes_M2 = knn_predict(bank_ND, abnormal_N, query_MD, k, _TEMPERATURE, exclude=exclude)
    return np.asarray(votes_M2[:, 1])


def ledoit_wolf(x_ND: FloatArray) -> tuple[FloatArray, float]:
    """Covariance of centred rows, shrunk towards a sphere, and the sphere's share.

    The share that makes the expected squared error least (Ledoit & Wolf 2004, lemma 3.1 to 3.4).
    """
    n, width = x_ND.shape
    plain_DD = x_ND.T @ x_ND / n
    mean = np.trace(plain_DD) / width
    sphere_DD = mean * np.eye(width)
    apart = float(((plain_DD - sphere_DD) ** 2).sum())
    spread = float(((x_ND**2).sum(1) ** 2).mean() - (plain_DD**2).sum()) / n
    share = min(spread / apart, 1.0) if apart > 0 else 1.0
    share = max(share, _LEAST_SHRINKAGE)
    return share * sphere_DD + (1 - share) * plain_DD, share


def _mahalanobis(bank_ND: FloatArray, query_MD: FloatArray) -> FloatArray:
    mean_D = bank_ND.mean(0) if len(bank_ND) else np.zeros(0)
    if len(bank_ND) < 2 or not (bank_ND - mean_D).any():
        fix = "exclude less, or give a larger bank"
        raise UsageError("a Gaussian needs two normals that differ", fix=fix)
    covariance_DD, _ = ledoit_wolf(bank_ND - mean_D)
    away_DM = (query_MD - mean_D).T
    squared_M = (away_DM * np.linalg.solve(covariance_DD, away_DM)).sum(0)
    return np.asarray(np.sqrt(np.maximum(squared_M, 0.0)))


def _refuse_abnormal(labels_N: npt.ArrayLike | None) -> None:
    abnormal = 0 if labels_N is None else np.count_nonzero(np.asarray(labels_N))
    if abnormal:
        fix = "give normals only, or use labelled_bank_scores"
        raise UsageError(f"{abnormal} abnormal cases in a bank of normals", fix=fix)
