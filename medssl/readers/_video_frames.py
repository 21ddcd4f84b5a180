"""Frames of a video inside DICOM, for the code that decodes DICOM pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError
from medssl.readers._dicom_pixels import Frames
from medssl.readers._video_dicom import open_encapsulated
from medssl.readers._video_index import VideoIndex
from medssl.readers._video_pyav import read_frames

_BLOCK_BYTES = 2**28


class VideoFrames(Frames):
    """Frames that are decoded in blocks of those announced: each needs the ones before it."""

    def __init__(self, path: Path, tags: dict[str, Any], picked: Sequence[int] | None) -> None:
        self._path = path
        self._index = VideoIndex.from_json(tags["video"])
        self.n = len(self._index.ticks)
        self._picked = list(range(self.n) if picked is None else picked)
        self._decoded: dict[int, npt.NDArray[np.uint8]] = {}

    def stored(self, index: int) -> tuple[npt.NDArray[Any], str]:
        """(H, W, 3) RGB, or (H, W)."""
        if not 0 <= index < self.n:
            raise ReadError("frames_mismatch", f"frame {index} of a video with {self.n}")
        if index not in self._decoded:
            channels, _, height, width = self._index.shape_CTHW
            n_block = max(_BLOCK_BYTES // (channels * height * width), 1)
            first = self._picked.index(index) if index in self._picked else None
            block = [index] if first is None else self._picked[first : first + n_block]
            with open_encapsulated(self._path) as (file, _):
                self._decoded = dict(zip(block, read_frames(file, self._index, block), strict=True))
        x_HWC = self._decoded[index]
        return (x_HWC, "RGB") if x_HWC.shape[2] == 3 else (x_HWC[..., 0], "MONOCHROME2")

    def decode(
        self,
        index: int,
        *,
        rescale: tuple[float, float] | None = None,  # noqa: ARG002 - video has none
        as_measured: bool = False,  # noqa: ARG002
    ) -> npt.NDArray[Any]:
        """As :meth:`stored`: a video has no modality transform."""
        return self.stored(index)[0]
