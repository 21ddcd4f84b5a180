"""Measures the health of a training on a fixed probe set, without leaving a trace in it.

N samples, Q augmented views of each, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medssl.core.task import Batch
from medssl.evaluation.health import feature_std, lidar, rankme
from medssl.evaluation.shortcut import read_outs

# What an objective logs for the monitor, see medssl.evaluation.health.verdict.
_LOGGED = ("embedding_std", "target_std", "teacher_entropy", "mean_entropy", "prototype_usage")


@dataclass(frozen=True, eq=False)
class Probe:
    """What a rank measures on; ranks hold equal parts, in the order of ranks.

    Attributes:
        views: Q tensors (N, C, *crop): views of the same N samples.
        batch: one micro-batch with the views of the objective.
        chunk: samples that go through the encoder at once.
        labels: free labels of the samples of all ranks, by name; empty = unknown.
        patients_N: patient of each of these samples.
    """

    views: Sequence[Tensor]
    batch: Batch
    chunk: int
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    patients_N: npt.NDArray[Any] | None = None


def _same(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True, eq=False)
class HealthMonitor:
    """Called with a task that has an encoder; returns its measures.

    The task runs in evaluation mode, but for batch norms in its step, whose loss compares what the
    batch's own statistics make. Its buffers, gradients and the random state stay as they were, so
    that a run with the monitor is bitwise that without.

    Attributes:
        autocast: precision of the run.
        gather: rows of all ranks; mean: average over ranks.
    """

    probe: Probe
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    gather: Callable[[Tensor], Tensor] = _same
    mean: Callable[[Tensor], Tensor] = _same

    def __call__(self, task: nn.Module) -> dict[str, float]:
        """Measure ``rankme``, ``lidar`` and ``feature_std`` of the encoder.

        With them come how well neighbours tell free labels, ``knn/<label>`` and its standard error
        ``knn_error/<label>`` (:mod:`medssl.evaluation.shortcut`), what the objective logs of its
        embeddings and targets, and ``grad_norm/<block>`` of one backward, of blocks that the task
        trains now.
        """
        device = next(task.parameters()).device
        with _untouched(task, device):
            z_NQD = self._embed(task, device)
            values = {
                "rankme": rankme(z_NQD.flatten(0, 1)),
                "lidar": lidar(z_NQD),
                "feature_std": feature_std(z_NQD.flatten(0, 1)),
            }
            return {**values, **self._read(z_NQD), **self._step(task, device)}

    def _read(self, z_NQD: Tensor) -> dict[str, float]:
        patients_N, z_ND = self.probe.patients_N, z_NQD.double().mean(1).cpu().numpy()
        if patients_N is None or not np.isfinite(z_ND).all():
            return {}
        found = read_outs(z_ND, self.probe.labels, patients_N)
        excess = {f"knn/{name}": one.excess for name, one in found.items()}
        return excess | {f"knn_error/{name}": one.error for name, one in found.items()}

    @torch.no_grad()
    def _embed(self, task: Any, device: torch.device) -> Tensor:
        rows = []
        for view in self.probe.views:
            with self.autocast():
                parts = torch.split(view, self.probe.chunk)
                seen = [task.encoder(x.to(device)).global_BD for x in parts]
            rows.append(self.gather(torch.cat(seen).float()))
        return torch.stack(rows, 1)

    def _step(self, task: Any, device: torch.device) -> dict[str, float]:
        for module in task.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train()
        resting = {id(p) for p in task.resting()}
        params = {
            name: p
            for name, p in task.named_parameters()
            if p.requires_grad and id(p) not in resting
        }
        with self.autocast(), torch.set_grad_enabled(bool(params)):
            output = task.step(moved(self.probe.batch, device))
        values = {key: output.log[key].detach() for key in _LOGGED if key in output.log}
        if params:
            values |= self._gradients(output.loss, params)
        return {key: float(self.mean(value.float())) for key, value in values.items()}

    def _gradients(self, loss: Tensor, params: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        """Norm of each block's gradient; torch.autograd.grad leaves ``.grad`` alone."""
        squares: dict[str, Tensor] = {}
        grads = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
        for name, grad in zip(params, grads, strict=True):
            block = f"grad_norm/{block_of(name)}"
            size = loss.new_zeros(()) if grad is None else grad.float().square().sum()
            squares[block] = squares.get(block, 0) + size
        return {block: square.sqrt() for block, square in squares.items()}


def block_of(name: str) -> str:
    """The block that a parameter belongs to.

    >>> [block_of(n) for n in ("encoder.blocks.3.mlp.fc1.weight", "encoder.norm.bias", "token")]
    ['encoder.blocks.3', 'encoder.norm', 'token']
    """
    words = name.split(".")
    numbered = [place for place, word in enumerate(words) if word.isdigit()]
    if numbered:
        return ".".join(words[: numbered[0] + 1])
    return ".".join(words[:2] if len(words) > 2 else words[:1])


def moved(batch: Any, device: torch.device) -> Any:
    """A batch with its tensors on a device."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: moved(value, device) for key, value in batch.items()}
    return [moved(value, device) for value in batch]


@contextmanager
def _untouched(task: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode; random state and buffers are put back afterwards.

    Batch norms of teachers follow every forward, in evaluation mode too.
    """
    training = task.training
    kept = [(buffer, buffer.clone()) for buffer in task.buffers()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        task.eval()
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, old in kept:
                    buffer.copy_(old)
            task.train(training)
