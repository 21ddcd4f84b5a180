"""The training loop: steps, not epochs. It knows the Task protocol and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn

from medssl.core.errors import InterruptedRunError, MedsslError
from medssl.core.task import Passes, no_passes
from medssl.core.taskmodule import TaskModule
from medssl.training.checkpoint import save_checkpoint
from medssl.training.ema import Ema
from medssl.training.meter import Meter
from medssl.training.optim import OptimConfig, apply_schedule, progress_at
from medssl.training.schedule import LoopConfig
from medssl.training.signals import StopRequest
from medssl.training.state import bring_back, capture

Monitor = Callable[[int, nn.Module], Mapping[str, float]]
Log = Callable[[int, Mapping[str, float]], None]
MAX_BAD_STEPS = 10


class Loop:
    """State of one training run on one rank."""

    def __init__(
        self,
        fabric: Fabric,
        task: TaskModule,
        optimizer: torch.optim.Optimizer,
        config: LoopConfig,
        optim: OptimConfig,
        *,
        ema: Ema | None = None,
    ) -> None:
        self.fabric, self.bare = fabric, task
        self.config, self.optim, self.ema = config, optim, ema
        self.task, self.optimizer = fabric.setup(task, optimizer)
        self.task.mark_forward_method("step")
        self.step = self.bad_in_a_row = self.skipped = 0

    def state(self) -> dict[str, Any]:
        """Everything needed to go on bitwise."""
        counters = {"step": self.step, "skipped": self.skipped}
        return {**counters, **capture(self.fabric, self.bare, self.optimizer, self.ema)}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.step, self.skipped = state["step"], state["skipped"]
        bring_back(state, self.fabric, self.bare, self.optimizer, self.ema)

    def fit(
        self,
        batches: Iterable[Mapping[str, Any]],
        *,
        checkpoints: Path,
        stamp: Mapping[str, Any],
        log: Log,
        monitors: Iterable[Monitor] = (),
        passes: Passes = no_passes,
    ) -> None:
        """Train to the last step; ``passes`` gives tasks that ask for it the whole data.

        Raises:
            InterruptedRunError: on SIGINT or SIGTERM, after writing a checkpoint.
            MedsslError: if the loss is not finite ten steps in a row.
            ResourceError: if a checkpoint does not fit on the disk.
        """
        source, meter = iter(batches), Meter(self.config.batch_size)
        self.task.train()
        with StopRequest() as stop:
            while self.step < self.config.steps:
                if self.bare.prepare_at(self.step):
                    self.bare.prepare(passes)
                values = self._update(source, meter)
                self.step += 1
                last = self.step == self.config.steps
                if self.step % self.config.log_every == 0 or last:
                    log(self.step, {**self._reduced(values), **meter.read(self.step)})
                stopping = self._any_rank(stop.requested)
                due = self.step % self.config.check_every == 0 or last
                if due or stopping:
                    if self.fabric.is_global_zero:
                        save_checkpoint(checkpoints, {**self.state(), **stamp}, self.step)
                    self.fabric.barrier()
                if stopping and not last:
                    what = "interrupted; a checkpoint was written"
                    raise InterruptedRunError(what, fix="run again with --resume")
                if due:
                    kept = self.ema.module if self.ema else self.bare
                    for monitor in monitors:
                        log(self.step, monitor(self.step, kept))
                    self.task.train()

    def _update(self, source: Any, meter: Meter) -> dict[str, torch.Tensor]:
        """One optimiser step over its micro-batches."""
        rate = apply_schedule(self.optimizer, self.optim, self.step, self.config.steps)
        total: dict[str, torch.Tensor] = {}
        for left in reversed(range(self.config.accumulate)):
            batch = self.fabric.to_device(meter.wait_for(source))
            with self.fabric.no_backward_sync(self.task, enabled=left > 0):
                output = self.task.step(batch)
                self.fabric.backward(output.loss / self.config.accumulate)
            logged = {"loss": output.loss, **output.log}
            if "replaced" in batch:  # share of samples that stand in for unreadable ones
                logged["replaced"] = batch["replaced"].float().mean()
            if "partner" in batch:  # share of samples without a good enough partner
                logged["pairs_dropped"] = 1 - batch["partner"]["kept"].float().mean()
            for key, value in logged.items():
                total[key] = total.get(key, 0.0) + value.detach() / self.config.accumulate
        self.bare.before_update(self._progress(self.step))
        norm = self.fabric.clip_gradients(
            self.task, self.optimizer, max_norm=self.optim.clip_norm, error_if_nonfinite=False
        )
        assert norm is not None  # clipping by norm returns it
        self._apply(norm)
        return {**total, "grad_norm": norm, "lr": torch.tensor(rate)}

    def _apply(self, norm: torch.Tensor) -> None:
        finite = math.isfinite(float(norm))
        scaler = getattr(self.fabric._strategy.precision, "scaler", None)
        # The norm is taken after the all-reduce, so every rank decides alike. A GradScaler has
        # to see the step to lower its scale; it skips the update itself.
        if finite or scaler is not None:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.bad_in_a_row = 0 if finite else self.bad_in_a_row + 1
        if not finite:
            self.skipped += 1
            self.bare.discard_update()
            if self.bad_in_a_row >= MAX_BAD_STEPS:
                what = f"gradients were not finite {MAX_BAD_STEPS} steps running"
                raise MedsslError(what, fix="lower lr or use precision=32-true")
            return
        self.bare.after_update(self._progress(self.step + 1))
        if self.ema:
            self.ema.update(self.bare)

    def _progress(self, step: int) -> float:
        return progress_at(self.optim, step, self.config.steps)

    def _reduced(self, values: Mapping[str, torch.Tensor]) -> dict[str, float]:
        means = self.fabric.all_reduce(dict(values), reduce_op="mean")
        return {k: float(v) for k, v in means.items()} | {"skipped_steps": float(self.skipped)}  # type: ignore[union-attr]

    def _any_rank(self, flag: bool) -> bool:
        if self.fabric.world_size == 1:
            return flag
        return bool(self.fabric.all_reduce(torch.tensor(float(flag)), reduce_op="sum") > 0)  # type: ignore[operator]
