"""Video files of the phantoms: MPEG-4, which every build of FFmpeg has, byte for byte again."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

# Finest but one quantiser: what is lost stays below the noise of the pictures.
_QUALITY = 2


def write_video(path: Path, frames: Iterable[npt.NDArray[np.uint8]], fps: float) -> None:
    """Write frames (H, W, 3) at a steady rate."""
    import av

    rate = Fraction(fps).limit_denominator(1000)
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"qmin": str(_QUALITY), "qmax": str(_QUALITY)}
    with av.open(str(path), "w", container_options={"fflags": "+bitexact"}) as file:
        stream = cast(Any, file.add_stream("mpeg4", rate=rate, options=options))
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for number, frame_HWC in enumerate(frames):
            if number == 0:
                stream.height, stream.width = frame_HWC.shape[:2]
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        file.mux(stream.encode(None))
