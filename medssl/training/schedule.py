"""How long to train, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from typing import NamedTuple

from medssl.core.config import Config

# Where schedules of objectives stand while the rate is constant, see :func:`paused_progress`.
_MIDDLE = 0.5


class LoopConfig(Config):
    """How long and in which rhythm to train."""

    steps: int
    batch_size: int
    """Global: over all devices and accumulated micro-batches."""
    accumulate: int = 1
    log_every: int = 10
    check_every: int = 100
    """Steps between checkpoints, and between calls of the monitors."""


class Phases(NamedTuple):
    """Where the phases of the infinite schedule end, in steps from the start.

    Attributes:
        warm: N_w, the rate has risen to its peak.
        cooled: N_c, it has fallen to the constant rate.
        anneal: N_d, the constant phase ends; equal to ``end`` in a run that is not annealed.
        end: N_e, the last step is done.
    """

    warm: int
    cooled: int
    anneal: int
    end: int


def warmup_cosine(step: int, steps: int, warmup: int) -> float:
    """Factor on the base rate at ``step`` (0-based): linear warm-up, then cosine to 0.

    The first step has 1/warmup, step ``warmup - 1`` has 1, and the factor falls to 0 at
    ``steps``, so that the last step still learns a little.

    >>> [round(warmup_cosine(s, 8, 2), 3) for s in (0, 1, 2, 5, 8)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def infinite(n: float, phases: Phases, constant: float, final: float) -> float:
    """Factor on the base rate of the ``n``-th step (from 1): warm-up, cosine to a constant, anneal.

    The constant phase has no end of its own: a run that is longer has the same rates up to there.
    The last phase falls by an equal factor every step, from ``constant`` to ``final`` at the end.

    >>> phases = Phases(warm=2, cooled=4, anneal=8, end=10)
    >>> [round(infinite(n, phases, 0.4, 0.1), 3) for n in (1, 2, 3, 4, 8, 9, 10)]
    [0.5, 1.0, 0.7, 0.4, 0.4, 0.2, 0.1]
    """
    warm, cooled, anneal, end = phases
    if n < warm:
        return n / warm
    if n < cooled:
        fall = 0.5 * (1 + math.cos(math.pi * (n - warm) / (cooled - warm)))
        return constant + (1 - constant) * fall
    if n <= anneal:
        return constant
    return float(constant * (final / constant) ** ((n - anneal) / (end - anneal)))


def paused_progress(n: float, phases: Phases) -> float:
    """Progress in [0, 1] for whatever else runs along a schedule: 0.5 in the constant phase.

    Teachers' momentum, temperatures and weight decay then stand still as the rate does, and reach
    their ends with the annealing.

    >>> phases = Phases(warm=2, cooled=4, anneal=8, end=10)
    >>> [paused_progress(n, phases) for n in (0, 2, 4, 6, 8, 9, 10)]
    [0.0, 0.25, 0.5, 0.5, 0.5, 0.75, 1.0]
    """
    risen = min(n / max(phases.cooled, 1), 1.0)
    annealed = max(n - phases.anneal, 0.0) / max(phases.end - phases.anneal, 1)
    return _MIDDLE * risen + (1 - _MIDDLE) * annealed
