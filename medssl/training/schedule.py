"""Learning rate as a pure function of the step."""

from __future__ import annotations

import math


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
