"""CPU time of the training loop against bare forward, backward and step on the same batches.

python -m pipelines.bench_loop
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from lightning.fabric import Fabric

from medssl.core.runlog import Run
from medssl.core.seeding import generator, seed_everything
from medssl.core.viewspec import Setting
from medssl.encoders._base import build_encoder
from medssl.objectives.mae import Config, Objective
from medssl.training.loop import Loop
from medssl.training.optim import OptimConfig, build_optimizer
from medssl.training.schedule import LoopConfig
from pipelines._bench import median_with_interval, write_table

CROP, BATCH, STEPS_PER_BLOCK = (48, 64, 48), 2, 5


def main(blocks: int = 40) -> None:
    """Interleave blocks of the loop and of the bare step; compare their process CPU time."""
    torch.set_num_threads(1)
    seed_everything(0)
    task = Objective(build_encoder("resenc-xs", {}, 1), Config(), Setting(crop=CROP, records=1))
    batches = [_batch(task, seed) for seed in range(STEPS_PER_BLOCK)]
    bare = _Bare(copy.deepcopy(task))
    loop_s: list[float] = []
    bare_s: list[float] = []

    def source() -> Iterator[dict[str, Any]]:
        for _ in range(blocks + 1):
            start = time.process_time()
            yield from batches
            loop_s.append(time.process_time() - start)
            bare_s.append(bare.block(batches))

    optim = OptimConfig()
    config = LoopConfig(
        steps=STEPS_PER_BLOCK * (blocks + 1), batch_size=BATCH, log_every=STEPS_PER_BLOCK,
        check_every=10**9,
    )  # fmt: skip
    fabric = Fabric(accelerator="cpu", devices=1)
    loop = Loop(fabric, task, build_optimizer(task.param_groups(), optim), config, optim)
    with tempfile.TemporaryDirectory() as folder:
        run = Run.open("bench", Path(folder))
        endless = _chain(source())
        loop.fit(endless, checkpoints=run.out, stamp={"config_hash": ""}, log=run.log)
    ratios = np.array(loop_s[1:]) / np.array(bare_s[1:])  # the first block warms up
    write_table(
        "bench_loop",
        "Training loop: CPU time relative to bare forward, backward and step",
        ["measured", "median", "95 % interval", "blocks"],
        [["loop / bare", *median_with_interval(ratios), len(ratios)]],
        f"mae on resenc-xs, batch {BATCH} of {CROP}, float32, {STEPS_PER_BLOCK} steps a block, "
        "blocks interleaved, one log line (JSON and TensorBoard) per block; the loop also "
        "schedules, clips and guards, the bare step does not.",
    )


class _Bare:
    def __init__(self, task: Objective) -> None:
        self.task = task
        self.optimizer = build_optimizer(task.param_groups(), OptimConfig())

    def block(self, batches: list[dict[str, Any]]) -> float:
        start = time.process_time()
        for batch in batches:
            torch.autograd.backward(self.task.step(batch).loss)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return time.process_time() - start


def _batch(task: Objective, seed: int) -> dict[str, Any]:
    rng = generator(seed, "bench")
    x = torch.from_numpy(rng.standard_normal((BATCH, 1, *CROP), np.float32))
    tokens = int(np.prod(task.encoder.grid(CROP)))
    mask = torch.from_numpy(rng.random((BATCH, tokens)) < 0.75)
    return {"views": [{"x": x, "tissue": x > -1, "mask": mask}]}


def _chain(source: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield from source


if __name__ == "__main__":
    typer.run(main)
