"""How foreign a query is to a training set with classes; larger scores are more foreign.

Beside :func:`medssl.evaluation.anomaly.normal_knn_scores`, whose bank is the training set here:
distance to the nearest class, and what a classifier's scores say (max-softmax, Hendrycks & Gimpel
2017; energy, Liu et al. 2020). Report them with AUROC and :func:`fpr_at_tpr`. Data that differ in
size, colour or compression are told apart by that alone: match these first.

N training vectors, M queries, D features, K classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp, softmax

from medssl.core.errors import UsageError
from medssl.evaluation.knn import FloatArray, check_bank, finite_table


def mahalanobis_scores(
    train_ND: npt.ArrayLike, labels_N: npt.ArrayLike, query_MD: npt.ArrayLike
) -> FloatArray:
    """(M,) squared distance to the nearest class mean, in units of the shared covariance.

    min_c (z - mu_c)' S^-1 (z - mu_c), S = covariance within classes (Lee et al. 2018). Where there
    are fewer vectors than features S has no inverse and its pseudo-inverse is taken; otherwise the
    scores are the same after any invertible linear map of the features.

    Raises:
        UsageError: values that are not finite, shapes that do not fit, or an empty training set.

    >>> mahalanobis_scores([[-1.0], [1.0], [9.0], [11.0]], [0, 0, 1, 1], [[0.0], [13.0]])
    array([0., 9.])
    """
    train, query, labels = finite_table(train_ND), finite_table(query_MD), np.asarray(labels_N)
    check_bank(train, query, None)
    if labels.shape != (len(train),):
        raise UsageError(f"labels of shape {labels.shape} do not fit the training set")
    names, class_N = np.unique(labels, return_inverse=True)
    means_KD = np.stack([train[class_N == k].mean(0) for k in range(len(names))])
    within_ND = train - means_KD[class_N]
    inverse_DD = np.linalg.pinv(within_ND.T @ within_ND / len(train), hermitian=True)
    away_MKD = query[:, None] - means_KD
    squared_MK = np.einsum("mkd,de,mke->mk", away_MKD, inverse_DD, away_MKD)
    return np.asarray(np.maximum(squared_MK.min(1), 0.0))


def max_softmax_scores(logits_MK: npt.ArrayLike) -> FloatArray:
    """(M,) 1 minus the largest class probability.

    >>> max_softmax_scores([[0.0, 0.0], [50.0, 0.0]]).round(6)
    array([0.5, 0. ])
    """
    return np.asarray(1.0 - softmax(finite_table(logits_MK), axis=1).max(1))


def energy_scores(logits_MK: npt.ArrayLike, temperature: float = 1.0) -> FloatArray:
    """(M,) -T log sum exp(f / T).

    >>> energy_scores([[0.0, 0.0]])
    array([-0.69314718])
    """
    if not temperature > 0:
        raise UsageError(f"temperature={temperature}", fix="it has to be above 0")
    return np.asarray(-temperature * logsumexp(finite_table(logits_MK) / temperature, axis=1))


def fpr_at_tpr(own_N: npt.ArrayLike, foreign_M: npt.ArrayLike, tpr: float = 0.95) -> float:
    """Share of foreign cases taken for own ones, where the share ``tpr`` of own ones is taken so.

    The threshold is the least score of an own case at or below which that share of them lies.

    Raises:
        UsageError: no case of either kind.

    >>> fpr_at_tpr([1, 2, 3, 4], [2, 3, 5, 6], tpr=0.75)
    0.5
    """
    own, foreign = np.sort(np.asarray(own_N, float)), np.asarray(foreign_M, float)
    if not (len(own) and len(foreign)):
        raise UsageError("scores of own and of foreign cases are needed")
    needed = int(np.ceil(tpr * len(own) - 1e-9))
    return float((foreign <= own[max(needed, 1) - 1]).mean())
