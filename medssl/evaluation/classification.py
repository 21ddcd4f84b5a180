"""Agreement of predicted classes with reference classes, with intervals over patients.

Rules for classes without a reference case: they have no recall, no F1 and no AUROC, and do not
count in macro means (as in scikit-learn's ``balanced_accuracy_score``); what was wrongly given to
them costs the classes that it was taken from. The same holds within each bootstrap draw. AUROC is
one against the rest; a case of equal score counts half.

N cases, K classes, R weightings (bootstrap draws), S repetitions with other seeds.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from medssl.core.errors import UsageError
from medssl.evaluation.bootstrap import LEVEL_PERCENT, group_draws

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
DRAWS = 2000


class Scores(NamedTuple):
    """One row per weighting; NaN where a value does not exist."""

    accuracy_R: FloatArray
    recall_RK: FloatArray
    f1_RK: FloatArray
    auroc_RK: FloatArray


def auroc(positive_N: npt.ArrayLike, score_N: npt.ArrayLike) -> float:
    """Chance that a positive scores above a negative, ties count half; NaN without either.

    >>> auroc([True, True, False], [0.9, 0.2, 0.2])
    0.75
    """
    positive = np.asarray(positive_N, dtype=bool)
    n, n_positive = len(positive), int(positive.sum())
    if n_positive in (0, n):
        return math.nan
    wins = (
        rankdata(np.asarray(score_N, dtype=np.float64))[positive].sum()
        - n_positive * (n_positive + 1) / 2
    )
    return float(wins / (n_positive * (n - n_positive)))


def confusion(labels_N: IntArray, predicted_N: IntArray, n_classes: int) -> IntArray:
    """(K, K) counts: row = reference, column = predicted.

    >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
    array([[1, 1],
           [0, 1]])
    """
    flat = np.bincount(labels_N * n_classes + predicted_N, minlength=n_classes**2)
    return flat.reshape(n_classes, n_classes)


def balanced_accuracy(labels_N: IntArray, predicted_N: IntArray, n_classes: int) -> float:
    """Mean recall of the classes that occur."""
    counts_KK = confusion(labels_N, predicted_N, n_classes)
    there = counts_KK.sum(1) > 0
    return float((np.diag(counts_KK)[there] / counts_KK.sum(1)[there]).mean())


def balanced_parts(
    labels_N: npt.ArrayLike, right_N: npt.ArrayLike, groups_N: npt.ArrayLike
) -> FloatArray:
    """(N,) values whose mean is the balanced accuracy, and whose spread over groups is its own.

    A recall is a ratio: where patients are drawn anew, so is how many there are of its class. To
    first order it moves by the mean of ``n / n_k (right - recall)`` over the cases (its influence),
    so that the balanced accuracy can go wherever a mean of cases goes: paired differences, seeds.
    Times ``sqrt(G / (G - 1))`` for the G groups of a class, its variance is not too small.

    Args:
        labels_N: reference classes.
        right_N: the predicted class is this one.
        groups_N: patient of each case.

    >>> balanced_parts(["a", "b", "b"], [True, True, True], [1, 2, 3])
    array([1., 1., 1.])
    >>> float(balanced_parts(["a", "b", "b"], [True, True, False], [1, 2, 3]).mean())
    0.75
    """
    right, groups = np.asarray(right_N, dtype=np.float64), np.asarray(groups_N)
    names, class_N = np.unique(np.asarray(labels_N), return_inverse=True)
    parts_N = np.zeros(len(right))
    recalls = []
    for k in range(len(names)):
        own = class_N == k
        recalls.append(right[own].mean())
        there = len(np.unique(groups[own]))
        spread = math.sqrt(there / (there - 1)) if there > 1 else 1.0
        weight = len(right) / (len(names) * own.sum())
        parts_N[own] = weight * spread * (right[own] - recalls[-1])
    return np.asarray(parts_N + np.mean(recalls))


def weighted_scores(
    labels_N: IntArray, predicted_N: IntArray, p_NK: FloatArray, weight_RN: FloatArray
) -> Scores:
    """All scores for each weighting of the cases; whole weights count a case so many times."""
    n_classes = p_NK.shape[1]
    one_hot_NK = np.eye(n_classes)[labels_N]
    given_NK = np.eye(n_classes)[predicted_N]
    right_RK = weight_RN @ (one_hot_NK * given_NK)
    true_RK, given_RK = weight_RN @ one_hot_NK, weight_RN @ given_NK
    auroc_KR = [_weighted_auroc(labels_N == k, p_NK[:, k], weight_RN) for k in range(n_classes)]
    return Scores(
        accuracy_R=right_RK.sum(1) / weight_RN.sum(1),
        recall_RK=_share(right_RK, true_RK),
        f1_RK=np.where(true_RK > 0, _share(2 * right_RK, true_RK + given_RK), np.nan),
        auroc_RK=np.stack(auroc_KR, axis=1),
    )


def summarise(
    labels_N: npt.ArrayLike,
    p: npt.ArrayLike,
    groups_N: npt.ArrayLike,
    names: list[str],
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """Metrics as ``metrics.json`` holds them, each with its 95 % bootstrap interval over groups.

    Args:
        labels_N: reference classes, positions in ``names``.
        p: (N, K) probabilities; the predicted class is the first of the largest. Of several
            repetitions (S, N, K): each metric is the mean over them, with their ``seed_sd``.
        groups_N: patient of each case; whole patients are drawn.
        names: class names.
        seed: of the resampling.
        draws: number of resamples.

    Raises:
        UsageError: no case, lengths that differ, or values that are not finite.
    """
    labels, p_SNK = np.asarray(labels_N, dtype=np.int64), np.asarray(p, dtype=np.float64)
    p_SNK = p_SNK[None] if p_SNK.ndim == 2 else p_SNK
    groups = np.asarray(groups_N)
    if (
        not len(labels)
        or p_SNK.shape[1:] != (len(labels), len(names))
        or len(groups) != len(labels)
    ):
        raise UsageError(f"{len(labels)} labels, {p_SNK.shape} scores and {groups.shape} patients")
    if not np.isfinite(p_SNK).all():
        raise UsageError("probabilities hold NaN or infinity")
    point_S = _repetitions(labels, p_SNK, np.ones((1, len(labels))))
    drawn = [
        _repetitions(labels, p_SNK, weight_RN)
        for weight_RN in group_draws(groups, seed=seed, draws=draws)
    ]
    n_K = np.bincount(labels, minlength=len(names))
    summary: dict[str, Any] = {
        "accuracy": _interval(
            [s[0] for s in point_S], [[s[0] for s in d] for d in drawn], len(labels)
        )
    }
    for metric, field in (("balanced_accuracy", 1), ("f1", 2), ("auroc", 3)):
        value_S, drawn_S = [s[field] for s in point_S], [[s[field] for s in d] for d in drawn]
        overall = _interval(
            [_macro(v) for v in value_S], [[_macro(v) for v in d] for d in drawn_S], len(labels)
        )
        per_label = {
            name: _interval(
                [v[:, k] for v in value_S], [[v[:, k] for v in d] for d in drawn_S], int(n_K[k])
            )
            for k, name in enumerate(names)
        }
        summary[metric] = {**overall, "per_label": per_label}
    counts = np.sum([confusion(labels, p_NK.argmax(1), len(names)) for p_NK in p_SNK], axis=0)
    summary["confusion"] = {"labels": names, "rows": "reference", "counts": counts.tolist()}
    return summary


def _repetitions(labels_N: IntArray, p_SNK: FloatArray, weight_RN: FloatArray) -> list[Scores]:
    return [weighted_scores(labels_N, p_NK.argmax(1), p_NK, weight_RN) for p_NK in p_SNK]


def _macro(value_RK: FloatArray) -> FloatArray:
    there_RK = np.isfinite(value_RK)
    return _share(np.where(there_RK, value_RK, 0.0).sum(1), there_RK.sum(1))


def _interval(
    point_S1: list[FloatArray], drawn_SR: list[list[FloatArray]], n: int
) -> dict[str, float | int | None]:
    """Mean over repetitions, percentiles of the draws in which it exists; JSON knows no NaN."""
    values = [np.mean(one, axis=0) for one in drawn_SR]
    drawn = np.concatenate(values) if values else np.zeros(0)
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.percentile(drawn, LEVEL_PERCENT) if len(drawn) else (math.nan, math.nan)
    numbers = {"mean": float(np.mean(point_S1)), "low": float(low), "high": float(high)}
    if len(point_S1) > 1:
        numbers["seed_sd"] = float(np.std(point_S1, ddof=1))
    exists = math.isfinite(numbers["mean"])
    shown = {k: v if exists and math.isfinite(v) else None for k, v in numbers.items()}
    return {**shown, "n": n}


def _share(part: FloatArray, whole: npt.NDArray[Any]) -> FloatArray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(whole > 0, part / whole, np.nan))


def _weighted_auroc(
    positive_N: npt.NDArray[np.bool_], score_N: FloatArray, weight_RN: FloatArray
) -> FloatArray:
    order = np.argsort(score_N, kind="stable")
    positive, weight_RN = positive_N[order], weight_RN[:, order]
    below_RN = weight_RN * ~positive
    _, first, tie_N = np.unique(score_N[order], return_index=True, return_inverse=True)
    negatives_RT = np.add.reduceat(below_RN, first, axis=1)
    # Negatives of a lower score, and half of those of the same.
    beaten_RT = np.cumsum(negatives_RT, axis=1) - negatives_RT / 2
    wins_R = (beaten_RT[:, tie_N] * weight_RN * positive).sum(1)
    pairs_R = (weight_RN * positive).sum(1) * negatives_RT.sum(1)
    return _share(wins_R, pairs_R)
