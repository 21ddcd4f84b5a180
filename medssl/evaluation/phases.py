"""Agreement of predicted phases (states that follow each other in a video) with reference phases.

Everything is computed per video; summaries are means over videos. A frame is right if its phase is
the reference's. Per phase k, with R = right frames, P = frames predicted as k, G = frames of k:

- precision = |R and P| / |P|, recall = |R and G| / |G|, Jaccard = |R and (P or G)| / |P or G|,
  F1 = harmonic mean of precision and recall.

**Plain.** Right means equal. The mean is over phases that the reference or the prediction of this
video has; a phase of only one of them scores 0, a phase of neither does not count. A video that is
right everywhere scores 1 however many phases it lacks.

**Relaxed.** In the first ``tolerance`` frames of a reference segment an earlier phase is right too
(a late transition), in the last ones a later phase (an early transition). Which ones:

- ``neighbours``: the phase of the segment before, and of the segment after.
- ``cholec80``: by number, as the M2CAI 2016 script has it for the seven phases of Cholec80: one
  lower and one higher; in phases 5 and 6 also two lower, in phases 3 to 6 also two higher (from 0).

The mean is over phases of the reference, as in that script. Two departures: the script applies the
mask of a segment's last frames to its first ones, which is not repeated here; and it counts right
frames outside of P in the precision (outside of G in the recall) and cuts what exceeds 1.

A prediction of -1 is none: it is wrong, and belongs to no phase and no segment.

T frames, K phases, S segments.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from medssl.core.errors import UsageError
from medssl.core.phases import CHOLEC80, NONE

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Rule = Literal["neighbours", "cholec80"]


class Segment(NamedTuple):
    """Frames [start, stop) of one phase."""

    phase: int
    start: int
    stop: int


class PhaseScores(NamedTuple):
    """Of one video; NaN for phases that do not count."""

    accuracy: float
    precision_K: FloatArray
    recall_K: FloatArray
    jaccard_K: FloatArray
    f1_K: FloatArray

    def means(self) -> dict[str, float]:
        """Accuracy, and the other scores averaged over the phases that count."""
        each = zip(("precision", "recall", "jaccard", "f1"), self[1:], strict=True)
        return {"accuracy": self.accuracy} | {name: float(np.nanmean(x)) for name, x in each}


def plain_scores(ref_T: npt.ArrayLike, pred_T: npt.ArrayLike, phases: int) -> PhaseScores:
    """Scores of one video, plain variant.

    Raises:
        UsageError: no frame, lengths that differ, or a number that is no phase.

    >>> scores = plain_scores([0, 0, 1, 1], [0, 1, 1, 1], phases=3)
    >>> scores.accuracy, scores.jaccard_K.round(3).tolist()
    (0.75, [0.5, 0.667, nan])
    """
    ref, pred = _checked(ref_T, pred_T, phases)
    number_K1 = np.arange(phases)[:, None]
    there_K = ((ref == number_K1) | (pred == number_K1)).any(1)
    return _scores(ref, pred, ref == pred, there_K)


def relaxed_scores(
    ref_T: npt.ArrayLike,
    pred_T: npt.ArrayLike,
    phases: int,
    *,
    tolerance: int,
    rule: Rule = "neighbours",
) -> PhaseScores:
    """Scores of one video, relaxed variant; ``tolerance`` in frames.

    Raises:
        UsageError: as :func:`plain_scores`; other than seven phases with ``cholec80``.

    >>> relaxed_scores([0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 0], phases=2, tolerance=1).accuracy
    0.6666666666666666
    """
    ref, pred = _checked(ref_T, pred_T, phases)
    if rule == "cholec80" and phases != len(CHOLEC80):
        raise UsageError(f"the rule of Cholec80 is for 7 phases, not {phases}")
    right_T = ref == pred
    found = segments(ref)
    for number, one in enumerate(found):
        if rule == "cholec80":
            late, early = _cholec80_confusions(one.phase)
        else:
            late = {found[number - 1].phase} if number else set()
            early = {found[number + 1].phase} if number + 1 < len(found) else set()
        first = slice(one.start, min(one.start + tolerance, one.stop))
        last = slice(max(one.stop - tolerance, one.start), one.stop)
        right_T[first] |= np.isin(pred[first], list(late))
        right_T[last] |= np.isin(pred[last], list(early))
    there_K = (ref == np.arange(phases)[:, None]).any(1)
    return _scores(ref, pred, right_T, there_K)


def segments(labels_T: npt.ArrayLike) -> list[Segment]:
    """Runs of equal phases; frames without a phase (-1) are in none.

    >>> segments([2, 2, -1, 2, 0])
    [Segment(phase=2, start=0, stop=2), Segment(phase=2, start=3, stop=4), \
Segment(phase=0, start=4, stop=5)]
    """
    labels = np.asarray(labels_T, dtype=np.int64)
    edges = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    runs = [Segment(int(labels[a]), a, b) for a, b in pairwise(edges) if b > a]
    return [one for one in runs if one.phase != NONE]


def edit_score(ref_T: npt.ArrayLike, pred_T: npt.ArrayLike) -> float:
    """1 - Levenshtein distance of the two orders of segments / the longer of their lengths.

    Order counts, duration does not (Lea et al. 2017); too many segments cost.

    >>> edit_score([0, 0, 1, 1], [0, 1, 0, 1])  # two insertions to come to four segments
    0.5
    """
    ref, pred = ([one.phase for one in segments(x)] for x in (ref_T, pred_T))
    if not ref and not pred:
        return 1.0
    return 1 - _levenshtein(ref, pred) / max(len(ref), len(pred))


def segmental_f1(ref_T: npt.ArrayLike, pred_T: npt.ArrayLike, overlap: float) -> float:
    """F1 of segments: right are those with an intersection over union of at least ``overlap``.

    In their order, each predicted segment takes the reference segment of its phase with which its
    intersection over union is largest; one that is taken already is not taken again (Lea et al.
    2017). Of this video alone, not of counts pooled over videos.

    >>> segmental_f1([0, 0, 0, 0, 1, 1], [0, 0, 1, 0, 1, 1], overlap=0.5)  # 2 of 4 predicted, of 2
    0.6666666666666666
    """
    ref, pred = segments(ref_T), segments(pred_T)
    if not ref and not pred:
        return 1.0
    taken: set[int] = set()
    for one in pred:
        iou = [_iou(one, other) if other.phase == one.phase else 0.0 for other in ref]
        best = int(np.argmax(iou)) if iou else -1
        if best >= 0 and best not in taken and iou[best] >= overlap and iou[best] > 0:
            taken.add(best)
    return 2 * len(taken) / (len(ref) + len(pred))


def _checked(ref_T: npt.ArrayLike, pred_T: npt.ArrayLike, phases: int) -> tuple[IntArray, IntArray]:
    ref, pred = np.asarray(ref_T, dtype=np.int64), np.asarray(pred_T, dtype=np.int64)
    if ref.shape != pred.shape or ref.ndim != 1 or not len(ref):
        raise UsageError(f"{ref.shape} reference phases and {pred.shape} predicted ones")
    if ref.min() < 0 or pred.min() < NONE or max(ref.max(), pred.max()) >= phases:
        raise UsageError(f"a phase is none of 0 to {phases - 1}")
    return ref, pred


def _scores(
    ref_T: IntArray, pred_T: IntArray, right_T: BoolArray, there_K: BoolArray
) -> PhaseScores:
    number_K1 = np.arange(len(there_K))[:, None]
    given_KT, true_KT = pred_T == number_K1, ref_T == number_K1
    either_KT = given_KT | true_KT
    precision_K, recall_K, jaccard_K = (
        (right_T & x_KT).sum(1) / np.maximum(x_KT.sum(1), 1)
        for x_KT in (given_KT, true_KT, either_KT)
    )
    total_K = precision_K + recall_K
    f1_K = 2 * precision_K * recall_K / np.where(total_K > 0, total_K, 1)
    each = (np.where(there_K, x_K, np.nan) for x_K in (precision_K, recall_K, jaccard_K, f1_K))
    return PhaseScores(float(right_T.mean()), *each)


def _cholec80_confusions(phase: int) -> tuple[set[int], set[int]]:
    """Phases that are right at the start and at the end of a segment, by their numbers."""
    late = {phase - 1, phase - 2} if phase in (5, 6) else {phase - 1}
    early = {phase + 1, phase + 2} if phase in (3, 4, 5, 6) else {phase + 1}
    return late - {NONE}, early


def _iou(a: Segment, b: Segment) -> float:
    shared = min(a.stop, b.stop) - max(a.start, b.start)
    return max(shared, 0) / (a.stop - a.start + b.stop - b.start - max(shared, 0))


def _levenshtein(a: list[int], b: list[int]) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        above, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (x != y))
    return row[-1]
