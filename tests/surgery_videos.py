"""Small videos with phases: each phase has its colour, and label files beside them."""

from pathlib import Path

import av
import numpy as np

SIDE = 48
COLOURS = np.array([[210, 60, 60], [60, 200, 60], [60, 60, 210], [200, 200, 50]], np.float32)


def encode(path, frames, rate=5, codec="mpeg4"):
    """A video of frames (H, W, 3) uint8 at a steady rate."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        for number, x_HWC in enumerate(frames):
            if number == 0:
                stream.height, stream.width, stream.pix_fmt = *x_HWC.shape[:2], "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(x_HWC, format="rgb24")))
        container.mux(stream.encode())
    return path


def surgery(path, phases, rate=5, seconds=4, side=SIDE, seed=0, codec="mpeg4"):
    """A video that shows each of ``phases`` for so many seconds; returns that of each frame."""
    rng = np.random.default_rng(seed)
    phase_T = np.repeat(phases, rate * seconds)
    frames = (
        np.clip(COLOURS[k] + rng.normal(0, 12, (side, side, 3)), 0, 255).astype(np.uint8)
        for k in phase_T
    )
    encode(path, frames, rate, codec)
    return phase_T


def phase_file(path, names):
    """Cholec80's: one line per frame."""
    lines = ["Frame\tPhase", *(f"{n}\t{name}" for n, name in enumerate(names))]
    Path(path).write_text("\n".join(lines) + "\n")
    return path


def tool_file(path, tools, there_NK, every=25):
    """Cholec80's: one line per 25th frame, one column per tool."""
    lines = ["\t".join(["Frame", *tools])]
    lines += ["\t".join(map(str, (n * every, *row))) for n, row in enumerate(there_NK)]
    Path(path).write_text("\n".join(lines) + "\n")
    return path


def sound(path):
    """A file with sound only."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 8000
        for number in range(8):
            frame.pts = number * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
