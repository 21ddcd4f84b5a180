"""Phase scores of several videos as ``metrics.json`` holds them, with intervals over patients.

V videos, T frames, K phases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medssl.core.errors import UsageError
from medssl.core.phases import CHOLEC80
from medssl.evaluation.bootstrap import bootstrap_mean
from medssl.evaluation.phases import (
    IntArray,
    PhaseScores,
    Rule,
    edit_score,
    plain_scores,
    relaxed_scores,
    segmental_f1,
)

TOLERANCE_S = 10.0
_OVERLAPS = (10, 25, 50)
_OF_PHASES = PhaseScores._fields[1:]


@dataclass(frozen=True, eq=False)
class Video:
    """One video to score.

    Attributes:
        name: of the video.
        patient: whole patients are drawn for intervals.
        ref_T: reference phases.
        pred_T: predicted phases, -1 = none.
        step_s: between two frames.
    """

    name: str
    patient: str
    ref_T: IntArray
    pred_T: IntArray
    step_s: float


def summarise(videos: Sequence[Video], names: Sequence[str]) -> dict[str, Any]:
    """Every metric as a mean over videos with its 95 % interval, and the values of each video.

    Args:
        videos: at least one.
        names: of the phases, in the order of their numbers.

    Raises:
        UsageError: no video, or one without a frame.
    """
    if not videos:
        raise UsageError("no video to score")
    rule: Rule = "cholec80" if tuple(names) == CHOLEC80 else "neighbours"
    plain = [plain_scores(one.ref_T, one.pred_T, len(names)) for one in videos]
    relaxed = [
        relaxed_scores(
            one.ref_T, one.pred_T, len(names), tolerance=round(TOLERANCE_S / one.step_s), rule=rule
        )
        for one in videos
    ]
    segmental = [_segmental(one) for one in videos]
    patients = [one.patient for one in videos]
    orders = {
        name: bootstrap_mean([one[name] for one in segmental], patients).as_json()
        for name in segmental[0]
    }
    stated = {"rule": rule, "tolerance_s": TOLERANCE_S}
    cases = [
        {"case": one.name, "frames": len(one.ref_T)}
        | of.means()
        | order
        | {"relaxed": near.means()}
        for one, of, order, near in zip(videos, plain, segmental, relaxed, strict=True)
    ]
    return {
        **_means(plain, patients, names),
        **orders,
        "relaxed": stated | _means(relaxed, patients, names),
        "cases": cases,
    }


def _segmental(one: Video) -> dict[str, float]:
    shares = {f"f1@{k}": segmental_f1(one.ref_T, one.pred_T, k / 100) for k in _OVERLAPS}
    return {"edit": edit_score(one.ref_T, one.pred_T), **shares}


def _means(
    scores: Sequence[PhaseScores], patients: Sequence[str], names: Sequence[str]
) -> dict[str, Any]:
    means = [one.means() for one in scores]
    found: dict[str, Any] = {
        name: bootstrap_mean([one[name] for one in means], patients).as_json() for name in means[0]
    }
    for metric, field in zip(("precision", "recall", "jaccard", "f1"), _OF_PHASES, strict=True):
        value_VK = np.stack([getattr(one, field) for one in scores])
        found[metric]["per_label"] = {
            name: _over_videos(value_V, patients)
            for name, value_V in zip(names, value_VK.T, strict=True)
        }
    return found


def _over_videos(value_V: Any, patients: Sequence[str]) -> dict[str, float | int | None]:
    """Of one phase, over the videos in which it counts; null where there is none."""
    there = np.flatnonzero(np.isfinite(value_V))
    if not len(there):
        return {"mean": None, "low": None, "high": None, "n": 0}
    return bootstrap_mean(value_V[there], [patients[v] for v in there.tolist()]).as_json()
