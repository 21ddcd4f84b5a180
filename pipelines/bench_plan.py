"""Plans of four catalogs, run as they are for a few steps: predicted against measured.

python -m pipelines.bench_plan
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import typer
from PIL import Image
from scipy import ndimage

import medssl
from medssl.archive._phantom_body import ct_scan, draw_patient, mr_scan
from medssl.archive.phantom import save_nifti
from medssl.core.seeding import generator
from pipelines._bench import write_table

STEPS = 8
# Those that warm up, and are not timed.
WARM = 2
# Body of the phantom in so few voxels: (W, H, D), and their size in mm.
MR_WHD, MR_MM = (32, 46, 30), (9.0, 6.5, 9.0)
CT_WHD, CT_MM = (32, 32, 28), (10.0, 9.0, 9.0)
PICTURE_HW = (64, 96)


def main() -> None:
    """Index, plan and run; the figures go to docs/results/plan.md."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for what, count, write, modality in (
            ("small MR volumes", 20, _mr, None), ("CT volumes", 500, _ct, None),
            ("pictures", 300, _pictures, None), ("ultrasound clips", 24, _clips, "US"),
        ):  # fmt: skip
            folder = Path(name) / what.replace(" ", "_")
            write(folder / "archive", count)
            rows.append([f"{count} {what}", *_compared(folder, modality)])
            typer.echo(rows[-1])
    write_table(
        "plan",
        "Plans against the runs they plan",
        ["catalog", "plan", "memory, GB: plan / run", "s per step: plan / run",
         "store, MB: plan / run", "memory by rule of thumb, GB"],
        rows,
        f"Phantoms. Each plan is run as it is, shortened to {STEPS} steps: `medssl pretrain "
        f"--config plan.yaml ... steps={STEPS}`. Memory: peak resident memory of the process. "
        f"Time: wall clock of the steps after the first {WARM}, views included; the machine is "
        f"shared, load average {os.getloadavg()[1]:.1f}. Rule of thumb: `medssl plan "
        "measure=false`. A plan sees the records in `train` only.",
        by="bench_plan",
    )  # fmt: skip


def _compared(folder: Path, modality: str | None) -> list[str]:
    catalog, plan = folder / "catalog", folder / "plan.yaml"
    medssl.index(folder / "archive", out=catalog, quiet=True, modality=modality)
    guess = medssl.plan(catalog, out=folder / "guess.yaml", measure=False, quiet=True).result
    planned = medssl.plan(catalog, out=plan, quiet=True).result
    words = ["--config", plan, "--data", catalog, "--out", folder / "run", "--quiet"]
    run = [sys.executable, "-W", "ignore", "-m", "medssl", "pretrain", *map(str, words)]
    done = subprocess.run([*run, f"steps={STEPS}", "log_every=1"], check=False)
    if done.returncode not in (0, 4):
        raise subprocess.CalledProcessError(done.returncode, run)
    report = json.loads((folder / "run" / "run.json").read_text(encoding="utf-8"))
    lines = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rates = [json.loads(line).get("samples_per_s") for line in lines]
    batch = planned["options"]["batch_size"]
    timed = [batch / rate for rate in rates if rate][WARM - 1 :]
    stored = sum(file.stat().st_size for file in (catalog / "store").rglob("*.b2nd"))
    return [
        _described(planned["options"]),
        _pair(planned["memory_bytes"] / 1e9, report["peak_memory_mb"] / 1e3),
        _pair(planned["step_s"], float(np.mean(timed))),
        _pair(planned["store_bytes"] / 1e6, stored / 1e6),
        f"{guess['memory_bytes'] / 1e9:.2f}",
    ]


def _pair(predicted: float, measured: float) -> str:
    return f"{predicted:.2f} / {measured:.2f} ({predicted / measured:.2f})"


def _described(options: dict[str, Any]) -> str:
    crop = "x".join(map(str, options["crop"]))
    return (
        f"{_name(options['objective'])} on {options['encoder']}, crop {crop}, batch "
        f"{options['batch_size']} in {options['accumulate']}, {options['precision']}, "
        f"{options['steps']} steps"
    )


def _name(component: Any) -> str:
    return str(component["name"] if isinstance(component, dict) else component)


def _mr(folder: Path, count: int) -> None:
    _volumes(folder, count, "MRI", mr_scan, MR_WHD, MR_MM)


def _ct(folder: Path, count: int) -> None:
    _volumes(folder, count, "CT", ct_scan, CT_WHD, CT_MM)


def _volumes(
    folder: Path,
    count: int,
    modality: str,
    scan: Callable[..., Any],
    shape_WHD: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
) -> None:
    folder.mkdir(parents=True)
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = -np.array(spacing_mm) * (np.array(shape_WHD) - 1) / 2
    for number in range(count):
        rng = generator(0, "plan", modality, number)
        x_DHW = scan(draw_patient(rng), affine, shape_WHD, rng)
        save_nifti(folder / f"P{number:04d}.nii.gz", x_DHW, affine, np.int16)
    content = {"modality": {"0": modality}, "labels": {"0": "background"}, "training": []}
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")


def _clips(folder: Path, count: int) -> None:
    medssl.phantom(out=folder, kind="echo", patients=count)


def _pictures(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        rng = generator(0, "plan", "picture", number)
        smooth = ndimage.gaussian_filter(rng.standard_normal(PICTURE_HW), 6)
        x = 128 + 60 * smooth / smooth.std() + 4 * rng.standard_normal(PICTURE_HW)
        Image.fromarray(x.clip(0, 255).astype(np.uint8)).save(folder / f"P{number:04d}.png")


if __name__ == "__main__":
    typer.run(main)
