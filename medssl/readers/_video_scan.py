"""The index of a video: from its packets, and checked against the pictures that come first."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from medssl.core.errors import ReadError
from medssl.readers._video_decode import (
    CODECS,
    MAX_PIXELS,
    Packets,
    Pictures,
    Source,
    is_cover,
    opened,
    seek,
)
from medssl.readers._video_index import VideoIndex, ticks_of
from medssl.readers._video_source import video_source

if TYPE_CHECKING:
    from av import VideoFrame
    from av.video.stream import VideoStream

_MAX_FRAMES = 2_000_000  # 18 hours at 30 frames/s
_PROBED = 8
_ONE = 1 << 16  # in a display matrix (16.16 fixed point)


def describe_video(path: str) -> dict[str, Any]:
    """Index and flags of a video, or ``{"ignored": "audio"}``. Runs in the capped process.

    Raises:
        ReadError: ``not_video``, ``bad_container``, ``no_frames``, ``no_decoder``,
            ``corrupt_frames``, ``too_large``.
    """
    with video_source(Path(path)) as (source, container, cut):
        return index_of(source, container, cut)


def index_of(source: Source, container: str, cut: bool = False) -> dict[str, Any]:
    """As :func:`describe_video`; ``cut`` if the container says that the file should be longer."""
    with opened(source, container) as (file, stream):
        if stream is None:
            if file.streams.audio:
                return {"ignored": "audio"}
            raise ReadError("no_frames", "the container holds no video stream")
        facts = _facts(stream)
        read = _read_packets(Packets(file, stream))
        several = len([s for s in file.streams.video if not is_cover(s)]) > 1
    if not read.n_keys:
        raise ReadError("no_frames", "the video stream holds no frame to start from")
    index, flags = _index(source, container, facts, read)
    flags |= {
        "truncated_video": cut or read.cut or flags["truncated_video"],
        "damaged_packets": read.damaged,
        "several_video_streams": several,
    }
    return {"index": index.to_json(), "flags": sorted(name for name, on in flags.items() if on)}


@dataclass
class _Stream:
    """What the container says of the stream."""

    number: int
    codec: str
    time_base: Fraction
    n_ticks: int
    """Length that the header of an AVI states, in ticks; 0 = it does not say."""
    oblong: bool


def _facts(stream: VideoStream) -> _Stream:
    context = stream.codec_context
    if context is None or context.name not in CODECS or stream.time_base is None:
        raise ReadError("no_decoder", "the video's coding has no decoder here")
    if context.width * context.height > MAX_PIXELS:
        raise ReadError("too_large", f"frames of {context.width} x {context.height} pixels")
    aspect = stream.sample_aspect_ratio
    return _Stream(
        number=stream.index,
        codec=context.codec.canonical_name,
        time_base=stream.time_base,
        n_ticks=stream.frames,
        oblong=bool(aspect) and aspect != 1,
    )


@dataclass
class _Packets:
    """Packets of one stream in the order of decoding."""

    ticks: list[int | None] = field(default_factory=list)
    decode_ticks: list[int | None] = field(default_factory=list)
    hidden: list[bool] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    open_gop: bool = False
    damaged: bool = False
    cut: bool = False
    n_keys: int = 0
    before_key: int = 0

    def shown(self) -> list[int]:
        """Presentation times of what is to be shown; empty if they cannot name frames."""
        pairs = zip(self.ticks[self.before_key :], self.hidden[self.before_key :], strict=True)
        ticks = [tick for tick, hidden in pairs if not hidden]
        known = {tick for tick in ticks if tick is not None}
        return sorted(known) if len(known) == len(ticks) else []

    def steady_step(self) -> int | None:
        """Ticks from packet to packet, if it is always the same."""
        if None in self.decode_ticks:
            return None
        steps = set(np.diff(np.array(self.decode_ticks, dtype=np.int64)).tolist())
        return steps.pop() if len(steps) == 1 and min(steps) > 0 else None

    def ends_before(self, n_ticks: int) -> bool:
        """Whether packets are missing from a stream of this length and a steady rate."""
        times = [tick for tick in self.decode_ticks if tick is not None]
        if not n_ticks or len(times) < 2:
            return False
        return times[-1] + min(b - a for a, b in pairwise(times)) < n_ticks


def _read_packets(source: Packets) -> _Packets:
    read = _Packets()
    for packet in source:
        if len(read.ticks) == _MAX_FRAMES:
            raise ReadError("too_large", f"more than {_MAX_FRAMES} frames in one video")
        read.n_keys += packet.is_keyframe
        if packet.is_keyframe and packet.pts is not None:
            read.keys.append(packet.pts)
        elif read.keys and packet.pts is not None and packet.pts < read.keys[-1]:
            read.open_gop = True
        read.before_key += not read.n_keys
        read.ticks.append(packet.pts)
        read.decode_ticks.append(packet.dts)
        read.hidden.append(packet.is_discard)
        read.cut = packet.is_corrupt
        read.damaged |= packet.is_corrupt
    if read.cut:
        read.hidden[-1] = True  # half a packet at the end
    read.cut |= source.broken
    return read


@dataclass
class _Head:
    """The pictures that the decoder gives first, with the facts that only a picture tells."""

    ticks: list[int | None]
    failed: bool
    """A packet did not decode; when counting, only the pictures before it are in ``ticks``."""
    frame: VideoFrame

    def agrees_with(self, ticks: list[int]) -> bool:
        """Whether these are the first of the frames that the packets promise."""
        if self.failed:
            return set(self.ticks) <= set(ticks)
        return self.ticks == ticks[: len(self.ticks)]


def _first_pictures(source: Source, container: str, number: int, until: int | None = None) -> _Head:
    """Some pictures up to a time; without one, count all that come before damage."""
    ticks: list[int | None] = []
    first = None
    with opened(source, container, number) as (file, stream):
        if stream is None:
            raise ReadError("bad_container", "the video stream is not found a second time")
        pictures = Pictures(file, stream)
        for tick, frame, _ in pictures:
            if until is None and pictures.failures:
                break
            first = first or frame
            ticks.append(tick)
            if until is not None and len(ticks) >= _PROBED and (tick is None or tick >= until):
                break
    if first is None:
        raise ReadError("corrupt_frames", "no frame of the video decodes")
    if first.width * first.height > MAX_PIXELS:
        raise ReadError("too_large", f"frames of {first.width} x {first.height} pixels")
    return _Head(ticks, bool(pictures.failures), first)


def _keys_hold(source: Source, container: str, number: int, read: _Packets) -> bool:
    """Whether the second key frame is a true start, tried out; with one key there is no other."""
    if len(read.keys) < 2:
        return True
    key = read.keys[1]
    with opened(source, container, number) as (file, stream):
        if stream is None or not seek(file, stream, key):
            return False
        for tick, frame, _ in Pictures(file, stream):
            if tick is not None and tick >= key:
                return tick == key and bool(frame.key_frame)
    return False


def _index(
    source: Source, container: str, facts: _Stream, read: _Packets
) -> tuple[VideoIndex, dict[str, bool]]:
    promised = read.shown()
    head = _first_pictures(source, container, facts.number, read.keys[0] if promised else None)
    # Pictures before the first key frame are shown only if they need nothing before it.
    came = set(head.ticks)
    first_key = min(read.keys[:1], default=0)
    ticks = [tick for tick in promised if tick >= first_key or tick in came]
    tick_s: Fraction | None = facts.time_base
    in_order = not (ticks and head.agrees_with(ticks))
    if in_order:
        if promised:
            head = _first_pictures(source, container, facts.number)
        ticks = list(range(len(head.ticks)))
        # Only AVI promises a steady rate; a raw stream's rate is FFmpeg's guess.
        step = read.steady_step() if container == "avi" else None
        tick_s = None if step is None else step * facts.time_base
    turn, unusual = _turn(head.frame)
    index = VideoIndex(
        container=container,
        codec=facts.codec,
        stream=facts.number,
        height=head.frame.height,
        width=head.frame.width,
        channels=1 if head.frame.format.name.startswith("gray") else 3,
        turn=turn,
        tick_s=tick_s,
        ticks=ticks_of(ticks),
        keys=ticks_of(set(read.keys)),
        in_order=in_order,
        open_gop=read.open_gop,
        keys_hold=not in_order and _keys_hold(source, container, facts.number, read),
        trimmed=any(read.hidden),
    )
    return index, {
        "truncated_video": in_order and head.failed,
        "frames_missing": container == "avi" and read.ends_before(facts.n_ticks),
        "frames_never_shown": bool(read.before_key) or len(ticks) < len(promised),
        "frame_times_unknown": tick_s is None,
        "interlaced": head.frame.interlaced_frame,
        "oblong_pixels": facts.oblong,
        "depth_reduced": max(part.bits for part in head.frame.format.components) > 8,
        "rotation_unusual": unusual,
    }


def _turn(frame: VideoFrame) -> tuple[tuple[bool, bool, bool], bool]:
    """How to show the frame (swap axes, mirror, flip), and whether that is no quarter turn."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return (False, False, False), False
    data = bytes(cast(Any, matrix))
    a, b, _, c, d = struct.unpack("<9i", data[:36])[:5]
    straight = abs(a) == abs(d) == _ONE and b == c == 0
    swapped = abs(b) == abs(c) == _ONE and a == d == 0
    if swapped:
        return (True, c < 0, b < 0), False
    if straight:
        return (False, a < 0, d < 0), False
    return (False, False, False), True
