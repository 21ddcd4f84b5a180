"""Everything that only a GPU can show, in one call; writes docs/results/gpu_check.md.

Losses against the CPU's, bfloat16, torch.compile, peak memory, samples per second, share of time
waiting for data, and a real pretraining and fine-tuning. ``--device cpu`` runs the same at a
small size, to check the script.

    python -m pipelines.gpu_check --data DATA/hippocampus --out runs/gpu
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

import medssl
from medssl.core.errors import UsageError
from medssl.core.registry import OBJECTIVES
from medssl.core.seeding import generator, seed_everything
from medssl.core.taskmodule import TaskModule
from medssl.core.viewspec import Setting
from medssl.encoders._base import build_encoder
from medssl.training.meter import peak_memory_mb
from pipelines._bench import RESULTS, write_table
from pipelines._msd import link_cases, read_split

CROP = (32, 32, 32)
# Largest relative difference that counts as equal: float32 sums in another order.
TOLERANCE = 1e-3
SPEED_CASES = (("resenc-m", (96, 96, 96), 8), ("resenc-l", (128, 128, 128), 4),
               ("vit3d-b", (96, 96, 96), 8))  # fmt: skip
SMALL_CASES = (("resenc-xs", (32, 32, 32), 2),)

Row = list[object]


def main(
    data: Annotated[Path, typer.Option(help="Folder with dataset.json and split.json.")],
    out: Annotated[Path, typer.Option(help="Where the runs go.")],
    device: str = "cuda",
) -> None:
    """Run every check and write the table.

    Raises:
        UsageError: no such device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device", fix="--device cpu checks the script itself")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    rows: list[Row] = []
    for name in OBJECTIVES.names():
        for encoder in ("resenc-xs", "vit3d-xs"):
            rows += _same_loss(name, encoder, device)
    for encoder, crop, batch in SPEED_CASES if device == "cuda" else SMALL_CASES:
        for compiled in (False, True):
            rows += _speed(encoder, crop, batch, compiled=compiled, device=device)
    rows += _real_run(data, out, device)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    note = f"{name}, torch {torch.__version__}."
    folder = RESULTS if device == "cuda" else out  # a CPU's figures are no results
    write_table("gpu_check", "GPU check", ["what", "figure"], rows, note, folder)


def _same_loss(name: str, encoder: str, device: str) -> Iterator[Row]:
    task = _task(name, encoder, CROP)
    batch = _batch(task, CROP, 4)
    with torch.no_grad():
        on_cpu = float(task.step(batch).loss)
        task.to(device)
        moved = {key: value.to(device) for key, value in batch.items()}
        there = float(task.step(moved).loss)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            half = float(task.step(moved).loss)
    apart, apart_half = abs(there / on_cpu - 1), abs(half / on_cpu - 1)
    verdict = "equal" if apart < TOLERANCE else "DIFFERENT"
    yield [f"{name} {encoder}: loss, float32", f"{there:.5f}, CPU {on_cpu:.5f}: {verdict}"]
    yield [f"{name} {encoder}: loss, bfloat16", f"{half:.5f}, {100 * apart_half:.2f} % apart"]


def _speed(
    encoder: str, crop: tuple[int, int, int], batch: int, *, compiled: bool, device: str
) -> Iterator[Row]:
    task = _task("mae", encoder, crop).to(device)
    views = {key: value.to(device) for key, value in _batch(task, crop, batch).items()}
    optimizer = torch.optim.AdamW(task.parameters(), 1e-4)
    step = torch.compile(task.step) if compiled else task.step
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.reset_peak_memory_stats()

    def update() -> None:
        with torch.autocast(kind, torch.bfloat16):
            loss = step(views).loss
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(5):
        update()
    repeats = 30 if kind == "cuda" else 2
    _wait(kind)
    start = time.perf_counter()
    for _ in range(repeats):
        update()
    _wait(kind)
    rate = repeats * batch / (time.perf_counter() - start)
    what = f"mae {encoder}, batch {batch} of {crop}, bfloat16{', compiled' if compiled else ''}"
    yield [what, f"{rate:.1f} samples/s, peak {peak_memory_mb():.0f} MB"]


def _real_run(data: Path, out: Path, device: str) -> Iterator[Row]:
    train, test = read_split(data)
    small = device == "cpu"
    link_cases(data, out / "train", train[:6] if small else train)
    link_cases(data, out / "test", test[:2] if small else test)
    few: dict[str, Any] = {"steps": 4, "log_every": 2} if small else {}
    where: dict[str, Any] = {
        "accelerator": "cpu" if small else "gpu",
        "quiet": True,
        "store": out / "store",
    }
    pretraining = medssl.pretrain(
        config="mri_hippocampus", data=out / "train" / "imagesTr", out=out / "pretrain",
        **where, **few,
    )  # fmt: skip
    last = [json.loads(line) for line in (pretraining.out / "metrics.jsonl").open()][-10:]
    for key in ("samples_per_s", "data_wait_pct", "peak_memory_mb"):
        values = [row[key] for row in last if key in row]
        yield [f"pretraining, hippocampus: {key}", f"median {np.median(values):.1f}"]
    for arm, init in (("scratch", None), ("pretrained", pretraining.out)):
        model = medssl.finetune(
            task="segmentation", config="mri_hippocampus", data=out / "train", init=init,
            out=out / arm, labelled=5, steps=4 if small else 300, **where,
        )  # fmt: skip
        medssl.predict(out / "test" / "imagesTr", out=out / f"{arm}_seg", checkpoint=model.out,
                       device=device)  # fmt: skip
        result = medssl.evaluate(
            task="segmentation", pred=out / f"{arm}_seg", ref=out / "test" / "labelsTr",
            out=out / f"{arm}.json",
        ).result["dice"]  # fmt: skip
        interval = f"{result['mean']:.3f} ({result['low']:.3f} to {result['high']:.3f})"
        yield [f"5 labelled, {arm}: test Dice", f"{interval}, n = {result['n']}"]


def _task(name: str, encoder: str, crop: tuple[int, int, int]) -> TaskModule:
    seed_everything(0)
    module, _ = OBJECTIVES.module(name)
    setting = Setting(crop=crop, records=1)
    task: TaskModule = module.Objective(build_encoder(encoder, {}, 1), module.Config(), setting)
    return task


def _batch(task: Any, crop: tuple[int, int, int], batch: int) -> dict[str, Any]:
    rng = generator(0, "gpu check")
    x = torch.from_numpy(rng.standard_normal((batch, 1, *crop), np.float32))
    tokens = int(np.prod(task.encoder.grid(crop)))
    hidden = np.argsort(rng.random((batch, tokens)), axis=1) < int(0.75 * tokens)
    return {"views": [{"x": x, "tissue": x > -1, "mask": torch.from_numpy(hidden)}]}


def _wait(kind: str) -> None:
    if kind == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    typer.run(main)
