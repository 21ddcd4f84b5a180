"""decord: selectable, refused by :mod:`medssl.readers._video_rules` where it is wrong."""

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
    import decord

    decord.logging.set_level(decord.logging.FATAL)
    if not isinstance(source, str):
        source.seek(0)
    try:
        reader = decord.VideoReader(source, num_threads=1)
        times_s = reader.get_frame_timestamp(range(len(reader)))[:, 0]
        check_times(index, list(numbers), len(reader), times_s[list(numbers)] - times_s[0])
        frames = reader.get_batch(list(numbers)).asnumpy()
    except (decord.DECORDError, IndexError) as error:
        what = f"decord cannot decode the video ({type(error).__name__})"
        raise ReadError("corrupt_frames", what) from None
    return np.asarray(frames, np.uint8)
