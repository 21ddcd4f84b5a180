"""Several models, or several views of a scan, as one model: the mean of their probabilities.

Each member's logits are divided by its temperature first. The mean of distributions is one, and its
NLL is at most the members' mean NLL (Jensen); what members disagree on becomes doubt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

# Below this a probability has no logarithm in float32 that its softmax brings back.
_LEAST = 1e-30


class View(NamedTuple):
    """One way to show a window.

    Attributes:
        contrast: factor on the distance from the window's mean.
        flip: axis of the window that is mirrored, and back in a map of labels.
    """

    contrast: float = 1.0
    flip: int | None = None

    def of(self, x: Tensor) -> Tensor:
        """``x`` (B, C, *window) as the view shows it."""
        if self.contrast != 1.0:
            mean = x.mean(tuple(range(1, x.ndim)), keepdim=True)
            x = (x - mean) * self.contrast + mean
        return x if self.flip is None else x.flip(2 + self.flip)

    def back(self, p: Tensor, ndim: int) -> Tensor:
        """A map (B, K, *window) in place again; what is no map stays."""
        return p if self.flip is None or p.ndim != ndim else p.flip(2 + self.flip)


class Ensemble(nn.Module):
    """``x`` (B, C, *window) -> logits of the mean probabilities of all members and views.

    Attributes:
        single: each output is a chance of its own (tools), not a share of a whole.
    """

    def __init__(
        self,
        members: Sequence[nn.Module],
        temperatures: Sequence[float],
        views: Sequence[View] = (View(),),
        *,
        single: bool = False,
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.temperatures, self.views, self.single = tuple(temperatures), tuple(views), single

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor | None = None
        for member, temperature in zip(self.members, self.temperatures, strict=True):
            for view in self.views:
                logits = member(view.of(x)).float() / temperature
                p = logits.sigmoid() if self.single else logits.softmax(1)
                p = view.back(p, x.ndim)
                total = p if total is None else total + p
        assert total is not None  # an ensemble has a member and a view
        mean = total / (len(self.members) * len(self.views))
        if self.single:
            sure: Tensor = torch.special.logit(mean.double())
            return sure.float()
        return mean.clamp(min=_LEAST).log()
