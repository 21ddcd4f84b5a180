"""Peak memory (PSS, child processes included) of pretrain and predict on 20 and on 200 scans.

python -m pipelines.bench_memory
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import typer

import medssl
from medssl.core.seeding import generator
from pipelines._bench import peak_mb, write_table

SHAPE_WHD = (64, 96, 64)
COUNTS = (20, 200)
COMMAND = "import sys; from medssl.cli.main import main; sys.argv[0] = 'medssl'; main()"


def main() -> None:
    """Run both stages as processes of their own and watch their memory."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in COUNTS:
            _scans(folder / f"scans{count}", count)
        _model(folder)
        for stage, words in (
            ("pretrain", ["--data", "{scans}", "steps=30", "crop=[48,64,48]", "batch_size=4"]),
            ("predict", ["-i", "{scans}", "--checkpoint", str(folder / "model")]),
        ):
            peaks = []
            for count in COUNTS:
                scans = str(folder / f"scans{count}")
                out = str(folder / f"{stage}{count}")
                command = [word.format(scans=scans) for word in words]
                whole = [stage, *command, "--out", out, "--quiet"]
                peaks.append(peak_mb([sys.executable, "-W", "ignore", "-c", COMMAND, *whole]))
            growth = 100 * (peaks[1] / peaks[0] - 1)
            rows.append([stage, *(f"{peak:.0f}" for peak in peaks), f"{growth:+.1f} %"])
    write_table(
        "bench_memory",
        "Peak memory of pretrain and predict",
        ["stage", *(f"{count} scans, MB" for count in COUNTS), "growth"],
        rows,
        f"Proportional set size of the process and its children, sampled every 10 ms; scans of "
        f"{SHAPE_WHD} voxels, resenc-xs.",
    )


def _scans(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        rng = generator(number, "scan")
        x = 1000 + 100 * rng.standard_normal(SHAPE_WHD, np.float32)
        x[16:48, 24:72, 16:48] += 400
        image = nib.Nifti1Image(x.astype(np.int16), np.eye(4))
        image.set_sform(np.eye(4), 1)
        nib.save(image, folder / f"scan{number:04d}.nii.gz")


def _model(folder: Path) -> None:
    table = folder / "cases.csv"
    label = np.zeros(SHAPE_WHD, np.uint8)
    label[16:48, 24:72, 16:48] = 1
    image = nib.Nifti1Image(label, np.eye(4))
    image.set_sform(np.eye(4), 1)
    nib.save(image, folder / "label.nii.gz")
    rows = [f"scans20/scan{number:04d}.nii.gz,label.nii.gz\n" for number in range(2)]
    table.write_text("image,label\n" + "".join(rows), encoding="utf-8")
    medssl.finetune(
        task="segmentation", data=table, out=folder / "model", steps=2, crop=[48, 64, 48],
        quiet=True,
    )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
