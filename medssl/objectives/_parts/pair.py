"""What objectives on two views of a sample share.

B batch, D width.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from medssl.core.config import Config
from medssl.core.task import Batch, StepOutput
from medssl.core.taskmodule import TaskModule
from medssl.core.viewspec import Setting, ViewSpec
from medssl.encoders._base import Encoder
from medssl.objectives._parts.contrast import unit
from medssl.objectives._parts.views import ViewOptions, pair_of_views


class PairConfig(Config):
    """Options of every objective on two views."""

    hidden: int = Field(default=1024, ge=1)
    """Width of the hidden layers of head and predictor."""
    views: ViewOptions = ViewOptions()
    """How the two views differ."""


class Pair(TaskModule):
    """An objective on two views of one place.

    Attributes:
        weights: of the loss terms; 1 where none is given.
    """

    decoder = None
    weights: Mapping[str, float] = {}

    def __init__(self, encoder: Encoder, config: PairConfig, setting: Setting) -> None:
        super().__init__()
        encoder.check_size(setting.crop)
        self.encoder = encoder
        self._spec = pair_of_views(config.views, setting)

    def views(self) -> ViewSpec:
        """Two views of one place."""
        return self._spec

    @abstractmethod
    def compare(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Terms of the loss, without their weights, and the embeddings that it compares (B, D)."""

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Terms of the loss, without their weights."""
        return self.compare(batch)[0]

    def step(self, batch: Batch) -> StepOutput:
        """The weighted sum of the terms; logs them and the spread of the embeddings."""
        return self.output(*self.compare(batch))

    def output(self, terms: dict[str, Tensor], embedding_BD: Tensor) -> StepOutput:
        """What :meth:`step` returns."""
        loss = sum((self.weights.get(name, 1.0) * term for name, term in terms.items()), start=0.0)
        assert isinstance(loss, Tensor)  # there is at least one term
        return StepOutput(loss, {**terms, "embedding_std": spread(embedding_BD)})


@torch.no_grad()
def spread(z_BD: Tensor) -> Tensor:
    """Standard deviation of directions times sqrt(D): 1 = even, 0 = all samples the same.

    >>> spread(torch.cat([torch.eye(4), -torch.eye(4)])).item()
    1.0
    """
    return unit(z_BD).std(0, unbiased=False).mean() * math.sqrt(z_BD.shape[1])


class Branch(nn.Module):
    """Head of the encoder's global vector, (B, C, *space) -> (B, D): what a teacher copies."""

    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(x).global_BD)
        return out


def view_vectors(encoder: Encoder, views: Sequence[Mapping[str, Any]]) -> list[Tensor]:
    """Global vectors (B, D) of each view; all pass the encoder as one batch."""
    together = torch.cat([view["x"] for view in views])
    return list(encoder(together).global_BD.chunk(len(views)))
