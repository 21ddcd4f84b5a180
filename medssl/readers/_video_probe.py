"""Does a video library run on this machine? Asked in the capped process, with a real decode."""

from __future__ import annotations

from importlib import import_module
from io import BytesIO
from typing import Any

import numpy as np

from medssl.core.errors import ReadError
from medssl.readers import _video_pyav
from medssl.readers._video_index import VideoIndex
from medssl.readers._video_scan import index_of

_GREYS = np.arange(20, 240, 20, dtype=np.uint8)


def describe_backend(name: str) -> dict[str, Any]:
    """``{"reason": ""}`` if the library gives the frames of a small video, else a code."""
    try:
        backend = import_module(f"medssl.readers._video_{name}")
        video = _small_video()
        index = VideoIndex.from_json(index_of(video, "mov")["index"])
        numbers = list(range(len(_GREYS)))[::-1]
        frames = backend.read_frames(video, index, numbers)
    except ImportError:
        return {"reason": "not_installed"}
    except (ReadError, OSError, RuntimeError):
        return {"reason": "does_not_run"}
    same = np.array_equal(frames, _video_pyav.read_frames(video, index, numbers))
    return {"reason": "" if same else "differs"}


def _small_video() -> BytesIO:
    """Grey pictures, each brighter than the one before, in MPEG-4."""
    import av

    buffer = BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for grey in _GREYS:
            picture = np.full((64, 64, 3), grey, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
    return buffer
