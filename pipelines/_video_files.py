"""Videos with the frame number drawn into every frame as black and white blocks."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

BITS, BLOCK = 8, 16
HEIGHT, WIDTH = 2 * BLOCK, (BITS + 2) * BLOCK
N_FRAMES = 60
TICK_S = Fraction(1, 90000)
RATE = 25
STEP = 90000 // RATE

_OPEN_GOP = {"x264-params": "open-gop=1:keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0"}
_QUIET = {"x265-params": "log-level=none:keyint=12"}
_MJPEG = {"codec": "mjpeg", "pix_fmt": "yuvj420p"}
UNEVEN = np.cumsum(np.random.default_rng(0).integers(1500, 9000, N_FRAMES)).tolist()
# File name -> how it is encoded. "trimmed" and "rotated" are made by :func:`write_kind`.
KINDS: dict[str, dict[str, Any]] = {
    "gop12.mp4": {},
    "gop250.mp4": {"gop": 250},
    "b_frames.mp4": {"b_frames": 3},
    "b_frames.mkv": {"b_frames": 3},
    "uneven.mp4": {"times": UNEVEN, "b_frames": 2},
    "uneven.mkv": {"times": UNEVEN, "b_frames": 2},
    "open_gop.mp4": {"options": _OPEN_GOP},
    "open_gop.mkv": {"options": _OPEN_GOP},
    "intra_refresh.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=12"}},
    "h264.avi": {"b_frames": 2},
    "h264.ts": {"b_frames": 2},
    "h265.mp4": {"codec": "libx265", "options": _QUIET},
    "h265_b.mp4": {"codec": "libx265", "b_frames": 3, "options": _QUIET},
    "mjpeg.avi": _MJPEG,
    "mjpeg.mov": _MJPEG,
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg4_b.avi": {"codec": "mpeg4", "b_frames": 2},
    "mpeg4_b.mp4": {"codec": "mpeg4", "b_frames": 2},
    "mpeg2.ts": {"codec": "mpeg2video", "b_frames": 2},
    "mpeg2.mpg": {"codec": "mpeg2video", "b_frames": 2},
    "mpeg1.mpeg": {"codec": "mpeg1video"},
    "vp9.mkv": {"codec": "libvpx-vp9"},
    "vp8.webm": {"codec": "libvpx"},
    "ffv1.mkv": {"codec": "ffv1"},
    "wmv2.wmv": {"codec": "wmv2"},
    "animated.gif": {"codec": "gif", "pix_fmt": "rgb8"},
}
# Codecs whose clock must be a frame rate.
_COARSE = {"mpeg2video", "mpeg1video", "mpeg4", "mjpeg", "gif", "wmv2"}


def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> npt.NDArray[np.uint8]:
    """(H, W, 3): white, black, then the bits; below it the inverse, so that a slip shows."""
    bits = np.array([1, 0, *((number >> b) & 1 for b in range(BITS))])
    code = np.kron(np.stack([bits, 1 - bits]), np.ones((BLOCK, BLOCK), int))
    frame = np.full((height, width, 3), 128, np.uint8)
    frame[:HEIGHT, :WIDTH] = (40 + 176 * code)[..., None]
    return frame


def number_of(x_CHW: npt.NDArray[Any]) -> int | None:
    """The number drawn into a frame; ``None`` if the blocks contradict each other."""
    grey = x_CHW[:, :HEIGHT, :WIDTH].astype(float).mean(0)
    blocks = grey.reshape(2, BLOCK, BITS + 2, BLOCK)[:, 4:12, :, 4:12].mean((1, 3))
    bits = blocks > 128
    if not bits[0, 0] or bits[0, 1] or (bits[0] == bits[1]).any():
        return None
    return int(sum(int(bit) << b for b, bit in enumerate(bits[0, 2:])))


def numbers_of(x_CTHW: npt.NDArray[Any]) -> list[int | None]:
    """:func:`number_of` of every frame."""
    return [number_of(x_CTHW[:, t]) for t in range(x_CTHW.shape[1])]


def encode(
    target: Path | io.BytesIO,
    n: int = N_FRAMES,
    *,
    container: str | None = None,
    mux: Mapping[str, str] | None = None,
    **how: Any,
) -> None:
    """Write ``n`` numbered frames.

    Args:
        target: file, or memory with ``container`` named.
        n: number of frames.
        container: FFmpeg's name of the muxer; default: by the suffix.
        mux: options of the muxer.
        how: codec, options, times (ticks of 1/90000 s; default 25 frames/s), gop, b_frames,
            rotation (degrees), aspect (of a pixel), pix_fmt, size (H, W).
    """
    import av

    height, width = how.get("size", (HEIGHT, WIDTH))
    codec, pix_fmt = how.get("codec", "libx264"), how.get("pix_fmt", "yuv420p")
    name: Any = target if container else str(target)
    with av.open(name, "w", format=container, options=dict(mux or {})) as out:
        stream = cast(Any, out.add_stream(codec, rate=RATE, options=dict(how.get("options", {}))))
        stream.height, stream.width, stream.pix_fmt = height, width, pix_fmt
        context = stream.codec_context
        context.gop_size, context.max_b_frames = how.get("gop", 12), how.get("b_frames", 0)
        context.thread_count = 1
        context.time_base = Fraction(1, RATE) if codec in _COARSE else TICK_S
        if codec in _COARSE - {"gif"}:
            context.bit_rate = 2_000_000
        if "aspect" in how:
            stream.sample_aspect_ratio = how["aspect"]
        if "rotation" in how:
            stream.set_display_rotation(how["rotation"])
        ticks: Iterable[int] = how.get("times", range(0, n * STEP, STEP))
        for number, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(picture(number, height, width), "rgb24")
            frame = frame.reformat(format=pix_fmt)
            frame.time_base = context.time_base
            frame.pts = round(tick * TICK_S / context.time_base)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def encoded(n: int = N_FRAMES, container: str = "mp4", **how: Any) -> bytes:
    """As :func:`encode`, in memory."""
    buffer = io.BytesIO()
    encode(buffer, n, container=container, **how)
    return buffer.getvalue()


def trim(source: Path, target: Path, n: int) -> None:
    """Copy an mp4 without encoding; an edit list hides the first ``n`` frames."""
    import av

    with av.open(str(source)) as whole, av.open(str(target), "w") as out:
        stream = out.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.dts is not None and packet.pts is not None:
                packet.pts, packet.dts = packet.pts - n * STEP, packet.dts - n * STEP
                packet.stream = stream
                out.mux(packet)
