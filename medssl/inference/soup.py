"""Model soups: the mean of the weights of fine-tunings that began alike (Wortsman et al. 2022).

Their means lie between them only where all started from the same weights. One model comes out, as
fast as a member. *Uniform* takes all; *greedy* begins with the best on validation, tries the
others from better to worse, and keeps each whose mean with those kept scores no less: the result is
never below the best member there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from medssl.core.errors import UsageError

Weights = Mapping[str, Tensor]


def mean_weights(members: Sequence[Weights]) -> dict[str, Tensor]:
    """Mean of each tensor, in float64; counters (integers) are the first member's.

    >>> a, b = {"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])}
    >>> mean_weights([a, b])
    {'w': tensor([1.5000])}

    Raises:
        UsageError: other tensors or shapes.
    """
    first = members[0]
    for other in members[1:]:
        if other.keys() != first.keys() or any(other[k].shape != first[k].shape for k in first):
            what = "the models have other weights, not other values of the same"
            raise UsageError(what, fix="give fine-tunings of one encoder")
    return {
        name: torch.stack([one[name].double() for one in members]).mean(0).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in first.items()
    }


def greedy(
    members: Sequence[Weights],
    scores: Sequence[float],
    score: Callable[[dict[str, Tensor]], float],
) -> tuple[list[int], float]:
    """Members that are kept, in the order in which they were, and the score of their mean.

    Args:
        members: weights.
        scores: of each on validation.
        score: of other weights.
    """
    order = sorted(range(len(members)), key=lambda k: -scores[k])
    kept, best = order[:1], scores[order[0]]
    for k in order[1:]:
        tried = score(mean_weights([members[j] for j in (*kept, k)]))
        if tried >= best:
            kept, best = [*kept, k], tried
    return kept, best
