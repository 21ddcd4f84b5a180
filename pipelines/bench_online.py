"""Phases of a stream as it comes: how late, how fast, and how much memory over two hours.

Every frame is decoded, one per second passes the encoder. The streams are MPEG-TS through a named
pipe: one at the pace of a camera, the others as fast as they are taken. Where much else runs on the
machine, processor time says what the times on the clock would be without it.

    python -m pipelines.bench_online
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import typer

from medssl.archive.tracks import TABLE_ENDING
from medssl.core.config import Component
from medssl.core.phases import CHOLEC80
from medssl.core.preprocess import Contract
from medssl.core.seeding import seed_everything
from medssl.encoders._base import build_encoder
from medssl.encoders.card import Card, save_model
from medssl.heads._temporal import TemporalConfig, TemporalNetwork
from pipelines._bench import RESULTS, memory_mb_of, write_table
from pipelines._bench_stream import encode_loop, send

# As wide as `video_vit-xs`, and twice as deep.
ENCODER = Component(name="timm/vit_tiny_patch16_224")
_EVERY_S = 1.0


@dataclass(frozen=True)
class Stream:
    """One run.

    Attributes:
        about: for the table.
        side_px: shorter side of its frames and of the model's.
        seconds: of video.
        paced: at the pace of a camera.
    """

    about: str
    side_px: int
    seconds: int
    paced: bool = False


STREAMS = (
    Stream("at the pace of a camera", 224, 180, paced=True),
    Stream("as fast as it is taken", 224, 300),
    Stream("as fast as it is taken", 64, 7200),
)


def main(share: float = 1.0, folder: Path = RESULTS) -> None:
    """Follow each stream, and write what is known; ``share`` of its length, to try things out."""
    rows, loads = [], [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as name:
        for number, one in enumerate(STREAMS):
            seconds = max(round(share * one.seconds), 10)
            rows.append(_row(one, seconds, _follow(one, seconds, Path(name) / str(number))))
            loads.append(os.getloadavg()[0])
            _write(rows, loads, folder)


def _write(rows: list[list[object]], loads: list[float], folder: Path) -> None:
    write_table(
        "online",
        "Phases online: streams of 25 frames per second",
        [
            *("stream", "shorter side (px)", "video (s)", "rows", "frames decoded"),
            *("real-time factor", "processor s per s of video", "latency, median (s)", "95 % (s)"),
            *("most (s)", "behind at the last row (s)", "encoder frames/s"),
            *("memory after a tenth (MB)", "at the end (MB)"),
        ],
        rows,
        f"`medssl predict --online PIPE`, one thread; a phase model with random weights: "
        f"{ENCODER.name} (5.7 million weights) and the default TCN. H.264 of a phantom operation "
        "in MPEG-TS, every frame decoded, one row per second. Latency: from the last bytes of a "
        "frame to its row; a stream that comes faster than it is shown waits in the pipe. "
        "Processor time: of the program and its decoder, its start included. Memory: proportional "
        f"set size of both. The machine was shared: load averages of {min(loads):.1f} to "
        f"{max(loads):.1f} on {os.cpu_count()} processors.",
        folder,
        by="bench_online",
    )  # fmt: skip


@dataclass(frozen=True)
class _Followed:
    """What a run said of itself, and what it took."""

    report: dict[str, Any]
    processor_s: float
    memory_mb: list[float]


def _follow(one: Stream, seconds: int, folder: Path) -> _Followed:
    clip, pipe, out = folder / "clip.ts", folder / "op.ts", folder / "out"
    write_model(folder / "ft", one.side_px)
    encode_loop(clip, one.side_px)
    os.mkfifo(pipe)
    sender = get_context("spawn").Process(target=send, args=(clip, pipe, seconds, one.paced))
    sender.start()
    before_s = _ended_processor_s()
    words = ["predict", "--online", pipe, "--checkpoint", folder / "ft", "-o", out, "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-m", "medssl", *map(str, words), "device=cpu"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    table = out / f"op{TABLE_ENDING}"
    try:
        samples = [(_rows_of(table), mb) for mb in memory_mb_of(process, _EVERY_S)]
    finally:
        sender.kill()
    report = json.loads((out / "run.json").read_text(encoding="utf-8"))
    late = [mb for rows, mb in samples if mb and rows >= report["predicted"] / 10]
    return _Followed(report, _ended_processor_s() - before_s, late)


def _ended_processor_s() -> float:
    """Processor time of all processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _rows_of(table: Path) -> int:
    return table.read_text(encoding="utf-8").count("\n") - 1 if table.is_file() else 0


def _row(one: Stream, seconds: int, found: _Followed) -> list[object]:
    report, memory_mb = found.report, found.memory_mb
    latency = report["latency_s"]
    return [
        *(one.about, one.side_px, seconds, report["predicted"], report["decoded_frames"]),
        *(report["real_time_factor"], f"{found.processor_s / seconds:.2f}"),
        *(latency["median"], latency["p95"], latency["most"]),
        *(report["behind_s"]["last"], report["encoder_fps"]),
        *(f"{memory_mb[0]:.0f}", f"{memory_mb[-1]:.0f}"),
    ]


def write_model(run: Path, side_px: int) -> None:
    """A phase model with random weights for frames of this side."""
    seed_everything(0)
    encoder = build_encoder(ENCODER.name, ENCODER.options, 3)
    options = TemporalConfig()
    card = Card(
        encoder=ENCODER,
        in_channels=3,
        channels=("red", "green", "blue"),
        modality="ES",
        contract=Contract(fps=1.0, short_side_px=side_px),
        patch_size=(side_px, side_px),
        head="phase",
        labels=dict(enumerate(CHOLEC80)),
        temporal=options.model_dump(mode="json"),
    )
    network = TemporalNetwork(encoder.width, len(CHOLEC80), options)
    save_model(run / "model", card, {"encoder": encoder, "temporal": network})


if __name__ == "__main__":
    typer.run(main)
