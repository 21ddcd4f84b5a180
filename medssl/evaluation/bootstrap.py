"""Percentile bootstrap over groups (patients, not cases): the interval of a mean.

S seeds, N cases, G groups, R draws.

Groups are drawn with replacement. Seeds are too few for that: three runs drawn with replacement
never leave their own range, and have 2/3 of their variance. The mean over seeds deviates instead
by Student's t with S - 1 degrees of freedom times its standard error, which is the posterior of a
normal mean. Where groups spread as well, the quantile of such a sum is too large (Behrens and
Fisher). Ghosh and Kim (2001, "The Behrens-Fisher problem revisited: a Bayes-frequentist synthesis",
Canadian Journal of Statistics 29) give the posterior whose intervals cover as often as they say, up
to higher orders in 1/n. With v_S and v_G the squared standard errors over seeds and over groups it
is a mixture: with chance v_G / (v_S + v_G) the variance of the mean over seeds is (S - 1) v_S over
chi-squared with S + 1 degrees of freedom, else with S - 1. For 2 and 3 seeds it covers 93 to 94 %,
Behrens and Fisher's 97 %; half that chance covers 95 to 97 % (tests/evaluation/test_compare.py).
Noise of single cases counts in both parts, as in Owen's pigeonhole bootstrap (2007, Annals of
Applied Statistics 1): where it is large, the interval is too wide rather than too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from medssl.core.errors import UsageError
from medssl.core.seeding import generator

FloatArray = npt.NDArray[np.float64]
LEVEL_PERCENT = (2.5, 97.5)
# Rows of the resampling matrix held at once: bounds memory for many groups.
CHUNK = 1000
# Share of Ghosh and Kim's chance, see above.
_MATCHED = 0.5


class Interval(NamedTuple):
    """A mean with its 95 % interval; ``n`` is the number of cases.

    ``low`` and ``high`` are NaN where there is a single group: it says nothing of the spread.
    """

    mean: float
    low: float
    high: float
    n: int

    def within(self, least: float, most: float) -> Interval:
        """Cut off what no mean can be; few seeds leave much of that.

        >>> Interval(0.9, 0.5, 1.3, 60).within(0, 1)
        Interval(mean=0.9, low=0.5, high=1, n=60)
        """
        # max and min keep a NaN that comes first.
        return self._replace(low=max(self.low, least), high=min(self.high, most))

    def as_json(self) -> dict[str, float | int | None]:
        """For ``metrics.json``; JSON knows no NaN.

        >>> Interval(0.5, math.nan, math.nan, 1).as_json()
        {'mean': 0.5, 'low': None, 'high': None, 'n': 1}
        """
        return {k: None if math.isnan(v) else v for k, v in self._asdict().items()}


def bootstrap_mean(
    values: npt.ArrayLike, groups: npt.ArrayLike, *, seed: int = 0, draws: int = 10000
) -> Interval:
    """Mean over cases; whole groups are resampled with replacement.

    Args:
        values: (N,) one value per case.
        groups: (N,) group (patient) of each case.
        seed: of the resampling.
        draws: number of resamples.

    Raises:
        UsageError: empty, not finite, or lengths that differ.

    >>> bootstrap_mean([2.0, 2.0, 2.0], ["a", "b", "b"])
    Interval(mean=2.0, low=2.0, high=2.0, n=3)
    """
    values_SN = np.asarray(values, dtype=np.float64).reshape(1, -1)
    return _interval(values_SN, groups, seed=seed, draws=draws, resample_seeds=False)


def bootstrap_difference(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    groups: npt.ArrayLike,
    *,
    seed: int = 0,
    draws: int = 10000,
    resample_seeds: bool = True,
) -> Interval:
    """Mean of ``a - b``, paired by case and by seed.

    Two arms without a difference, of 3 seeds with SD 1 and 60 patients whose difference has SD 6,
    are told apart in 4 of 100 such comparisons; drawing seeds with replacement, in 13.

    Args:
        a: (S, N) or (N,) values of the first arm; rows are training seeds.
        b: the second arm, same shape, same cases and seeds in the same places.
        groups: (N,) group (patient) of each case.
        seed: of the resampling.
        draws: number of resamples.
        resample_seeds: let seeds vary as well as groups, so that the interval covers the spread of
            training too; a single seed says nothing of it.

    Raises:
        UsageError: empty, not finite, or shapes that differ.
    """
    a_SN = np.atleast_2d(np.asarray(a, dtype=np.float64))
    b_SN = np.atleast_2d(np.asarray(b, dtype=np.float64))
    if a_SN.shape != b_SN.shape:
        raise UsageError(f"paired values have shapes {a_SN.shape} and {b_SN.shape}")
    return _interval(a_SN - b_SN, groups, seed=seed, draws=draws, resample_seeds=resample_seeds)


def group_draws(
    groups: npt.ArrayLike, *, seed: int = 0, draws: int = 10000
) -> Iterator[FloatArray]:
    """How often each case occurs in each resample of the groups: (R, N) arrays, R up to ``CHUNK``.

    For statistics that are no means. Nothing where there is a single group.
    """
    names, group_N = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        return
    rng = generator(seed, "bootstrap")
    share_G = np.full(len(names), 1 / len(names))
    for k in range(0, draws, CHUNK):
        times_RG = rng.multinomial(len(names), share_G, size=min(CHUNK, draws - k))
        yield times_RG[:, group_N].astype(np.float64)


def _interval(
    values_SN: FloatArray,
    groups: npt.ArrayLike,
    *,
    seed: int,
    draws: int,
    resample_seeds: bool,
) -> Interval:
    n = values_SN.shape[1]
    _, group_N = np.unique(np.asarray(groups), return_inverse=True)
    if n == 0 or group_N.shape != (n,):
        raise UsageError(f"{n} values but groups of shape {group_N.shape}")
    if not np.isfinite(values_SN).all():
        raise UsageError("values to average hold NaN or infinity")
    mean = float(values_SN.mean())
    size_G = np.bincount(group_N).astype(np.float64)
    if len(size_G) < 2:
        return Interval(mean, float("nan"), float("nan"), n)
    # Deviations from the mean: equal values give an interval of exactly zero width.
    away_SN = values_SN - mean
    sum_G = np.bincount(group_N, weights=away_SN.mean(axis=0)).astype(np.float64)
    rng = generator(seed, "bootstrap")
    away_R = np.concatenate([
        _of_groups(sum_G, size_G, rng, min(CHUNK, draws - k)) for k in range(0, draws, CHUNK)
    ])  # fmt: skip
    if resample_seeds and len(values_SN) > 1:
        groups_variance = float(sum_G @ sum_G) / n**2 * len(sum_G) / (len(sum_G) - 1)
        away_R = away_R + _of_seeds(away_SN.mean(axis=1), groups_variance, rng, draws)
    low, high = mean + np.percentile(away_R, LEVEL_PERCENT)
    return Interval(mean, float(low), float(high), n)


def _of_groups(
    sum_G: FloatArray, size_G: FloatArray, rng: np.random.Generator, draws: int
) -> FloatArray:
    """How far the mean over resampled groups lies from the mean."""
    n_groups = len(size_G)
    times_RG = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=draws)
    return np.asarray((times_RG @ sum_G) / (times_RG @ size_G))


def _of_seeds(
    mean_S: FloatArray, groups_variance: float, rng: np.random.Generator, draws: int
) -> FloatArray:
    """How far the mean over seeds may lie from that of all seeds, see above."""
    free = len(mean_S) - 1
    variance = float(mean_S.var(ddof=1)) / len(mean_S)
    if variance == 0:
        return np.zeros(draws)
    smaller_R = rng.random(draws) < _MATCHED * groups_variance / (variance + groups_variance)
    chi2_R = rng.chisquare(np.where(smaller_R, free + 2, free))
    return np.asarray(np.sqrt(free * variance / chi2_R) * rng.standard_normal(draws))
