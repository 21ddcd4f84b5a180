"""Base of objectives and heads: a torch module that fits :class:`medssl.core.task.Task`."""

from __future__ import annotations

from abc import abstractmethod

from torch import nn

from medssl.core.task import Batch, ParamGroup, Passes, StepOutput


class TaskModule(nn.Module):
    """Defaults of the Task protocol: no state beside the weights, no whole-data pass, one group."""

    @abstractmethod
    def step(self, batch: Batch) -> StepOutput:
        """Loss of one micro-batch."""

    def before_update(self, progress: float) -> None:
        """No gradient to hold back."""

    def after_update(self, progress: float) -> None:
        """Nothing to move along."""

    def discard_update(self) -> None:
        """Nothing noted."""

    def prepare_at(self, step: int) -> bool:  # noqa: ARG002
        """No whole-data pass needed."""
        return False

    def prepare(self, pass_over_data: Passes) -> None:
        """No whole-data pass needed."""

    def forget_records(self) -> None:
        """The records are others from here on; nothing kept refers to them."""

    def validate(self, batch: Batch) -> dict[str, float]:
        """Loss of one validation batch."""
        return {"loss": float(self.step(batch).loss)}

    def resting(self) -> list[nn.Parameter]:
        """No stages: every step trains all there is."""
        return []

    def in_stages(self) -> bool:
        """Whether it is the progress of the run that decides what a step trains."""
        return False

    def param_groups(self) -> list[ParamGroup]:
        """All trainable weights at the base learning rate."""
        return [ParamGroup({n: p for n, p in self.named_parameters() if p.requires_grad}, 1.0)]
