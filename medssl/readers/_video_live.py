"""Frames of a video while it is being recorded: a growing file, a named pipe or standard input.

A process of its own (``python -m medssl.readers._video_live``) decodes every frame as it comes and
hands on the first one of each 1 / ``fps`` seconds, made smaller. As in
:mod:`medssl.readers._sandbox`, replies are JSON lines with raw pixels behind them and memory is
capped; nothing of the rest of the stream is kept. Containers that can be read before they end:
MPEG-TS, Matroska and WebM, AVI, fragmented MP4.
"""

from __future__ import annotations

import json
import os
import resource
import select
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from medssl.core.clips import frame_shape, resized_frames
from medssl.core.errors import ReadError
from medssl.readers._video_container import container_of
from medssl.readers._video_decode import Pictures, chosen_stream, limits_of

STDIN = "-"
_HEAD_BYTES = 4096
_LIMIT_BYTES = 4 * 2**30
_LOOK_AGAIN_S, _ASK_AGAIN_S = 0.05, 0.2
# FFmpeg looks at so much of a stream before the first frame comes; its own habit is 5 s.
_PROBE = {"probesize": str(2**18), "analyzeduration": str(10**6)}


@dataclass(frozen=True, eq=False)
class LiveFrame:
    """One frame of a stream.

    Attributes:
        x_CHW: RGB or grey, 8 bits.
        time_s: from the first frame on.
        received_s: when its last bytes were there, by ``time.monotonic``.
        decoded: frames decoded so far.
        damaged: frames so far that did not decode, and were left out.
    """

    x_CHW: npt.NDArray[np.uint8]
    time_s: float
    received_s: float
    decoded: int
    damaged: int


