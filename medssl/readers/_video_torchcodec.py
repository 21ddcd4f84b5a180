"""torchcodec: the fast library where it is right, see :mod:`medssl.readers._video_rules`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError
from medssl.readers._video_checks import check_times
from medssl.readers._video_decode import Source
from medssl.readers._video_index import VideoIndex


def read_frames(source: Source, index: VideoIndex, numbers: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Frames (T, H, W, C) as shown, in the order asked for.

    Raises:
        ReadError: ``corrupt_frames``, ``backend_disagrees``.
    """
    from torchcodec.decoders import VideoDecoder

    if isinstance(source, str):
        content: str | bytes = source
    else:
        source.seek(0)
        content = source.read()
    try:
        decoder = VideoDecoder(
            content,
            stream_index=index.stream,
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            seek_mode="exact",
        )
        batch = decoder.get_frames_at(list(numbers))
        start_s = float(decoder.metadata.begin_stream_seconds or 0.0)
    except (RuntimeError, ValueError, IndexError) as error:
        what = f"torchcodec cannot decode the video ({type(error).__name__})"
        raise ReadError("corrupt_frames", what) from None
    check_times(index, list(numbers), len(decoder), batch.pts_seconds.numpy() - start_s)
    return np.asarray(batch.data.numpy(), np.uint8)
