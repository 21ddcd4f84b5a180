"""What objectives on two views of a sample share.

B batch, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from medssl.core.config import Config
from medssl.core.taskmodule import TaskModule
from medssl.core.viewspec import Setting, ViewSpec
from medssl.encoders._base import Encoder
from medssl.objectives._parts.views import ViewOptions, pair_of_views


class PairConfig(Config):
    """Options of every objective on two views."""

    hidden: int = Field(default=1024, ge=1)
    """Width of the hidden layers of head and predictor."""
    views: ViewOptions = ViewOptions()
    """How the two views differ."""


class Pair(TaskModule):
    """Encoder, config and the two views of an objective."""

    decoder = None

    def __init__(self, encoder: Encoder, config: PairConfig, setting: Setting) -> None:
        super().__init__()
        encoder.check_size(setting.crop)
        self.encoder = encoder
        self._views = pair_of_views(config.views, setting)

    def views(self) -> ViewSpec:
        """Two views of one place."""
        return self._views


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
