"""The one protocol that the training loop knows. Objectives and heads fit it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from medssl.core.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

Batch = Mapping[str, Any]
# Each call gives every record once, in the order of their numbers, with views that do not depend
# on the step; the same on every rank.
Passes = Callable[[], Iterator[Batch]]


def no_passes() -> Iterator[Batch]:
    """For loops without access to the whole data."""
    raise UsageError("this task reads all data between steps, and none was given for that")


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

    def before_update(self, progress: float) -> None:
        """Before clipping and the optimiser: gradients to hold back (set them to ``None``).

        ``progress`` in [0, 1) is the share of steps done.
        """

    def after_update(self, progress: float) -> None:
        """Once per optimiser step; ``progress`` in (0, 1]: teachers, queues, centres.

        All that lasts beyond a step changes here and not in :meth:`step`, which also runs for
        validation and monitors.
        """

    def discard_update(self) -> None:
        """The update was skipped (gradients not finite): forget what its steps noted."""

    def prepare_at(self, step: int) -> bool:
        """Whether :meth:`prepare` is wanted before this step."""

    def prepare(self, pass_over_data: Passes) -> None:
        """Whole-data pass (clustering, stage changes)."""

    def forget_records(self) -> None:
        """The records are others from here on: forget what refers to their numbers.

        Raises:
            UsageError: this task cannot go on without that.
        """

    def validate(self, batch: Batch) -> dict[str, float]:
        """Metrics of one validation batch."""

    def resting(self) -> list[nn.Parameter]:
        """Trainable parameters that the next step leaves as they are: those of another stage."""

    def param_groups(self) -> list[ParamGroup]:
        """Trainable parameters, each in exactly one group."""
