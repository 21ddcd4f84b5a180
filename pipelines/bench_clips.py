"""Clips from the store against the decoder: how many frames per second each part gives.

python -m pipelines.bench_clips

Processor time is counted, of this process and of the one that decodes for it: what else runs on the
machine matters little then. The rows take turns all the same; what counts is the last column.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import typer

from medssl.archive import phantom_surgery
from medssl.archive.clips import ClipStream, plan_clip
from medssl.archive.store import Store
from medssl.core.preprocess import Contract
from medssl.core.sample import Sample
from medssl.core.seeding import generator
from medssl.core.viewspec import ClipSpec, Intensity, Spatial, View, ViewSpec
from medssl.readers._read import read
from medssl.stages._sources import StoredRecords
from medssl.views.sample import build_sample
from pipelines._bench import median_with_interval, own_processor_s, write_table

SIZE_HW, FRAMES, FPS = (480, 640), 500, phantom_surgery.FPS
CROP = (16, 112, 112)
STRIDE_MS = (80.0, 80.0)
# Clips of one turn.
_CLIPS = 8
_TURNED = Spatial(rotate_deg=10, scale=(0.8, 1.25))
_GENTLE = Intensity(
    gamma=(0.7, 1.5), brightness=0.3, contrast=(0.75, 1.25), noise=0.1, blur=(0.5, 1.0),
    probability=0.5, noise_probability=0.2,
)  # fmt: skip


def main(turns: int = 9) -> None:
    """Time decoding, filling the store and drawing views, in turns."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "video.mp4"
        _encode(path)
        sample = read(path)
        store = Store(Path(name) / "store", Contract(short_side_px=128))
        _fill(store, sample)
        parts: dict[str, Callable[[int], int]] = {
            "decoder: every frame in order, pictures not looked at": lambda _: _decoded(path),
            "reader: every frame in order, as RGB": lambda _: _read(sample),
            "store: filled with every frame": lambda _: _fill(store, sample),
            "reader: random clips from the file": lambda n: _clips_of_file(sample, n),
            "loader: random clips of the store, plain": lambda n: _clips(store, n, View(crop=CROP)),
            "loader: the same, turned, zoomed and changed in grey": lambda n: _clips(
                store,
                n,
                View(crop=CROP, spatial=_TURNED, intensity=_GENTLE),
            ),
        }  # fmt: skip
        rates = _in_turns(parts, turns)
        kept_mb = sum(p.stat().st_size for p in store.folder.rglob("*.b2nd")) / 1e6
    limit = rates["decoder: every frame in order, pictures not looked at"]
    write_table(
        "clips",
        "Clips: frames per second of a video of 640 x 480 pixels",
        ["part", "median frames/s", "95 % interval", "n", "relative to the decoder"],
        [
            [name, *median_with_interval(rate, 0), len(rate), f"{np.median(rate / limit):.2f}"]
            for name, rate in rates.items()
        ],
        f"H.264, {FRAMES} frames of a phantom operation at {FPS} per second, a key frame per "
        f"second; clips of {' x '.join(map(str, CROP))}, {STRIDE_MS[0]:.0f} ms between frames. The "
        f"store keeps every frame with a shorter side of 128 pixels ({kept_mb:.0f} MB). A second "
        "is one of processor time, of all processes. The parts take turns; the last column is the "
        "median over turns of the ratio to the decoder in the same turn.",
        by="bench_clips",
    )  # fmt: skip


def _in_turns(
    parts: dict[str, Callable[[int], int]], turns: int
) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    rates: dict[str, list[float]] = {name: [] for name in parts}
    for turn in range(-1, turns):  # the first turn warms up
        for name, part in parts.items():
            start_s = own_processor_s()
            frames = part(turn)
            rates[name] += [frames / (own_processor_s() - start_s)]
    return {name: np.array(rate[1:]) for name, rate in rates.items()}


def _encode(path: Path) -> None:
    import av

    rng = generator(0, "video")
    operation = phantom_surgery.draw_operation(rng, 10.0)
    small = phantom_surgery.frames_of(operation, rng)
    noise = generator(0, "noise").normal(0, 3, (*SIZE_HW, 3))
    with av.open(str(path), "w") as file:
        stream = cast(Any, file.add_stream("libx264", rate=FPS))
        (stream.height, stream.width), stream.pix_fmt = SIZE_HW, "yuv420p"
        stream.codec_context.gop_size = FPS
        for number, frame_HWC in zip(range(FRAMES), small, strict=False):
            large = frame_HWC.repeat(5, 0).repeat(5, 1) + np.roll(noise, 7 * number, axis=1)
            picture = np.clip(large, 0, 255).astype(np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))


def _decoded(path: Path) -> int:
    import av

    with av.open(str(path)) as file:
        file.streams.video[0].codec_context.thread_count = 1
        return sum(1 for _ in file.decode(video=0))


def _read(sample: Sample) -> int:
    for first in range(0, FRAMES, 100):
        sample.frames(range(first, first + 100))
    return FRAMES


def _fill(store: Store, sample: Sample) -> int:
    store.put_clip("video", ClipStream(sample, plan_clip(sample, np.uint8, store.contract)))
    return FRAMES


def _clips_of_file(sample: Sample, turn: int) -> int:
    rng = generator(0, "file", turn + 1)
    step = round(STRIDE_MS[0] / 1000 * FPS)
    for _ in range(_CLIPS):
        first = int(rng.integers(FRAMES - step * CROP[0]))
        sample.frames(range(first, first + step * CROP[0], step))
    return _CLIPS * CROP[0]


def _clips(store: Store, turn: int, view: View) -> int:
    spec = ViewSpec(views=(view,), clip=ClipSpec(stride_ms=STRIDE_MS))
    fresh = Store(store.root, store.contract)  # the file was written again
    records = StoredRecords(fresh, [fresh.entry("video")])
    for n in range(_CLIPS):
        build_sample(spec, generator(0, "view", turn + 1, n), records, 0)
    return _CLIPS * CROP[0]


if __name__ == "__main__":
    typer.run(main)