def live_frames(
    source: str,
    *,
    fps: float,
    short_side_px: int | None,
    patience_s: float,
    stopped: Callable[[], bool] = lambda: False,
) -> Generator[LiveFrame, None, None]:
    """Frames of a stream as they come, one per 1 / ``fps`` seconds, until it ends.

    Args:
        source: a path, or ``-`` for standard input.
        fps: frames per second that are handed on.
        short_side_px: their shorter side; ``None`` = as they are.
        patience_s: a file that has not grown for so long is at its end.
        stopped: whether to end now, asked while the stream waits.

    Raises:
        ReadError: ``not_video``, ``bad_container``, ``no_frames``, ``decoder_crash``.
    """
    request = {
        "source": source, "fps": fps, "short_side_px": short_side_px, "patience_s": patience_s,
    }  # fmt: skip
    words = [sys.executable, "-m", "medssl.readers._video_live", json.dumps(request)]
    # Ctrl-C is the caller's to handle: a session of its own hears none.
    # Nothing is buffered here: what has come can be waited for.
    process = subprocess.Popen(
        words, bufsize=0, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert process.stdout is not None
    try:
        while _comes(process.stdout, stopped):
            reply = _reply(process.stdout)
            if "end" in reply:
                return
            yield _frame(reply, process.stdout)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _comes(pipe: IO[bytes], stopped: Callable[[], bool]) -> bool:
    """Wait for the next reply; False if it was ``stopped`` before."""
    while not select.select([pipe], [], [], _ASK_AGAIN_S)[0]:
        if stopped():
            return False
    return True


def _reply(pipe: IO[bytes]) -> dict[str, Any]:
    line = pipe.readline()
    if not line.endswith(b"\n"):
        raise ReadError("decoder_crash", "the decoding process died on this stream")
    reply: dict[str, Any] = json.loads(line)
    if "reason" in reply:
        raise ReadError(reply["reason"], reply["what"], fix=reply["fix"])
    return reply


def _frame(reply: dict[str, Any], pipe: IO[bytes]) -> LiveFrame:
    channels, height, width = (int(n) for n in reply.pop("shape"))
    data = bytearray()
    while more := pipe.read(channels * height * width - len(data)):
        data += more
    if len(data) < channels * height * width:
        raise ReadError("decoder_crash", "the decoding process died on this stream")
    x_CHW = np.frombuffer(data, dtype=np.uint8).reshape(channels, height, width)
    return LiveFrame(x_CHW=x_CHW, **reply)


class Growing:
    """Bytes of a file that may still grow, or of a pipe, as they come.

    Attributes:
        received_s: when the newest ones came.
    """

    def __init__(self, source: str, patience_s: float) -> None:
        self._file = sys.stdin.fileno() if source == STDIN else os.open(source, os.O_RDONLY)
        self._patience_s = patience_s
        self._ended = False
        self._grows = source != STDIN and Path(source).is_file()
        self.received_s = time.monotonic()
        self.head = b""
        while len(self.head) < _HEAD_BYTES:
            more = self._more(_HEAD_BYTES - len(self.head))
            if not more:
                break
            self.head += more
        self._held = self.head

    def read(self, size: int) -> bytes:
        """At least one byte, or none at the end."""
        if self._held:
            data, self._held = self._held[:size], self._held[size:]
            return data
        return self._more(size)

    def _more(self, size: int) -> bytes:
        since_s = time.monotonic()
        while not self._ended:
            if not self._grows:
                select.select([self._file], [], [])
            data = os.read(self._file, size)
            if data:
                self.received_s = time.monotonic()
                return data
            self._ended = not self._grows or time.monotonic() - since_s > self._patience_s
            time.sleep(0 if self._ended else _LOOK_AGAIN_S)
        return b""


def main() -> None:
    """The decoding process: frames to standard output until the stream ends."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = _LIMIT_BYTES if hard == resource.RLIM_INFINITY else min(_LIMIT_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    request = json.loads(sys.argv[1])
    try:
        _send_all(request, replies)
        end: dict[str, Any] = {"end": True}
    except ReadError as error:
        end = {"reason": error.reason, "what": error.what, "fix": error.fix}
    except MemoryError:
        what = "decoding needs more memory than the cap allows"
        end = {"reason": "decoder_memory", "what": what, "fix": ""}
    replies.write(json.dumps(end).encode() + b"\n")
    replies.flush()


def _send_all(request: dict[str, Any], replies: BinaryIO) -> None:
    import av

    source = Growing(request["source"], request["patience_s"])
    container = container_of(source.head)
    if not container:
        raise ReadError("not_video", "the stream is no video")
    av.logging.set_level(av.logging.PANIC)
    options = {**limits_of(container), **_PROBE}
    try:
        file = av.open(source, "r", format=container, options=options, metadata_errors="ignore")
    except (av.FFmpegError, ValueError):
        what = "the container cannot be read before it ends"
        fix = "record MPEG-TS, Matroska or fragmented MP4"
        raise ReadError("bad_container", what, fix=fix) from None
    with file:
        stream = chosen_stream(file)
        if stream is None:
            raise ReadError("no_frames", "the stream has no video")
        pictures = Pictures(file, stream)
        decoded = _send(pictures, float(stream.time_base or 0), source, request, replies)
    if not decoded:
        raise ReadError("no_frames", "no frame of the stream could be decoded")


def _send(
    pictures: Pictures,
    tick_s: float,
    source: Growing,
    request: dict[str, Any],
    replies: BinaryIO,
) -> int:
    """Hand on what :class:`Ticks` picks; returns how many frames were decoded."""
    ticks = Ticks(request["fps"])
    first, decoded, damaged = None, 0, 0
    for at, frame, bad in pictures:
        if bad or at is None:
            damaged += 1
            continue
        decoded += 1
        first = at if first is None else first
        time_s = (at - first) * tick_s
        if not ticks.wants(time_s):
            continue
        form = "gray" if frame.format.name.startswith("gray") else "rgb24"
        x_HWC = frame.to_ndarray(format=form).reshape(frame.height, frame.width, -1)
        small_HW = frame_shape((frame.height, frame.width), request["short_side_px"])
        x_CHW = resized_frames(x_HWC.transpose(2, 0, 1)[:, None], small_HW)[:, 0]
        reply = {
            "time_s": time_s, "received_s": source.received_s, "shape": x_CHW.shape,
            "decoded": decoded, "damaged": damaged,
        }  # fmt: skip
        replies.write(json.dumps(reply).encode() + b"\n")
        replies.write(np.ascontiguousarray(x_CHW).data)
        replies.flush()
    return decoded


class Ticks:
    """Which frames are the first of each 1 / ``fps`` seconds, told without looking ahead.

    A frame may come half a step of the stream early: at a steady rate it is then the nearest one.

    >>> ticks = Ticks(1.0)
    >>> [n for n in range(100) if ticks.wants(n / 29.97)]
    [0, 30, 60, 90]
    """

    def __init__(self, fps: float) -> None:
        self._step_s, self._next = 1 / fps, 0
        self._before_s: float | None = None

    def wants(self, time_s: float) -> bool:
        """Whether a frame is handed on; call it for each, in the order of time."""
        early_s = 0.0 if self._before_s is None else max(time_s - self._before_s, 0) / 2
        self._before_s = time_s
        early_s = min(early_s, self._step_s / 2)
        if time_s < self._next * self._step_s - early_s:
            return False
        self._next = max(int((time_s + early_s) / self._step_s), self._next) + 1
        return True


if __name__ == "__main__":
    main()
