"""How long to train, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math

from medssl.core.config import Config


class LoopConfig(Config):
    """How long and in which rhythm to train."""

    steps: int
    batch_size: int
    """Global: over all devices and accumulated micro-batches."""
    accumulate: int = 1
    log_every: int = 10
    check_every: int = 100
    """Steps between checkpoints, and between calls of the monitors."""


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
