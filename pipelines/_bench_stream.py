"""A stream without end for the benchmark: one short clip again and again, packet by packet."""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np

from medssl.archive import phantom_surgery
from medssl.core.clips import frame_shape, resized_frames
from medssl.core.seeding import generator

FPS, SECONDS = phantom_surgery.FPS, 20


def encode_loop(path: Path, side_px: int) -> None:
    """Some seconds of a phantom operation with frames of this shorter side, as H.264."""
    import av

    rng = generator(0, "video")
    small = phantom_surgery.frames_of(phantom_surgery.draw_operation(rng, 10.0), rng)
    shape = frame_shape(phantom_surgery.SHAPE_HW, side_px)
    height, width = (side // 2 * 2 for side in shape)
    with av.open(str(path), "w", format="mpegts") as file:
        stream = cast(Any, file.add_stream("libx264", rate=FPS))
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = FPS, 0
        for _, frame_HWC in zip(range(SECONDS * FPS), small, strict=False):
            x_CHW = resized_frames(frame_HWC.transpose(2, 0, 1)[:, None], (height, width))[:, 0]
            picture = np.ascontiguousarray(x_CHW.transpose(1, 2, 0))
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))


def send(clip: Path, pipe: Path, seconds: int, paced: bool) -> None:
    """Write so many seconds of the clip into a pipe, at the pace of its frames if asked for."""
    import av

    # Each packet leaves at once, as from a camera.
    options = {"flush_packets": "1"}
    with (
        av.open(str(clip)) as source,
        pipe.open("wb", buffering=0) as sink,
        av.open(sink, "w", "mpegts", options) as out,
    ):
        own = source.streams.video[0]
        stream = out.add_stream_from_template(own)
        packets = [packet for packet in source.demux(own) if packet.size]
        tick = own.time_base or Fraction(1, 90_000)
        first = packets[0].pts or 0
        started_s = time.monotonic()
        for number in range(seconds * FPS):
            packet = av.Packet(bytes(packets[number % len(packets)]))
            packet.time_base = tick
            packet.pts = packet.dts = first + round(number / FPS / tick)
            packet.is_keyframe = packets[number % len(packets)].is_keyframe
            packet.stream = stream
            if paced:
                time.sleep(max(started_s + number / FPS - time.monotonic(), 0))
            out.mux(packet)
