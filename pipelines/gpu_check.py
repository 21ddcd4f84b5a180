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
from medssl.core.errors import ConfigError, UsageError
from medssl.core.registry import OBJECTIVES
from medssl.core.task import Batch
from medssl.core.taskmodule import TaskModule
from medssl.training.meter import peak_memory_mb
from pipelines._bench import RESULTS, write_table
from pipelines._bench_tasks import Case, make_batch, make_task, moved
from pipelines._msd import link_cases, read_split

# Every objective on a volume and an image encoder, with tokens and without.
LOSS_CASES = (
    Case("resenc-xs", (32, 32, 32), 4),
    Case("vit3d-xs", (32, 32, 32), 4, {"token_size": (4, 8, 8)}),
    Case("timm/resnet18", (64, 64), 4),
    Case("timm/vit_tiny_patch16_224", (64, 64), 4, {"patch_size": 8}),
)
# Largest relative difference that counts as equal: float32 sums in another order.
TOLERANCE = 1e-3
SPEED_CASES = (
    ("mae", Case("resenc-m", (96, 96, 96), 8)),
    ("mae", Case("resenc-l", (128, 128, 128), 4)),
    ("mae", Case("vit3d-b", (96, 96, 96), 8)),
    ("dino", Case("vit3d-s", (64, 64, 64), 16)),
    ("simclr", Case("timm/resnet50", (224, 224), 64)),
)
SMALL_CASES = (
    ("mae", Case("resenc-xs", (32, 32, 32), 2)),
    ("simclr", Case("timm/resnet18", (64, 64), 2)),
)

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
        for case in LOSS_CASES:
            rows += _same_loss(name, case, device)
    for name, case in SPEED_CASES if device == "cuda" else SMALL_CASES:
        for compiled in (False, True):
            rows += _speed(name, case, compiled=compiled, device=device)
    rows += _real_run(data, out, device)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    note = f"{name}, torch {torch.__version__}."
    folder = RESULTS if device == "cuda" else out  # a CPU's figures are no results
    write_table("gpu_check", "GPU check", ["what", "figure"], rows, note, folder)


def _same_loss(name: str, case: Case, device: str) -> Iterator[Row]:
    what = f"{name} {case.encoder}"
    try:
        task = make_task(name, case)
    except ConfigError as refusal:
        yield [what, f"refused: {refusal.what}"]
        return
    batch = make_batch(task, case)
    on_cpu = _loss_and_gradient(task, batch)
    task.to(device)
    there = _loss_and_gradient(task, moved(batch, device))
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        half, _ = _loss_and_gradient(task, moved(batch, device))
    for part, here, gpu in zip(("loss", "gradient norm"), on_cpu, there, strict=True):
        apart = abs(gpu - here) / max(abs(here), 1e-12)
        verdict = "equal" if apart < TOLERANCE else "DIFFERENT"
        yield [f"{what}: {part}, float32", f"{gpu:.5f}, CPU {here:.5f}: {verdict}"]
    apart = 100 * abs(half / there[0] - 1)
    yield [f"{what}: loss, bfloat16", f"{half:.5f}, {apart:.2f} % apart"]


def _loss_and_gradient(task: TaskModule, batch: Batch) -> tuple[float, float]:
    """In evaluation mode: the same random numbers on every device, that is none."""
    loss = task.eval().step(batch).loss
    weights = [p for p in task.parameters() if p.requires_grad]
    grads = torch.autograd.grad(loss, weights, allow_unused=True)
    squares = [g.double().square().sum().cpu() for g in grads if g is not None]
    return float(loss), float(torch.stack(squares).sum().sqrt())


def _speed(name: str, case: Case, *, compiled: bool, device: str) -> Iterator[Row]:
    task = make_task(name, case).to(device)
    views = moved(make_batch(task, case), device)
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
    rate = repeats * case.batch / (time.perf_counter() - start)
    what = f"{name} on {case}, bfloat16{', compiled' if compiled else ''}"
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


def _wait(kind: str) -> None:
    if kind == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    typer.run(main)
