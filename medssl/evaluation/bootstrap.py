"""Percentile bootstrap over groups (patients, not cases): the interval of a mean.

S seeds, N cases, G groups, R draws.
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


class Interval(NamedTuple):
    """A mean with its 95 % interval; ``n`` is the number of cases.

    ``low`` and ``high`` are NaN where there is a single group: it says nothing of the spread.
    """

    mean: float
    low: float
    high: float
    n: int

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

    Args:
        a: (S, N) or (N,) values of the first arm; rows are training seeds.
        b: the second arm, same shape, same cases and seeds in the same places.
        groups: (N,) group (patient) of each case.
        seed: of the resampling.
        draws: number of resamples.
        resample_seeds: draw seeds as well as groups, so that the interval covers the spread of
            training too.

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
    sums = [np.bincount(group_N, weights=row) for row in values_SN - mean]
    sum_SG = np.stack(sums).astype(np.float64)
    rng = generator(seed, "bootstrap")
    means = [
        _resampled_means(sum_SG, size_G, rng, min(CHUNK, draws - k), resample_seeds)
        for k in range(0, draws, CHUNK)
    ]
    low, high = mean + np.percentile(np.concatenate(means), LEVEL_PERCENT)
    return Interval(mean, float(low), float(high), n)


def _resampled_means(
    sum_SG: FloatArray,
    size_G: FloatArray,
    rng: np.random.Generator,
    draws: int,
    resample_seeds: bool,
) -> FloatArray:
    n_seeds, n_groups = sum_SG.shape
    times_RG = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=draws)
    weight_RS = np.full((draws, n_seeds), 1 / n_seeds)
    if resample_seeds:
        weight_RS = rng.multinomial(n_seeds, weight_RS[0], size=draws) / n_seeds
    total_R = np.einsum("rs,sg,rg->r", weight_RS, sum_SG, times_RG, optimize=True)
    return np.asarray(total_R / (times_RG @ size_G))
