"""Do the frames of another library lie where the index says?"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError
from medssl.readers._video_index import VideoIndex


def check_times(
    index: VideoIndex, numbers: list[int], count: int, times_s: npt.NDArray[np.floating[Any]]
) -> None:
    """Compare frame count and times (s, after the first shown frame) with the index.

    Raises:
        ReadError: ``backend_disagrees``.
    """
    fix = "index the archive with the video library pyav"
    if count != len(index.ticks):
        what = f"{count} frames, the index has {len(index.ticks)}"
        raise ReadError("backend_disagrees", what, fix=fix)
    expected_s = index.frame_times_s
    if expected_s is None:
        raise ReadError("backend_disagrees", "the index knows no frame times", fix=fix)
    # Containers round to a millisecond; half the shortest frame away lies another frame.
    tolerance_s = min([2e-3, *(np.diff(expected_s) / 2)])
    off = np.flatnonzero(np.abs(times_s - np.array(expected_s)[numbers]) > tolerance_s)
    if len(off):
        what = f"frame {numbers[off[0]]} comes at another time"
        raise ReadError("backend_disagrees", what, fix=fix)
