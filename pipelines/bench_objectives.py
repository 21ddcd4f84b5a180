"""What each objective costs beside its encoder, and what masked autoencoding saves.

python -m pipelines.bench_objectives

Each objective runs in a process of its own: its step and one forward and backward of the encoder on
one view take turns, and the process's peak memory is read at its end.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer

from medssl.core.errors import ConfigError
from medssl.core.registry import OBJECTIVES
from medssl.training.meter import peak_memory_mb
from pipelines._bench import median_with_interval, write_table
from pipelines._bench_tasks import Case, make_batch, make_task, train_step

CASES = (
    Case("vit3d-xs", (32, 48, 32), 2),
    Case("timm/resnet18", (64, 64), 8),
    Case("video_vit-xs", (8, 64, 64), 2),
)
# At least 512 tokens.
MASKED = (
    Case("vit3d-s", (64, 64, 64), 2),
    Case("timm/vit_small_patch16_224", (384, 384), 2),
)
ENCODER = "encoder alone"
_TURNS, _STEPS_A_TURN = 7, 2


def main(turns: int = _TURNS, masked_only: bool = False) -> None:
    """Measure everything and write docs/results/objectives_cost.md and masked_cost.md."""
    torch.set_num_threads(1)
    if not masked_only:
        _write_costs(turns)
    write_table(
        "masked_cost",
        "Masked autoencoding: all tokens against visible tokens only",
        ["encoder, batch x view", "tokens", "all / visible", "95 % interval", "turns"],
        [_masked(setting, turns) for setting in MASKED],
        f"{_machine()} Forward and backward of encoder and decoder per sample, the same encoder "
        "and decoder of 4 blocks; 75 % of the tokens hidden against none. Process CPU time.",
        by="bench_objectives",
    )


def _write_costs(turns: int) -> None:
    rows = []
    for case in CASES:
        for name in (ENCODER, *OBJECTIVES.names()):
            rows.append([str(case), name, *_in_own_process(name, case, turns)])
            typer.echo(" | ".join(map(str, rows[-1])), err=True)
    write_table(
        "objectives_cost",
        "Cost of a training step of each objective",
        ["encoder, batch x view", "objective", "step / encoder", "spread", "peak, MB"],
        rows,
        f"{_machine()} Step: forward, backward, teachers and queues, without the optimiser and "
        "without making views. Encoder: forward and backward of one full view of each sample. "
        f"Process CPU time; median of {turns} turns of {_STEPS_A_TURN} steps, spread = smallest to "
        "largest. Peak: resident memory of the whole process, libraries included. Options at "
        "their defaults.",
        by="bench_objectives",
    )


def _in_own_process(name: str, case: Case, turns: int) -> list[object]:
    # Forked: the libraries are there already, and the peak starts from their memory.
    with multiprocessing.get_context("fork").Pool(1) as pool:
        found = pool.apply(_measure, (name, case, turns))
    if "refused" in found:
        return ["-", found["refused"], "-"]
    ratios = np.array(found["ratios"])
    spread = f"{ratios.min():.2f} to {ratios.max():.2f}"
    return [f"{np.median(ratios):.2f}", spread, f"{found['peak_mb']:.0f}"]


def _measure(name: str, case: Case, turns: int) -> dict[str, Any]:
    """Ratios of one objective, and the peak memory of this process."""
    try:
        task: Any = make_task("simclr" if name == ENCODER else name, case)
    except ConfigError as refusal:
        return {"refused": refusal.what}
    batch = make_batch(task, case)
    x = batch["views"][0]["x"]
    if task.views().stack:
        x = x[:, :, 0]  # one slice of each sample

    def encode() -> None:
        torch.autograd.backward(task.encoder(x).global_BD.square().mean())
        task.zero_grad(set_to_none=True)

    def step() -> None:
        train_step(task, batch)

    ratios = _ratios(encode if name == ENCODER else step, encode, turns)
    return {"ratios": ratios, "peak_mb": peak_memory_mb()}


def _masked(case: Case, turns: int) -> list[object]:
    task: Any = make_task("mae", case)
    hidden = make_batch(task, case)
    [view] = hidden["views"]
    whole = {"views": [{**view, "mask": torch.zeros_like(view["mask"])}]}

    def step(batch: Any) -> Callable[[], None]:
        return lambda: train_step(task, batch)

    ratios = _ratios(step(whole), step(hidden), turns)
    return [str(case), view["mask"].shape[1], *median_with_interval(ratios, 2), len(ratios)]


def _ratios(above: Callable[[], None], below: Callable[[], None], turns: int) -> list[float]:
    """CPU time of one over that of the other, in turns, after one turn to warm up."""
    found = []
    for _ in range(turns + 1):
        times = []
        for work in (above, below):
            start = time.process_time()
            for _ in range(_STEPS_A_TURN):
                work()
            times.append(time.process_time() - start)
        found.append(times[0] / times[1])
    return found[1:]


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'CPU'}, one thread, float32, torch {torch.__version__}."


if __name__ == "__main__":
    typer.run(main)
