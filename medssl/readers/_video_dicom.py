"""Video inside DICOM: the MPEG-2, H.264 and HEVC transfer syntaxes (PS3.5 8.2.5 - 8.2.9).

The fragments of the pixel data, joined, are a video of its own: in a container, or a raw stream
whose pictures have no times. It is indexed and decoded like a file; the DICOM header keeps the
identifiers, and gives the times where the stream has none.
"""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from medssl.core.errors import ReadError
from medssl.readers._dicom_frames import Fragment, frame_fragments
from medssl.readers._dicom_open import opened
from medssl.readers._dicom_tags import Elements
from medssl.readers._dicom_timing import frame_times_s
from medssl.readers._sandbox import ask_capped
from medssl.readers._source import size_of
from medssl.readers._video_container import container_of
from medssl.readers._video_index import VideoIndex

_SYNTAX = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.10([0-8])(\.1)?")
_RAW_DEMUXER = {"0": "mpegvideo", "1": "mpegvideo", "7": "hevc", "8": "hevc"}
_START_CODES = (b"\0\0\1", b"\0\0\0\1")
_RATE_TOLERANCE = 0.02


def is_video(syntax: str) -> bool:
    """Whether the pixel data of this transfer syntax are one video."""
    return _SYNTAX.fullmatch(syntax) is not None


@contextmanager
def open_encapsulated(path: Path) -> Iterator[tuple[BinaryIO, str]]:
    """The joined fragments as a file, and FFmpeg's name of the demuxer.

    Raises:
        ReadError: ``no_pixels``, ``not_video``, ``truncated``, ``corrupt_pixels``.
    """
    with opened(path) as source:
        syntax = _SYNTAX.fullmatch(str(source.dataset.file_meta.get("TransferSyntaxUID", "")))
        if syntax is None:
            raise ReadError("not_video", "the transfer syntax is none of video")
        if source.pixels is None or source.pixels.length is not None:
            raise ReadError("no_pixels", "the file holds no fragments of video")
        (fragments,) = frame_fragments(source.file, source.pixels.offset, 1, source.dataset)
        file = io.BufferedReader(_Joined(source.file, fragments))
        head = file.read(4096)
        container = container_of(head)
        if not container and head.startswith(_START_CODES):
            container = _RAW_DEMUXER.get(syntax[1], "h264")
        if not container:
            raise ReadError("not_video", "the fragments are no video")
        file.seek(0)
        yield file, container


class _Joined(io.RawIOBase):
    """Parts of a file as one file."""

    def __init__(self, file: BinaryIO, fragments: Sequence[Fragment]) -> None:
        self._file, self._fragments = file, fragments
        self._starts = list(accumulate((f.length for f in fragments), initial=0))
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._starts[-1]}[whence]
        self._at = max(origin + offset, 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self._at >= self._starts[-1]:
            return 0
        number = bisect_right(self._starts, self._at) - 1
        within = self._at - self._starts[number]
        self._file.seek(self._fragments[number].offset + within)
        wanted = min(len(buffer), self._fragments[number].length - within)
        content = self._file.read(wanted)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


def add_video(elements: Elements, tags: dict[str, Any], path: Path) -> None:
    """Index the video, and put what it says into the tags of a 2D object.

    The number of frames, their size and colour are those of the video. Contradictions with the
    header are flags ``frame_count_differs`` and ``frame_rate_differs``; another picture size is
    a refusal.

    Raises:
        ReadError: as :func:`medssl.readers.video.header`.
    """
    answer = ask_capped("video", str(path), size_of(path))
    if "index" not in answer:
        raise ReadError("no_frames", "the pixel data hold sound only", where=str(path))
    index = VideoIndex.from_json(answer["index"])
    channels, n, height, width = index.shape_CTHW
    plane = tags["plane"]
    flags = [flag for flag in plane["flags"] if not flag.startswith("frame_time")]
    stated_s, stated_flags = frame_times_s(elements, n)
    times_s = index.frame_times_s
    flags += stated_flags if times_s is None else ["frame_times_from=video"]
    flags += [flag for flag in answer["flags"] if flag != "frame_times_unknown"]
    if tags["frames"] != n:
        flags.append("frame_count_differs")
    if times_s and stated_s and n > 1 and not _same_pace(times_s, stated_s):
        flags.append("frame_rate_differs")
    plane["flags"] = flags
    plane["times_s"] = list(times_s) if times_s else stated_s
    plane["refused"] = None
    if (height, width) != (tags["rows"], tags["columns"]):
        what = f"video frames of {height} x {width}, the header says otherwise"
        plane["refused"] = ("frame_size_changes", what)
    tags |= {
        "frames": n,
        "channels": channels,
        "photometric": "RGB" if channels == 3 else "MONOCHROME2",
        "bits_allocated": 8,
        "bits_stored": 8,
        "signed": False,
        "rescale": (1.0, 0.0),
        "video": answer["index"],
    }


def _same_pace(times_s: Sequence[float], stated_s: Sequence[float]) -> bool:
    seen, stated = np.median(np.diff(times_s)), np.median(np.diff(stated_s))
    return bool(abs(seen - stated) <= _RATE_TOLERANCE * stated)
