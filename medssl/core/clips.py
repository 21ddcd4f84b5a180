"""Clips by the contract: which frames are kept, how their values are scaled, where shots lie.

All of it is decided by what the file says of its frames' times, never by a rate that its header
claims.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError
from medssl.core.intensity import IntensityRule, clip_levels

# Between two frames of one shot lie at most so many seconds, or so many usual steps.
_GAP_S, _GAP_STEPS = 2.0, 10.0
# Times in files are rounded: shares of a beat below this are none.
_ROUNDING = 1e-3
# Pillow averages first, so that the filter shrinks by this factor only: as good, and faster.
_REDUCING_GAP = 3.0

Numbers = npt.NDArray[np.int64]
Times = npt.NDArray[np.float64]


def kept_frames(times_s: Sequence[float] | None, total: int, fps: float | None) -> Numbers:
    """Numbers of the frames nearest to each 1 / ``fps``, each once; all of a slower clip.

    Raises:
        ReadError: ``times_unknown``: a rate is asked for, the file has no times.

    >>> kept_frames([0.0, 0.04, 0.08, 0.12, 0.16, 0.2], 6, 12.5).tolist()
    [0, 2, 4]
    >>> kept_frames([0.0, 0.5], 2, 25.0).tolist()
    [0, 1]
    """
    if fps is None:
        return np.arange(total)
    if times_s is None:
        what = "the clip does not say when its frames were shown"
        raise ReadError("times_unknown", what, fix="fps=null keeps every frame")
    ticks = (np.asarray(times_s, dtype=np.float64) - times_s[0]) * fps
    nearest = np.ceil(ticks - 0.5 - _ROUNDING)  # half a beat late is late
    order = np.lexsort((np.abs(ticks - nearest), nearest))
    _, first = np.unique(nearest[order], return_index=True)
    return np.sort(order[first])


def shots_of(times_s: Times | None, total: int, cuts: Sequence[int]) -> Numbers:
    """(S, 2) first frame of each shot and the one behind its last: between cuts and time gaps.

    >>> shots_of(np.array([0.0, 0.1, 0.2, 9.0, 9.1]), 5, [1]).tolist()
    [[0, 1], [1, 3], [3, 5]]
    """
    edges = {0, total, *cuts}
    if times_s is not None and total > 1:
        steps_s = np.diff(times_s)
        gap_s = max(_GAP_S, _GAP_STEPS * float(np.median(steps_s)))
        edges |= set((np.flatnonzero(steps_s > gap_s) + 1).tolist())
    ends = np.array(sorted(edges), dtype=np.int64)
    return np.stack([ends[:-1], ends[1:]], axis=1)


def frame_shape(shape_HW: tuple[int, int], short_side_px: int | None) -> tuple[int, int]:
    """Pixels of a prepared frame, aspect kept.

    >>> frame_shape((1080, 1920), 224)
    (224, 398)
    """
    if short_side_px is None:
        return shape_HW
    scale = short_side_px / min(shape_HW)
    h, w = (max(round(side * scale), 1) for side in shape_HW)
    return h, w


def resized_frames(x_CTHW: npt.NDArray[Any], new_HW: tuple[int, int]) -> npt.NDArray[Any]:
    """Each frame over the same field of view, low-pass filtered where it shrinks.

    8 bits stay 8 bits; all other values become float32.
    """
    exact = x_CTHW.dtype == np.uint8
    x_CTHW = x_CTHW if exact else x_CTHW.astype(np.float32)
    if x_CTHW.shape[2:] == new_HW:
        return x_CTHW
    from PIL import Image

    out = np.empty((*x_CTHW.shape[:2], *new_HW), dtype=x_CTHW.dtype)
    for place in np.ndindex(x_CTHW.shape[:2]):
        frame = Image.fromarray(np.ascontiguousarray(x_CTHW[place]))
        size = (new_HW[1], new_HW[0])
        small = frame.resize(size, Image.Resampling.BILINEAR, reducing_gap=_REDUCING_GAP)
        out[place] = np.asarray(small)
    return out


@dataclass(frozen=True)
class FrameScale:
    """How the values of all frames of one clip become input.

    Attributes:
        low, high: values are clipped here.
        shift, gain: what is taken off then, and what is divided by.
        air: level, as input, below which a pixel is air or padding.
    """

    low: float
    high: float
    shift: float
    gain: float
    air: float

    @classmethod
    def of(cls, x_CTHW: npt.NDArray[Any], rule: IntensityRule, stored: npt.DTypeLike) -> Self:
        """By a rule and the values of some frames, spread over the clip.

        Raises:
            ReadError: ``constant``.
        """
        low, high, air = clip_levels(x_CTHW, rule, np.dtype(stored))
        shift, gain = low, high - low
        if rule.kind == "percentile":
            clipped = np.clip(x_CTHW, low, high)
            shift, gain = float(clipped.mean()), float(clipped.std())
        if gain <= 0:
            raise ReadError("constant", "all pixels have one value after the intensity rule")
        return cls(low, high, shift, gain, (air - shift) / gain)

    @property
    def exact(self) -> bool:
        """Whether 8 bits are input once they are divided by 255: the store keeps them."""
        return (self.low, self.high, self.shift, self.gain) == (0.0, 255.0, 0.0, 255.0)

    def __call__(self, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Values as input."""
        clipped = np.clip(x.astype(np.float32), self.low, self.high)
        return np.asarray((clipped - np.float32(self.shift)) / np.float32(self.gain))

    def levels(self, x: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Input as 8 bits of the clipped range, to be looked at."""
        share = (x.astype(np.float32) * self.gain + self.shift - self.low) / (self.high - self.low)
        return np.asarray(np.rint(255 * np.clip(share, 0, 1)), dtype=np.uint8)
