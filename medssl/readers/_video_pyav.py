"""PyAV: the reference backend. Frames are matched by presentation time; a miss is an error."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError
from medssl.readers._video_decode import Pictures, Source, opened, seek
from medssl.readers._video_index import VideoIndex

if TYPE_CHECKING:
    from av import VideoFrame


def read_frames(source: Source, index: VideoIndex, numbers: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Frames (T, H, W, C) as shown, in the order asked for.

    Raises:
        ReadError: ``corrupt_frames`` for a damaged frame, ``frame_missing`` for one that the
            decoder never gives, ``frame_size_changes``, ``bad_container``.
    """
    taken = _Taken(index, numbers)
    with _Player(source, index) as player:
        if index.in_order:
            _take_in_order(player, taken)
        else:
            for run in _runs(index, sorted(taken.places)):
                _take_run(player, run, taken)
    taken.check()
    return taken.frames_THWC


class _Player:
    """The open file; starts anywhere."""

    def __init__(self, source: Source, index: VideoIndex) -> None:
        self._source, self._index = source, index
        self._stack = ExitStack()
        self._fresh = False

    def __enter__(self) -> _Player:
        self._open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def start(self, tick: int | None) -> Pictures:
        """Pictures from the key frame at this time, or a bit before; ``None`` = the first.

        Not every container finds its place: the caller checks where it landed.
        """
        if tick is None and not self._fresh:
            self._open()
        self._fresh = False
        if tick is not None and not seek(self._container, self._stream, tick):
            self._open()
        return Pictures(self._container, self._stream)

    def _open(self) -> None:
        self._stack.close()
        manager = opened(self._source, self._index.container, self._index.stream)
        self._container, stream = self._stack.enter_context(manager)
        if stream is None:
            raise ReadError("frame_missing", "the video stream is gone")
        self._stream = stream
        self._fresh = True


class _Taken:
    """The frames asked for, as they come in."""

    def __init__(self, index: VideoIndex, numbers: Sequence[int]) -> None:
        self.index = index
        channels, _, height, width = index.shape_CTHW
        self.frames_THWC = np.empty((len(numbers), height, width, channels), np.uint8)
        self.places: dict[int, list[int]] = {}
        for place, number in enumerate(numbers):
            self.places.setdefault(number, []).append(place)
        self.missing = set(self.places)
        self.damaged: set[int] = set()

    def put(self, number: int, frame: VideoFrame) -> None:
        if number not in self.missing:
            return
        if (frame.height, frame.width) != (self.index.height, self.index.width):
            raise ReadError("frame_size_changes", f"frame {number} has another size")
        self.missing.discard(number)
        form = "gray" if self.index.channels == 1 else "rgb24"
        pixels = np.asarray(frame.to_ndarray(format=form), np.uint8)
        x_HWC = pixels.reshape(frame.height, frame.width, -1)
        self.frames_THWC[self.places[number]] = self.index.shown(x_HWC)

    def check(self) -> None:
        damaged = self.damaged & self.missing
        if damaged:
            what = f"frame {min(damaged)} is damaged, or made from a damaged one"
            raise ReadError("corrupt_frames", what, fix="copy the video again from its source")
        if self.missing:
            what = f"frame {min(self.missing)} is in the index, the decoder does not give it"
            raise ReadError("frame_missing", what, fix="index the archive again")


def _take_in_order(player: _Player, taken: _Taken) -> None:
    pictures = player.start(None)
    for number, (_, frame, damaged) in enumerate(pictures):
        if pictures.failures or damaged:
            taken.damaged |= taken.missing  # what follows can no longer be counted
            return
        taken.put(number, frame)
        if not taken.missing:
            return


def _runs(index: VideoIndex, numbers: list[int]) -> list[list[int]]:
    """Numbers that one pass serves: of one group of pictures or of neighbouring ones."""
    groups = np.searchsorted(index.keys, index.ticks[numbers], side="right")
    cuts = np.flatnonzero(np.diff(groups) > 2) + 1
    return [run.tolist() for run in np.split(np.array(numbers), cuts)]


def _take_run(player: _Player, run: list[int], taken: _Taken) -> None:
    """Decode from the last key frame before the run; if that fails from earlier ones."""
    index = taken.index
    n_before = int(np.searchsorted(index.keys, index.ticks[run[0]], side="right"))
    starts = [int(key) for key in index.keys[1:n_before][-2:][::-1]] if index.keys_hold else []
    for start in [*starts, None]:
        _take_pass(player, start, run, taken)
        missing = taken.missing.intersection(run)
        # Behind the key frame of an open group a strict decoder misses references that no
        # picture uses: only what fails from further back as well is damaged.
        if not missing or (missing <= taken.damaged and not index.open_gop):
            return


def _take_pass(player: _Player, start: int | None, run: list[int], taken: _Taken) -> None:
    ticks = taken.index.ticks
    number_of = {int(ticks[number]): number for number in run if number in taken.missing}
    waiting = set(number_of)
    pictures = player.start(start)
    for tick, frame, damaged in pictures:
        if tick is None or (start is not None and tick < start):
            continue
        if start is not None and (tick > start or not frame.key_frame):
            return  # the container did not find the key frame
        start = None
        if tick in waiting and not damaged:
            waiting.discard(tick)
            taken.put(number_of[tick], frame)
        if not waiting or tick > max(waiting):
            break
    taken.damaged |= {number_of[tick] for tick in waiting & pictures.damaged}
