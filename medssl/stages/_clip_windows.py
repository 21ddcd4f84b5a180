"""Classes of whole videos: the mean over clips that are spread evenly over them.

At most ``CLIPS`` clips, as training draws them but at the middle stride, each over all of the
picture. A shot that is shorter than a clip holds its last frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import nn

from medssl.archive.clips import ClipPlan, ClipStream, plan_clip, prepared_frames
from medssl.archive.store import Entry, Store
from medssl.core.clips import Numbers
from medssl.core.errors import ReadError, ResourceError
from medssl.core.sample import Sample
from medssl.core.viewspec import ClipSpec
from medssl.encoders.card import Card
from medssl.inference.sliding import predict_probabilities
from medssl.readers._base import Found
from medssl.readers._dispatch import sample
from medssl.stages._predict_case import Window, check_modality
from medssl.views.clips import spread_moments

CLIPS = 10


class Clip(NamedTuple):
    """A prepared video.

    Attributes:
        frames: (C, T, H, W) float32 of some frames, by ascending number.
        times_s, shots: as those of :class:`medssl.archive.store.Entry`.
        fill: (C,) value of padding.
    """

    frames: Callable[[Numbers], npt.NDArray[np.float32]]
    times_s: npt.NDArray[np.float64] | None
    shots: Numbers
    fill: tuple[float, ...]


def clip_probabilities(
    model: nn.Module, clip: Clip, card: Card, window: Window
) -> npt.NDArray[np.float32]:
    """Class probabilities (K,) of a video.

    Raises:
        ReadError: ``times_unknown``, ``out_of_memory``; the frames cannot be read.
    """
    each = [
        predict_probabilities(
            model,
            x_CTHW,
            patch_size=card.patch_size,
            overlap=window.overlap,
            batch_windows=window.batch_windows,
            device=window.device,
            fill=clip.fill,
        )
        for x_CTHW in clip_pieces(clip, card.clip or ClipSpec(), card.patch_size[0])
    ]
    return np.asarray(np.mean(each, axis=0, dtype=np.float64), dtype=np.float32)


def clip_pieces(clip: Clip, spec: ClipSpec, count: int) -> Iterator[npt.NDArray[np.float32]]:
    """Clips (C, count, H, W) that stand for a whole video.

    Raises:
        ReadError: ``times_unknown``; the frames cannot be read.
    """
    if clip.times_s is None:
        raise ReadError("times_unknown", "the video does not say when its frames were shown")
    if spec.short == "refuse":  # there is no other record to take: a short video counts as it is
        spec = spec.model_copy(update={"short": "hold"})
    for numbers_T in spread_moments(clip.times_s, clip.shots, count, spec, CLIPS):
        own, place_T = np.unique(numbers_T, return_inverse=True)
        yield clip.frames(own)[:, place_T]


def stored_clip(store: Store, entry: Entry) -> Clip:
    """A video of the store."""

    def frames(numbers: Numbers) -> npt.NDArray[np.float32]:
        first, last = int(numbers[0]), int(numbers[-1])
        x_CTHW = store.read(entry.key, (first, 0, 0), (last + 1, *entry.shape[2:]))
        return x_CTHW[:, numbers - first]

    return Clip(frames, entry.times_s, entry.shots, entry.fill)


def file_clip(found: Found, card: Card) -> Clip:
    """A video file, as the store would have it: decoded once for its cuts, then where asked for.

    Raises:
        ReadError: it cannot be read.
    """
    clip, plan = planned(found, card)
    stream = ClipStream(clip, plan)
    for _ in stream.pieces(1):
        pass
    meta = stream.meta
    scale = np.float32(255 if plan.scale.exact else 1)

    def frames(numbers: Numbers) -> npt.NDArray[np.float32]:
        return np.asarray(np.divide(prepared_frames(clip, plan, numbers), scale, dtype=np.float32))

    return Clip(frames, plan.times_s, np.array(meta["shots"]).reshape(-1, 2), tuple(meta["fill"]))


def planned(found: Found, card: Card) -> tuple[Sample, ClipPlan]:
    """A video file, and how it is prepared for a model.

    Raises:
        ReadError: it cannot be read, or is of another modality.
    """
    check_modality(card, (found,))
    clip = sample(found).assumed(card.modality)
    try:
        return clip, plan_clip(clip, found.dtype, card.contract)
    except ResourceError as error:
        raise ReadError("too_large", error.what, fix=error.fix) from error
