"""The one protocol that the training loop knows. Objectives and heads fit it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

Batch = Mapping[str, Any]


class StepOutput(NamedTuple):
    """Loss to minimise (scalar, float32) and scalars to log."""

    loss: Tensor
    log: dict[str, Tensor]


class ParamGroup(NamedTuple):
    """Named parameters that share a learning-rate factor."""

    params: dict[str, nn.Parameter]
    lr_scale: float


class Task(Protocol):
    """A module that can be trained: ``torch.nn.Module`` plus these methods."""

    def step(self, batch: Batch) -> StepOutput:
        """Loss of one micro-batch."""

    def after_update(self, progress: float) -> None:
        """Called once per optimiser step; ``progress`` in [0, 1]: teachers, queues."""

    def prepare(self, pass_over_data: Callable[[], Any]) -> None:
        """Whole-data pass at declared steps (clustering, stage changes)."""

    def validate(self, batch: Batch) -> dict[str, float]:
        """Metrics of one validation batch."""

    def param_groups(self) -> list[ParamGroup]:
        """Trainable parameters, each in exactly one group."""
