"""Video files as clips (C, T, H, W), uint8, with the presentation time of every frame.

One index of packets, kept in the catalog, gives exact random access: variable frame rates, open
groups of pictures, B frames and edit lists included. Frames that no player shows (trimmed away, or
before the first key frame) are no frames of the clip; half a video is the frames that exist, with
the flag ``truncated_video``; a damaged frame raises when it is read. Rotation is applied.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError
from medssl.core.geometry import Geometry
from medssl.readers._base import DEFAULT_POLICY, FileHeader, Found, Policy, Refused
from medssl.readers._sandbox import ask_capped
from medssl.readers._source import size_of
from medssl.readers._video_container import container_of
from medssl.readers._video_index import VideoIndex
from medssl.readers._video_rules import LIBRARY_BYTES, refusal
from medssl.readers._video_source import video_source

_SUFFIXES = {
    ".mp4",
    ".m4v",
    ".avi",
    ".mkv",
    ".webm",
    ".mov",
    ".mpg",
    ".mpeg",
    ".ts",
    ".wmv",
    ".gif",
}


def matches(path: Path, head: bytes) -> bool:
    """By content, or by name so that a broken video is refused; ``.ts`` is also a text format."""
    if container_of(head):
        return True
    suffix = path.suffix.lower()
    return suffix in _SUFFIXES and (suffix != ".ts" or b"\0" in head)


def header(path: Path) -> FileHeader:
    """Index and flags, read by FFmpeg in the capped process.

    Raises:
        ReadError: ``empty_file``, ``not_video``, ``bad_container``, ``no_frames``, ``no_decoder``,
            ``corrupt_frames``, ``too_large``, or what the capped process adds.
    """
    size = size_of(path)
    if size == 0:
        raise ReadError("empty_file", "the file has zero bytes", where=str(path))
    tags = ask_capped("video", str(path), size)
    return FileHeader(path=str(path), format="video", tags=tags, ignored=tags.get("ignored", ""))


def group(
    headers: list[FileHeader], policy: Policy = DEFAULT_POLICY
) -> tuple[list[Found], list[Refused]]:
    """Each file is one clip; a GIF of one frame is an image.

    Where the library of the policy is known to be wrong, or does not run, ``pyav`` is used and
    the record says so: ``backend_refused=decord:open_gop``.
    """
    return [_found(one, policy) for one in headers], []


def load(found: Found, frames: Sequence[int] | None = None) -> npt.NDArray[Any]:
    """(C, T, H, W), or (C, H, W) for a still GIF.

    Raises:
        ReadError: ``corrupt_frames``, ``frame_missing``, ``frame_size_changes``, ``changed``.
    """
    index = VideoIndex.from_json(found.options["index"])
    numbers = range(len(index.ticks)) if frames is None else frames
    path = Path(found.files[0])
    backend = import_module(f"medssl.readers._video_{found.options['backend']}")
    with video_source(path) as (source, container, _):
        if container != index.container:
            raise ReadError("changed", "the video has another container now", where=str(path))
        try:
            x_THWC = backend.read_frames(source, index, list(numbers))
        except ReadError as error:
            raise ReadError(error.reason, error.what, where=str(path), fix=error.fix) from None
    x_CTHW = np.ascontiguousarray(x_THWC.transpose(3, 0, 1, 2))
    return x_CTHW if found.geometry.kind == "clip" else x_CTHW[:, 0]


def trusted(found: Found) -> bool:  # noqa: ARG001
    """FFmpeg decodes."""
    return False


def _found(header: FileHeader, policy: Policy) -> Found:
    index = VideoIndex.from_json(header.tags["index"])
    shape = index.shape_CTHW
    flags, backend = list(header.tags["flags"]), policy.video
    reason = refusal(backend, index, flags)
    if reason:
        flags.append(f"backend_refused={backend}:{reason}")
        backend = "pyav"
    extra = {"library_bytes": LIBRARY_BYTES[backend]} if backend in LIBRARY_BYTES else {}
    still = index.container == "gif" and shape[1] == 1
    geometry = Geometry(kind="clip", frame_times_s=index.frame_times_s)
    return Found(
        files=(header.path,),
        format="video",
        shape=(shape[0], *shape[2:]) if still else shape,
        dtype="uint8",
        geometry=Geometry(kind="image") if still else geometry,
        series=header.path,
        flags=tuple(sorted(flags)),
        options={"index": header.tags["index"], "backend": backend, **extra},
    )
