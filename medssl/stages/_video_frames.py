"""Single frames of stored videos: as training samples, and as what an encoder makes of them all.

T frames, D features, K tools.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medssl.archive.labelled_videos import LabelledVideos, VideoCase
from medssl.archive.store import Entry, Store
from medssl.core.clips import kept_frames
from medssl.core.phases import NONE
from medssl.core.preprocess import Contract
from medssl.core.seeding import generator
from medssl.core.viewspec import ViewSpec
from medssl.encoders._base import Encoder
from medssl.stages._data import MAX_AUTO_CROP_PX, ViewDataset, accepted
from medssl.stages._kinds import Stored
from medssl.training.data import record_at
from medssl.views.source import Source

# Frames that pass the encoder at once.
_FRAMES = 16


def labels_of(one: Stored, labelled: LabelledVideos, contract: Contract) -> npt.NDArray[np.int64]:
    """Phase of each stored frame, -1 = none.

    Raises:
        UsageError: two phases of one frame.
    """
    rows_T = _rows(one, contract)
    track = video_of(one).track
    assert track is not None  # the caller chose labelled videos
    return track.phases(rows_T, labelled.names)


def tools_of(
    one: Stored, labelled: LabelledVideos, contract: Contract
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """(T, K) tools in view of each stored frame, and (T,) whether the frame is labelled."""
    rows_T = _rows(one, contract)
    track = video_of(one).track
    assert track is not None  # the caller chose labelled videos
    return track.tools(rows_T, labelled.names), rows_T != NONE


def video_of(one: Stored) -> VideoCase:
    """The case as a video."""
    assert isinstance(one.case, VideoCase)
    return one.case


def _rows(one: Stored, contract: Contract) -> npt.NDArray[np.int64]:
    """Row of the labels for each stored frame, by its number in the file or by its time."""
    [found] = one.case.records()
    times_s = found.geometry.frame_times_s
    numbers = kept_frames(times_s, found.shape[1], contract.fps)
    track = video_of(one).track
    assert track is not None and one.entry.times_s is not None  # a rate was asked for
    return track.rows(numbers, one.entry.times_s)


@dataclass(frozen=True, eq=False)
class FrameRecords:
    """Labelled frames of several videos as the records that views are cut from.

    Attributes:
        place_N2: video and frame of each record.
    """

    store: Store
    entries: Sequence[Entry]
    place_N2: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.place_N2)

    @cached_property
    def patients(self) -> npt.NDArray[np.int64]:
        """See :class:`medssl.views.pairs.Sources`: the number of the video."""
        return self.place_N2[:, 0]

    @cached_property
    def pictures(self) -> npt.NDArray[np.bool_]:
        """See :class:`medssl.views.pairs.Sources`."""
        return np.ones(len(self), dtype=bool)

    @cached_property
    def first(self) -> npt.NDArray[np.int64]:
        """(V + 1,) number of each video's first record, and the number of records."""
        videos = np.arange(len(self.entries) + 1)
        return np.searchsorted(self.place_N2[:, 0], videos)

    def source(self, record: int) -> Source:
        """See :class:`medssl.views.pairs.Sources`."""
        video, frame = (int(n) for n in self.place_N2[record])
        entry = self.entries[video]

        def read(start: tuple[int, ...], stop: tuple[int, ...]) -> npt.NDArray[np.float32]:
            return self.store.read(entry.key, (frame, *start[1:]), (frame + 1, *stop[1:]))

        return Source(
            read=read,
            shape_DHW=(1, *entry.shape[2:]),
            spacing_mm=(1.0, *(entry.spacing_mm or (1.0, 1.0))[-2:]),
            air=entry.air,
            fill=entry.fill,
            modality=entry.modality,
            tissue=np.array([[0, *entry.tissue[0, 1:]], [1, *entry.tissue[1, 1:]]]),
        )


class FrameDataset(ViewDataset):
    """A random labelled frame of each video in turn: long videos count no more than short ones."""

    records: FrameRecords  # type: ignore[assignment]

    def __init__(
        self, records: FrameRecords, spec: ViewSpec, seed: int, targets: npt.NDArray[Any]
    ) -> None:
        super().__init__(records, spec, seed, targets=targets)  # type: ignore[arg-type]

    def __getitem__(self, position: int) -> dict[str, Any]:
        rng = generator(self.seed, "view", position)
        counts = np.diff(self.records.first)
        filled = np.flatnonzero(counts)
        video = filled[record_at(self.seed, position, len(filled))]
        return self.sample(int(self.records.first[video] + rng.integers(counts[video])), rng)


def frame_crop(entries: Sequence[Entry], encoder: Encoder) -> tuple[int, ...]:
    """Sides of the median frame, rounded down to what the encoder takes where they are larger.

    The shorter side is at most ``MAX_AUTO_CROP_PX``, the other one keeps the aspect.
    """
    sides = np.median([entry.shape[2:] for entry in entries], axis=0)
    sides = sides * min(1.0, MAX_AUTO_CROP_PX / sides.min())
    pairs = zip(sides, encoder.size_multiple, strict=True)
    whole = tuple(max(int(side // multiple), 1) * multiple for side, multiple in pairs)
    return accepted(whole, encoder)


def centre(
    x_CTHW: npt.NDArray[np.float32], crop: tuple[int, ...], fill: Sequence[float]
) -> npt.NDArray[np.float32]:
    """The middle of each frame; smaller frames are filled up evenly."""
    out = np.empty((*x_CTHW.shape[:2], *crop), dtype=np.float32)
    out[:] = np.array(fill, dtype=np.float32)[:, None, None, None]
    into, out_of = [], []
    for have, want in zip(x_CTHW.shape[2:], crop, strict=True):
        shared = min(have, want)
        into.append(slice((want - shared) // 2, (want - shared) // 2 + shared))
        out_of.append(slice((have - shared) // 2, (have - shared) // 2 + shared))
    out[:, :, into[0], into[1]] = x_CTHW[:, :, out_of[0], out_of[1]]
    return out


def stored_frames(
    store: Store, entry: Entry, crop: tuple[int, ...], count: int = _FRAMES
) -> Iterator[torch.Tensor]:
    """All frames of a video, (t, C, H, W) at a time."""
    _, total, *sides = entry.shape
    for start in range(0, total, count):
        stop = min(start + count, total)
        x_CTHW = store.read(entry.key, (start, 0, 0), (stop, *sides))
        yield torch.from_numpy(centre(x_CTHW, crop, entry.fill)).transpose(0, 1)


@torch.inference_mode()
def features(
    encoder: Encoder, frames: Iterator[torch.Tensor], device: torch.device
) -> npt.NDArray[np.float32]:
    """(T, D) global vectors of all frames."""
    found = [encoder(x.to(device)).global_BD.float().cpu().numpy() for x in frames]
    return np.concatenate(found)
