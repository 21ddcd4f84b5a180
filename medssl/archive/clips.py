"""A clip on its way into the store, in pieces: six hours of video take no more memory than one.

Only the frames that the contract keeps are decoded. Ultrasound is cut to the box of its sector,
and what lies outside the sector becomes 0, which is air; where no sector stands out the picture
stays whole. Cuts are found on the prepared frames.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.clips import (
    FrameScale,
    Numbers,
    Times,
    frame_shape,
    kept_frames,
    resized_frames,
    shots_of,
)
from medssl.core.errors import ReadError
from medssl.core.preprocess import Contract, as_channels
from medssl.core.sample import Sample
from medssl.readers._clip_quality import Changes, cuts, thumbnails
from medssl.readers._us_sector import Mask, sampled_frames, sector_mask

# Decoded pixels of one piece.
PIECE_BYTES = 128 * 2**20
# Sector and grey levels are looked for in frames of at most about so many pixels per side.
_LOOK_PX = 1080


@dataclass(frozen=True, eq=False)
class ClipPlan:
    """How one clip is prepared.

    Attributes:
        numbers: frames of the file that are kept.
        times_s: when they were shown, from the first one on; ``None`` = unknown.
        box: top, bottom, left, right of what is kept of a frame.
        sector_HW: of the box; ``None`` = all of it.
        size_HW: of a prepared frame.
        channels: of a prepared frame.
        scale: of the values.
    """

    numbers: Numbers
    times_s: Times | None
    box: tuple[int, int, int, int]
    sector_HW: Mask | None
    size_HW: tuple[int, int]
    channels: int
    scale: FrameScale

    def spacing_mm(self, of_file_mm: tuple[float, ...] | None) -> tuple[float, ...] | None:
        """Of a prepared pixel, (H, W)."""
        if of_file_mm is None:
            return None
        top, bottom, left, right = self.box
        old, new = (bottom - top, right - left), self.size_HW
        return tuple(mm * a / b for mm, a, b in zip(of_file_mm, old, new, strict=True))


def plan_clip(sample: Sample, stored: npt.DTypeLike, contract: Contract) -> ClipPlan:
    """Decide how a clip is prepared; decodes a few frames where pixels have a say.

    Args:
        sample: the clip.
        stored: type of its values in the file.
        contract: what is asked for.

    Raises:
        ReadError: ``times_unknown``, ``constant``, ``channel_mismatch``, or what decoding raises.
    """
    channels, total, height, width = sample.shape
    times_s = sample.frame_times_s
    numbers = kept_frames(times_s, total, contract.fps)
    stored = np.dtype(stored)
    rule = contract.picture_rule(sample.modality, stored)
    step = -(-min(height, width) // _LOOK_PX)
    few = np.zeros((channels, 0, 1, 1), dtype=stored)
    if sample.modality == "US" or rule.kind == "percentile" or stored.kind == "f":
        few = _thin_frames(sample, numbers[sampled_frames(len(numbers))], step)
    mask = sector_mask(few) if sample.modality == "US" else None
    box, sector = _sector_box(mask, step, (height, width))
    as_channels(np.zeros((channels, 1, 1), dtype=np.float32), contract.picture_channels)
    kept_s = None if times_s is None else np.asarray(times_s)[numbers]
    return ClipPlan(
        numbers=numbers,
        times_s=None if kept_s is None else kept_s - kept_s[0],
        box=box,
        sector_HW=sector,
        size_HW=frame_shape((box[1] - box[0], box[3] - box[2]), contract.short_side_px),
        channels=contract.picture_channels or channels,
        scale=FrameScale.of(few, rule, stored),
    )


def prepared_frames(
    sample: Sample, plan: ClipPlan, places: Numbers | None = None
) -> npt.NDArray[Any]:
    """Frames as the contract wants them, (C, T, H, W): 8 bits where that is exact, else float16.

    Args:
        sample: the clip.
        plan: of it.
        places: in ``plan.numbers``; ``None`` = all.

    Raises:
        ReadError: they cannot be decoded.
    """
    numbers = plan.numbers if places is None else plan.numbers[places]
    x_CTHW = sample.frames(numbers.tolist())
    top, bottom, left, right = plan.box
    x_CTHW = x_CTHW[..., top:bottom, left:right]
    if plan.sector_HW is not None:
        x_CTHW = np.where(plan.sector_HW, x_CTHW, np.zeros((), x_CTHW.dtype))
    x_CTHW = resized_frames(x_CTHW, plan.size_HW)
    if plan.channels != len(x_CTHW):
        flat = as_channels(x_CTHW.reshape(len(x_CTHW), -1, 1).astype(np.float32), plan.channels)
        rounded = np.rint(flat) if plan.scale.exact else flat
        x_CTHW = rounded.reshape(plan.channels, *x_CTHW.shape[1:]).astype(x_CTHW.dtype)
    return x_CTHW if plan.scale.exact else plan.scale(x_CTHW).astype(np.float16)


class ClipStream:
    """The pieces of one prepared clip, in order, and what they show once all have passed.

    Attributes:
        shape: (C, T, H, W).
        dtype: uint8 or float16.
    """

    def __init__(self, sample: Sample, plan: ClipPlan) -> None:
        self._sample, self._plan = sample, plan
        self.shape: tuple[int, int, int, int] = (
            plan.channels, len(plan.numbers), *plan.size_HW,
        )  # fmt: skip
        self.dtype = np.dtype(np.uint8 if plan.scale.exact else np.float16)
        self._changes = Changes()
        self._digest = hashlib.sha256(f"clip {self.shape}".encode())
        self._low, self._high = np.inf, -np.inf
        self._lit_HW = np.zeros(plan.size_HW, dtype=bool)

    def pieces(self, multiple: int) -> Iterator[npt.NDArray[Any]]:
        """(C, t, H, W) each, t a multiple of that but for the last one.

        Raises:
            ReadError: what decoding raises; ``nan_voxels``, ``constant``.
        """
        held: list[npt.NDArray[Any]] = []
        count = 0
        for piece in self._decoded():
            held.append(piece)
            count += piece.shape[1]
            if count >= multiple:
                whole = np.concatenate(held, axis=1)
                ready = count // multiple * multiple
                yield whole[:, :ready]
                held, count = [whole[:, ready:]], count - ready
        if count:
            yield np.concatenate(held, axis=1)
        if self._low == self._high:
            raise ReadError("constant", "all pixels of the clip have one value")

    @property
    def meta(self) -> dict[str, Any]:
        """What the store keeps beside the frames."""
        plan, sample = self._plan, self._sample
        scale = 255.0 if plan.scale.exact else 1.0
        cut_at = cuts(self._changes.levels)
        shots = shots_of(plan.times_s, len(plan.numbers), cut_at)
        air = float(plan.scale.air)
        spacing_mm = plan.spacing_mm(sample.geometry.spacing_mm)
        return {
            "kind": "clip",
            "affine": None,
            "spacing_mm": None if spacing_mm is None else list(spacing_mm),
            "air": [air] * plan.channels,
            "fill": [min(self._low / scale, air)] * plan.channels,
            "modality": sample.modality,
            "times_s": None if plan.times_s is None else plan.times_s.tobytes(),
            "shots": shots.ravel().tolist(),
            "tissue": self._tissue(),
            "pixel_hash": self._digest.hexdigest(),
        }

    def _decoded(self) -> Iterator[npt.NDArray[Any]]:
        for places in _few_at_a_time(self._sample, np.arange(len(self._plan.numbers))):
            piece = prepared_frames(self._sample, self._plan, places)
            self._look_at(piece)
            yield piece

    def _look_at(self, x_CTHW: npt.NDArray[Any]) -> None:
        if not np.isfinite(x_CTHW).all():
            raise ReadError("nan_voxels", "pixels are NaN or infinite")
        scale = self._plan.scale
        self._low = min(self._low, float(x_CTHW.min()))
        self._high = max(self._high, float(x_CTHW.max()))
        air = scale.air * (255 if scale.exact else 1)
        self._lit_HW |= (x_CTHW > air).any((0, 1))
        thumbs = thumbnails(x_CTHW)
        self._changes.add(thumbs if scale.exact else scale.levels(thumbs))
        self._digest.update(np.ascontiguousarray(np.moveaxis(x_CTHW, 1, 0)).data)

    def _tissue(self) -> list[int]:
        """Box of the pixels that any frame shows above air, through all time."""
        total = len(self._plan.numbers)
        rows, columns = (np.flatnonzero(self._lit_HW.any(axis)) for axis in (1, 0))
        if not len(rows):
            return [0, 0, 0, total, *self._lit_HW.shape]
        low, high = (0, rows[0], columns[0]), (total, rows[-1] + 1, columns[-1] + 1)
        return [int(n) for n in (*low, *high)]


def _thin_frames(sample: Sample, numbers: Numbers, step: int) -> npt.NDArray[Any]:
    """Every ``step``-th pixel of some frames."""
    pieces = _few_at_a_time(sample, numbers)
    return np.concatenate([sample.frames(p.tolist())[..., ::step, ::step] for p in pieces], axis=1)


def _few_at_a_time(sample: Sample, numbers: Numbers) -> list[Numbers]:
    """Frames in groups of at most ``PIECE_BYTES`` when they are decoded."""
    channels, _, height, width = sample.shape
    size = max(PIECE_BYTES // (channels * height * width * sample.itemsize), 1)
    return [numbers[first : first + size] for first in range(0, len(numbers), size)]


def _sector_box(
    mask: Mask | None, step: int, shape_HW: tuple[int, int]
) -> tuple[tuple[int, int, int, int], Mask | None]:
    """The box of a sector in full pixels, and the sector inside of it."""
    if mask is None:
        return (0, shape_HW[0], 0, shape_HW[1]), None
    whole = mask.repeat(step, 0).repeat(step, 1)[: shape_HW[0], : shape_HW[1]]
    rows, columns = (np.flatnonzero(whole.any(axis)) for axis in (1, 0))
    box = (int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)
    return box, whole[box[0] : box[1], box[2] : box[3]]
