"""Random 64^3 crops of a stored 256 x 256 x 200 volume against loading the NIfTI file.

python -m pipelines.bench_store
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import typer
from scipy import ndimage

from medssl.archive.store import Store
from medssl.core.preprocess import Contract, prepare
from medssl.core.seeding import generator
from medssl.readers._read import read
from pipelines._bench import median_with_interval, write_table

SHAPE_WHD, CROP = (256, 256, 200), 64


def main(repeats: int = 200) -> None:
    """Time crops from the store and from a memory map, and whole loads; warm and cold."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = _volume(folder)
        sample = read(path)
        prepared = prepare(sample.array, sample.geometry, "MR", Contract())
        store = Store(folder / "store", Contract())
        store.put("volume", prepared, "")
        stored = next((folder / "store").rglob("*.b2nd"))
        np.save(folder / "volume.npy", prepared.array)
        flat = folder / "volume.npy"
        starts = generator(0, "crops").integers(0, np.array(prepared.array.shape[1:]) - CROP,
                                                size=(repeats, 3))  # fmt: skip

        def from_store(i: int, source: Store = store) -> None:
            start = tuple(int(s) for s in starts[i])
            source.read("volume", start, tuple(s + CROP for s in start))

        def from_npy(i: int) -> None:
            d, h, w = starts[i]
            mapped = np.load(flat, mmap_mode="r")
            mapped[:, d : d + CROP, h : h + CROP, w : w + CROP].astype(np.float32)

        def from_store_cold(i: int) -> None:
            _drop_cache(stored)
            from_store(i, Store(folder / "store", Contract()))

        def from_npy_cold(i: int) -> None:
            _drop_cache(flat)
            from_npy(i)

        rows = {
            "store, warm": _times_ms(from_store, repeats),
            ".npy memory map, warm": _times_ms(from_npy, repeats),
            "store, cold (page cache dropped)": _times_ms(from_store_cold, 30),
            ".npy memory map, cold": _times_ms(from_npy_cold, 30),
            "load of the .nii.gz (isal)": _times_ms(lambda _: read(path).array, 10),
        }
        sizes = {p: p.stat().st_size / 1e6 for p in (path, stored, flat)}
    warm = np.median(rows["store, warm"])
    ratios = [np.median(times) / warm for times in rows.values()]
    write_table(
        "bench_store",
        "Random 64³ crop of a 256 x 256 x 200 volume",
        ["from", "median ms", "95 % interval", "n", "relative to the store, warm"],
        [
            [name, *median_with_interval(times, 2), len(times), f"{ratio:.2f}"]
            for (name, times), ratio in zip(rows.items(), ratios, strict=True)
        ],
        "Sizes in MB: " + ", ".join(f"{p.suffix} {mb:.0f}" for p, mb in sizes.items()) + ".",
    )


def _volume(folder: Path) -> Path:
    """A smooth body with noise, int16, as .nii.gz."""
    rng = generator(0, "volume")
    coarse = rng.normal(size=tuple(n // 8 for n in SHAPE_WHD))
    smooth = ndimage.zoom(coarse, 8, order=1)[: SHAPE_WHD[0], : SHAPE_WHD[1], : SHAPE_WHD[2]]
    noisy = 1000 + 200 * smooth + rng.normal(0, 15, SHAPE_WHD)
    image = nib.Nifti1Image(noisy.astype(np.int16), np.eye(4))
    image.set_sform(np.eye(4), 1)
    nib.save(image, folder / "volume.nii.gz")
    return folder / "volume.nii.gz"


def _times_ms(function: Callable[[int], object], repeats: int) -> list[float]:
    function(0)
    times = []
    for i in range(repeats):
        start = time.perf_counter()
        function(i)
        times.append(1e3 * (time.perf_counter() - start))
    return times


def _drop_cache(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


if __name__ == "__main__":
    typer.run(main)
