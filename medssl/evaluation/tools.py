"""Average precision of tools (or any labels of which several hold at once).

Frames of all videos are pooled. A tool that no reference frame shows has no average precision
(null), and counts as 0 in the mean over tools, as in the evaluation of SelfSupSurg: choose test
videos that show every tool. The same holds within each bootstrap draw, of which an interval is made
over patients.

N frames, K tools, V videos.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.errors import UsageError
from medssl.evaluation.bootstrap import LEVEL_PERCENT, Interval, group_draws

FloatArray = npt.NDArray[np.float64]
DRAWS = 1000


def average_precision(positive_N: npt.ArrayLike, score_N: npt.ArrayLike) -> float:
    """Mean precision over the positives, each at the threshold of its own score; NaN without any.

    Frames of equal score pass a threshold together.

    >>> average_precision([True, False, True], [0.9, 0.8, 0.1])  # (1/1 + 2/3) / 2
    0.8333333333333333
    """
    positive, score = np.asarray(positive_N, dtype=bool), np.asarray(score_N, dtype=np.float64)
    if positive.shape != score.shape or not np.isfinite(score).all():
        raise UsageError(f"{positive.shape} labels and {score.shape} scores, or not finite ones")
    return _Ranking(positive, score).precision(np.ones(len(score)))


class _Ranking:
    """Frames in the order of their scores, to be weighted again and again."""

    def __init__(self, positive_N: npt.NDArray[np.bool_], score_N: FloatArray) -> None:
        self.order = np.argsort(-score_N, kind="stable")
        self.positive = positive_N[self.order]
        # Of frames with equal scores; they pass a threshold together.
        self.last = np.append(np.diff(score_N[self.order]) != 0, True)

    def precision(self, weight_N: FloatArray) -> float:
        """Average precision where a frame counts so many times; NaN without a positive."""
        weight = weight_N[self.order]
        hits = np.cumsum(weight * self.positive)[self.last]
        passed = np.cumsum(weight)[self.last]
        if not len(hits) or hits[-1] == 0:
            return math.nan
        gained = np.diff(hits, prepend=0)
        return float((gained * hits / np.maximum(passed, 1)).sum() / hits[-1])


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


def summarise(
    positive_NK: npt.NDArray[np.bool_],
    score_NK: FloatArray,
    video_N: npt.NDArray[np.int64],
    patients_V: Sequence[str],
    names: Sequence[str],
) -> dict[str, Any]:
    """``map`` as ``metrics.json`` holds it, with 95 % intervals over patients.

    Args:
        positive_NK: which tools are in view.
        score_NK: their probabilities.
        video_N: number of each frame's video.
        patients_V: patient of each video.
        names: of the tools.
    """
    columns = list(zip(positive_NK.T, score_NK.T, strict=True))
    rankings = [_Ranking(positive_N, score_N) for positive_N, score_N in columns]
    once = np.ones(len(video_N))
    point_K = np.array([one.precision(once) for one in rankings])
    drawn_RK = np.array([
        [one.precision(weight_V[video_N]) for one in rankings]
        for weight_RV in group_draws(patients_V, draws=DRAWS)
        for weight_V in weight_RV
    ]).reshape(-1, len(names))  # fmt: skip
    means_R = [mean_average_precision(ap_K) for ap_K in drawn_RK]
    n = len(patients_V)
    per_label = {
        name: _interval(point_K[k], drawn_RK[:, k], n).as_json() for k, name in enumerate(names)
    }
    overall = _interval(mean_average_precision(point_K), np.array(means_R), n)
    return {"map": {**overall.as_json(), "per_label": per_label}}


def _interval(point: float, drawn_R: FloatArray, n: int) -> Interval:
    there = drawn_R[np.isfinite(drawn_R)]
    if math.isnan(point) or not len(there):
        return Interval(float(point), math.nan, math.nan, n)
    low, high = np.percentile(there, LEVEL_PERCENT)
    return Interval(float(point), float(low), float(high), n)
