"""What random access to a video needs, read from its packets once and kept in the catalog."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

Ticks = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoIndex:
    """Shown frames of one video stream in the order of presentation.

    Attributes:
        container: FFmpeg's name of the demuxer; codec: of the decoder.
        stream: number of the stream in the file.
        height, width, channels: of a stored frame, before ``turn``.
        turn: how a player shows it: axes swapped, then mirrored left-right, then upside down.
        tick_s: length of a tick; ``None`` = unknown, ticks then only count frames.
        ticks: presentation time of every shown frame.
        keys: presentation times at which decoding can start, shown or not.
        in_order: times in the packets are not those of the frames: frames are counted instead.
        open_gop: pictures shown before a key frame need the group before it.
        keys_hold: decoding from a key in the middle gives that very frame first.
        trimmed: an edit list or hidden packets: what is stored is not all shown.
    """

    container: str
    codec: str
    stream: int
    height: int
    width: int
    channels: int
    turn: tuple[bool, bool, bool]
    tick_s: Fraction | None
    ticks: Ticks
    keys: Ticks
    in_order: bool
    open_gop: bool
    keys_hold: bool
    trimmed: bool

    @property
    def shape_CTHW(self) -> tuple[int, int, int, int]:
        """Shape of the clip as shown."""
        height, width = (self.height, self.width)[:: -1 if self.turn[0] else 1]
        return self.channels, len(self.ticks), height, width

    @property
    def frame_times_s(self) -> tuple[float, ...] | None:
        """Presentation times in seconds after the first shown frame; ``None`` = unknown."""
        if self.tick_s is None:
            return None
        n, d = self.tick_s.numerator, self.tick_s.denominator
        return tuple(((self.ticks - self.ticks[0]) * n / d).tolist())

    def to_json(self) -> dict[str, Any]:
        """JSON-able; steady frame rates take a few bytes."""
        tick_s = None
        if self.tick_s is not None:
            tick_s = [self.tick_s.numerator, self.tick_s.denominator]
        lists = {"ticks": _pack(self.ticks), "keys": _pack(self.keys)}
        return {**asdict(self), "turn": list(self.turn), "tick_s": tick_s, **lists}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> VideoIndex:
        """Inverse of :meth:`to_json`."""
        turn = (bool(content["turn"][0]), bool(content["turn"][1]), bool(content["turn"][2]))
        tick_s = None if content["tick_s"] is None else Fraction(*content["tick_s"])
        lists = {"ticks": _unpack(content["ticks"]), "keys": _unpack(content["keys"])}
        return cls(**{**content, "turn": turn, "tick_s": tick_s, **lists})

    def shown(self, x_HWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A stored frame as a player shows it."""
        swap, mirror, flip = self.turn
        x_HWC = x_HWC.swapaxes(0, 1) if swap else x_HWC
        return x_HWC[:: -1 if flip else 1, :: -1 if mirror else 1]


def ticks_of(values: Iterable[int]) -> Ticks:
    """Sorted ticks."""
    return np.array(sorted(values), dtype=np.int64)


def _pack(ticks: Ticks) -> list[list[int]]:
    """Runs of equal steps: [[step, count], ...]; the first step starts at zero.

    >>> _pack(np.array([5, 7, 9, 11, 20]))
    [[5, 1], [2, 3], [9, 1]]
    """
    steps = np.diff(ticks, prepend=0)
    starts = np.flatnonzero(np.diff(steps, prepend=steps[:1] - 1)) if len(steps) else steps
    counts = np.diff(starts, append=len(steps))
    return [[int(steps[s]), int(n)] for s, n in zip(starts, counts, strict=True)]


def _unpack(runs: list[list[int]]) -> Ticks:
    pairs = np.array(runs, dtype=np.int64).reshape(-1, 2)
    return np.cumsum(np.repeat(pairs[:, 0], pairs[:, 1]))
