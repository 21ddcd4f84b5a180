"""Average precision of tools (or any labels of which several hold at once).

Frames of all videos are pooled. A tool that no reference frame shows has no average precision
(null), and counts as 0 in the mean over tools, as in the evaluation of SelfSupSurg: choose test
videos that show every tool.

N frames, K tools.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from medssl.core.errors import UsageError

FloatArray = npt.NDArray[np.float64]


def average_precision(positive_N: npt.ArrayLike, score_N: npt.ArrayLike) -> float:
    """Mean precision over the positives, each at the threshold of its own score; NaN without any.

    Frames of equal score pass a threshold together.

    >>> average_precision([True, False, True], [0.9, 0.8, 0.1])  # (1/1 + 2/3) / 2
    0.8333333333333333
    """
    positive, score = np.asarray(positive_N, dtype=bool), np.asarray(score_N, dtype=np.float64)
    if positive.shape != score.shape or not np.isfinite(score).all():
        raise UsageError(f"{positive.shape} labels and {score.shape} scores, or not finite ones")
    if not positive.any():
        return math.nan
    order = np.argsort(-score, kind="stable")
    hits_N = np.cumsum(positive[order])
    last_N = np.append(np.diff(score[order]) != 0, True)  # of those with equal scores
    hits, passed = hits_N[last_N], np.flatnonzero(last_N) + 1
    gained = np.diff(hits, prepend=0)
    return float((gained * hits / passed).sum() / positive.sum())


def average_precisions(positive_NK: npt.ArrayLike, score_NK: npt.ArrayLike) -> FloatArray:
    """(K,) average precision of each tool; NaN for those without a positive frame."""
    positive, score = np.asarray(positive_NK, dtype=bool), np.asarray(score_NK, dtype=np.float64)
    columns = zip(positive.T, score.T, strict=True)
    return np.array([average_precision(p_N, s_N) for p_N, s_N in columns])


def mean_average_precision(ap_K: npt.ArrayLike) -> float:
    """Mean over all tools, of which those without a positive frame count as 0.

    >>> mean_average_precision([1.0, math.nan])
    0.5
    """
    return float(np.nan_to_num(np.asarray(ap_K, dtype=np.float64), nan=0.0).mean())
