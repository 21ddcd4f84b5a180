"""Does one arm do better than another? Means and paired gains, and what they allow to say.

S seeds, N cases.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from medssl.evaluation.bootstrap import Interval, bootstrap_difference

Verdict = Literal["better", "worse", "not told apart", "no interval"]


class Gain(NamedTuple):
    """A difference of two arms, or the mean of one.

    Attributes:
        interval: NaN at its ends where there is one seed or one patient.
        seeds, groups: how many there are.
    """

    interval: Interval
    seeds: int
    groups: int

    @property
    def verdict(self) -> Verdict:
        """What a difference allows to say.

        >>> Gain(Interval(0.02, 0.01, 0.03, 60), 3, 60).verdict
        'better'
        >>> Gain(Interval(0.02, -0.01, 0.05, 60), 3, 60).verdict
        'not told apart'
        """
        low, high = self.interval.low, self.interval.high
        if math.isnan(low):
            return "no interval"
        if low > 0:
            return "better"
        return "worse" if high < 0 else "not told apart"


def gain(a_SN: npt.ArrayLike, b_SN: npt.ArrayLike, groups: npt.ArrayLike) -> Gain:
    """Mean of ``a - b``, paired by seed and case, with its 95 % interval over seeds and groups.

    One seed says nothing of the spread of training: it gets no interval.

    Args:
        a_SN: scores of the first arm, a row per seed.
        b_SN: of the second, the same seeds and cases in the same places.
        groups: (N,) patient of each case.

    Raises:
        UsageError: empty, not finite, or shapes that differ.
    """
    interval = bootstrap_difference(a_SN, b_SN, groups)
    seeds = len(np.atleast_2d(np.asarray(a_SN)))
    if seeds < 2:
        interval = interval._replace(low=math.nan, high=math.nan)
    return Gain(interval, seeds, len(np.unique(np.asarray(groups))))


def mean_score(a_SN: npt.ArrayLike, groups: npt.ArrayLike) -> Gain:
    """Mean of one arm, as :func:`gain`; scores are 0 to 1."""
    found = gain(a_SN, np.zeros_like(np.asarray(a_SN, dtype=np.float64)), groups)
    return found._replace(interval=found.interval.within(0, 1))
