"""Which files a video library may decode: what it was seen to do right, nothing else.

The figures are in docs/results/video.md. PyAV decodes everything; it alone reports damage.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from medssl.core.errors import ReadError
from medssl.readers._sandbox import ask_capped
from medssl.readers._video_index import VideoIndex

_PROVEN = {
    "decord": {
        *(("mov", codec) for codec in ("h264", "hevc", "mjpeg")),
        *(("matroska", codec) for codec in ("h264", "vp8", "vp9", "ffv1")),
        ("avi", "mjpeg"),
    },
    "torchcodec": {
        *(("mov", codec) for codec in ("h264", "hevc", "mjpeg", "mpeg4")),
        *(("matroska", codec) for codec in ("h264", "vp8", "vp9", "ffv1")),
        *(("avi", "mjpeg"), ("gif", "gif")),
    },
}
# Facts of an index, or flags, that a library gets wrong or does not notice.
_WRONG_FLAGS = ("truncated_video", "damaged_packets", "several_video_streams", "depth_reduced")
# Address space that a library takes: torchcodec loads torch.
LIBRARY_BYTES = {"torchcodec": 8 * 2**30}


def refusal(backend: str, index: VideoIndex, flags: Sequence[str]) -> str:
    """Why the library may not decode this file; empty = it may."""
    if backend == "pyav":
        return ""
    wrong = {
        "container_or_codec": (index.container, index.codec) not in _PROVEN[backend],
        "frame_order": index.in_order,
        "weak_keys": not index.keys_hold,
        "open_gop": backend == "decord" and index.open_gop,
        "trimmed": backend == "decord" and index.trimmed,
        "grey": index.channels != 3,
        "mirrored": index.turn not in _QUARTER_TURNS,
        **{flag: flag in flags for flag in _WRONG_FLAGS},
    }
    reasons = [reason for reason, holds in wrong.items() if holds]
    return reasons[0] if reasons else _does_not_run(backend)


_QUARTER_TURNS = (
    *((False, False, False), (False, True, True)),
    *((True, False, True), (True, True, False)),
)


@cache
def _does_not_run(backend: str) -> str:
    """Whether the library decodes a small video here; torchcodec fails only at this point."""
    try:
        answer = ask_capped("video_backend", backend, library_bytes=LIBRARY_BYTES.get(backend, 0))
    except ReadError:
        return "does_not_run"
    return str(answer["reason"])
