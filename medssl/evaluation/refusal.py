"""Which cases to hand to a person: a quality for each, and what is gained by leaving the worst out.

**Quality of a segmentation** (*soft Dice confidence*, Borges, Pacheco and Silva 2024): of a label
whose predicted voxels M have probabilities p,

    2 sum_M p / (|M| + sum p),

the Dice that the mask has with a reference drawn from these probabilities, up to terms that vanish
with many voxels. It falls with every doubtful voxel, inside and outside of the mask. A label that
is predicted nowhere has 1 - max p, the chance that it is absent if its voxels appear together; or 0
where no validation case lacked it: an organ that is never missing was missed. The quality of a case
is the mean over its labels. That of classes and phases is the probability of what was predicted,
of a video the mean over its frames.

**Risk and coverage.** Cases are kept from the best quality down. Risk is the mean of 1 - score of
those that are kept, coverage their share; AURC is the mean risk over all coverages (Geifman et al.
2019). Cases of equal quality are kept together, at their mean risk.

N cases, K labels, V voxels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

from medssl.core.errors import UsageError

FloatArray = npt.NDArray[np.float64]
# Points of a risk-coverage curve in metrics.json.
_POINTS = 20


def soft_dice(
    p_KV: npt.NDArray[np.floating[Any]],
    class_V: npt.NDArray[np.integer[Any]],
    never_absent: Sequence[bool],
    weight_V: npt.NDArray[np.floating[Any]] | None = None,
) -> FloatArray:
    """Expected Dice (K - 1,) of every class but the first, the background.

    Args:
        p_KV: probabilities of each voxel.
        class_V: predicted class of each voxel.
        never_absent: (K,) classes that every validation case has.
        weight_V: how many voxels each stands for; default: 1.

    >>> p = np.array([[0.2, 0.9], [0.8, 0.1]])
    >>> soft_dice(p, np.array([1, 0]), [True, True]).round(4)  # 1.6 / (1 + 0.9)
    array([0.8421])
    """
    weight = np.ones(len(class_V)) if weight_V is None else np.asarray(weight_V, dtype=np.float64)
    found = []
    for k in range(1, len(p_KV)):
        there = class_V == k
        if there.any():
            inside = float(weight[there] @ p_KV[k][there])
            total = float(weight[there].sum() + weight @ p_KV[k])
            found.append(2 * inside / total)
        else:
            found.append(0.0 if never_absent[k] else 1.0 - float(p_KV[k].max()))
    return np.array(found)


def risk_coverage(quality_N: npt.ArrayLike, risk_N: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Coverage 1/N to 1, and the mean risk of the cases that are kept.

    >>> risk_coverage([0.9, 0.1], [0.0, 1.0])
    (array([0.5, 1. ]), array([0. , 0.5]))
    """
    quality, risk = _paired(quality_N, risk_N)
    _, tie_N = np.unique(-quality, return_inverse=True)
    mean_T = np.bincount(tie_N, risk) / np.bincount(tie_N)
    kept = np.arange(1, len(risk) + 1)
    return kept / len(risk), np.cumsum(mean_T[np.sort(tie_N)]) / kept


def aurc(quality_N: npt.ArrayLike, risk_N: npt.ArrayLike) -> float:
    """Area under the risk-coverage curve: the mean risk over all coverages.

    >>> aurc([0.9, 0.1], [0.0, 1.0]), aurc([0.5, 0.5], [0.0, 1.0])
    (0.25, 0.5)
    """
    return float(risk_coverage(quality_N, risk_N)[1].mean())


def risk_threshold(quality_N: npt.ArrayLike, risk_N: npt.ArrayLike, most: float) -> float:
    """Least quality of a case such that the mean risk from it up is at most ``most``.

    Infinite where no such case exists: then none is good enough.

    >>> risk_threshold([0.9, 0.8, 0.5, 0.4], [0.0, 0.2, 0.4, 1.0], most=0.2)
    0.5
    """
    quality, risk = _paired(quality_N, risk_N)
    ends = np.unique(quality)
    good = [t for t in ends if risk[quality >= t].mean() <= most + 1e-12]
    return float(min(good, default=math.inf))


def share_threshold(quality_N: npt.ArrayLike, share: float) -> float:
    """Quality that at most this share of the cases falls below.

    >>> share_threshold([0.9, 0.8, 0.5, 0.4], share=0.25), share_threshold([0.9, 0.8], share=0.1)
    (0.5, 0.8)
    """
    ordered = np.sort(np.asarray(quality_N, dtype=np.float64))
    below = min(int(share * len(ordered) + 1e-9), len(ordered) - 1)
    return float(ordered[below])


def summarise(quality_N: npt.ArrayLike, score_N: npt.ArrayLike) -> dict[str, Any]:
    """Risk and coverage as ``metrics.json`` holds them; ``score`` is what quality foretells.

    ``aurc_best`` is that of a quality which knows the score, ``aurc_chance`` that of one which
    knows nothing: the mean risk. ``rank_correlation`` is Spearman's, null where all are equal.
    """
    quality, score = _paired(quality_N, score_N)
    risk = 1 - score
    coverage, kept_risk = risk_coverage(quality, risk)
    shown = np.unique(np.linspace(0, len(risk) - 1, _POINTS).round().astype(int))
    varied = min(np.ptp(quality), np.ptp(score)) > 0
    return {
        "n": len(risk),
        "rank_correlation": float(spearmanr(quality, score).statistic) if varied else None,
        "mean_absolute_error": float(np.abs(quality - score).mean()),
        "aurc": float(kept_risk.mean()),
        "aurc_best": aurc(score, risk),
        "aurc_chance": float(risk.mean()),
        "coverage": [round(float(x), 6) for x in coverage[shown]],
        "risk": [round(float(x), 6) for x in kept_risk[shown]],
    }


def _paired(a_N: npt.ArrayLike, b_N: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    a, b = np.asarray(a_N, dtype=np.float64), np.asarray(b_N, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise UsageError(f"{a.shape} qualities and {b.shape} scores")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise UsageError("a quality or a score is not finite")
    return a, b
