"""Peak memory (PSS, child processes included) of pretrain and predict on 20 and on 200 scans.

python -m pipelines.bench_memory
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import typer

import medssl
from medssl.core.seeding import generator
from pipelines._bench import write_table

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
                peaks.append(_peak_mb([stage, *command, "--out", out, "--quiet"]))
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


def _peak_mb(words: list[str]) -> float:
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", COMMAND, *words])
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, sum(_pss_mb(pid) for pid in _family(process.pid)))
        time.sleep(0.01)
    if process.returncode not in (0, 4):
        raise subprocess.CalledProcessError(process.returncode, words)
    return peak


def _family(pid: int) -> list[int]:
    """The process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text(encoding="ascii").split()
        except OSError:  # it ended meanwhile
            continue
        for child in children:
            found += _family(int(child))
    return found


def _pss_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:  # it ended meanwhile
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1e3


if __name__ == "__main__":
    typer.run(main)
