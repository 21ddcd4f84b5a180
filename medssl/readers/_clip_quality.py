"""Quality of 8-bit clips from their pixels: borders, still segments, cuts, out-of-body frames.

Everything is measured on every frame, thinned out to at most 64 x 64 pixels, so that a clip is
passed through once in pieces and takes no memory.

Out-of-body frames show faces, names and rooms, so endoscopy must not keep them. The detector
knows one thing: under white light tissue is red. Its limits: narrow-band and dye imaging count as
out of body; skin close to the lens and red cloth count as tissue. Measured on scenes and on real
endoscopy in docs/results/video.md. It reduces the risk; it proves nothing about a frame it passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Interval = tuple[int, int]
"""First frame, and the one behind the last."""

_THUMB = 64
# Video black is 16 of 255; noise of dark sensors stays below 24.
_BLACK = 24
_BORDER_SHARE = 0.01
# Grey levels between frames: frozen pictures differ by what coding adds, live ones by noise.
_STILL_LEVELS = 0.35
_STILL_FRAMES = 8
_CUT_LEVELS = 25.0
_CUT_FACTOR = 6.0
# Tissue: red above green by this factor (log), and not bluer than green by much.
_RED_OVER_GREEN = 0.2
_BLUE_OVER_GREEN = 0.1
_DARK = 0.12
_DARK_SHARE = 0.05
IN_BODY_SCORE = 0.7
_ENDOSCOPY_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class ClipFacts:
    """What one pass over a clip shows.

    Attributes:
        border_px: black rows and columns around the content: top, bottom, left, right.
        still: runs of frames that repeat the one before them.
        cuts: frames at which the scene changes at once.
        body_scores: share of tissue-like pixels per frame; NaN = too dark, or no colour clip.
        is_endoscopy: most frames look like tissue, or the header says so.
        out_of_body: runs of frames of an endoscopy that do not look like tissue, dark ones
            between them included; empty for any other clip.
    """

    border_px: tuple[int, int, int, int]
    still: tuple[Interval, ...]
    cuts: tuple[int, ...]
    body_scores: tuple[float, ...]
    is_endoscopy: bool
    out_of_body: tuple[Interval, ...]

    def flags(self) -> tuple[str, ...]:
        """``black_border=T,B,L,R`` (px), ``still=F``, ``out_of_body=F`` (shares), ``cuts=N``."""
        n = max(len(self.body_scores), 1)
        flags = []
        if any(self.border_px):
            flags.append("black_border=" + ",".join(map(str, self.border_px)))
        if self.still:
            flags.append(f"still={_share(self.still, n):.2f}")
        if self.cuts:
            flags.append(f"cuts={len(self.cuts)}")
        if self.out_of_body:
            flags.append(f"out_of_body={_share(self.out_of_body, n):.2f}")
        return tuple(flags)


def _share(runs: Sequence[Interval], n: int) -> float:
    return sum(b - a for a, b in runs) / n


class Changes:
    """Mean difference, in grey levels, of each frame from the one before; 0 for the first.

    Attributes:
        levels: of the frames so far.
    """

    def __init__(self) -> None:
        self.levels: list[float] = []
        self._last: npt.NDArray[np.uint8] | None = None

    def add(self, thumbs_TCHW: npt.NDArray[np.uint8]) -> None:
        """Take the next frames, as :func:`thumbnails` gives them."""
        first = thumbs_TCHW[:1] if self._last is None else self._last
        pairs = np.concatenate([first, thumbs_TCHW]).astype(np.float32)
        self.levels += np.abs(np.diff(pairs, axis=0)).mean(axis=(1, 2, 3)).tolist()
        self._last = thumbs_TCHW[-1:]


class ClipQuality:
    """Collects :class:`ClipFacts` from a clip that comes in pieces, in order.

    Example:
        >>> quality = ClipQuality()
        >>> quality.add(np.zeros((3, 10, 48, 64), np.uint8))
        >>> quality.facts().still
        ((1, 10),)
    """

    def __init__(self) -> None:
        self._bright_HW: npt.NDArray[np.uint8] | None = None
        self._changes = Changes()
        self._scores: list[float] = []

    def add(self, x_CTHW: npt.NDArray[np.uint8]) -> None:
        """Take the next frames: uint8, grey (C = 1) or RGB (C = 3)."""
        bright_HW = x_CTHW.max(axis=(0, 1))
        known = self._bright_HW
        self._bright_HW = bright_HW if known is None else np.maximum(known, bright_HW)
        thumbs_TCHW = thumbnails(x_CTHW)
        self._changes.add(thumbs_TCHW)
        self._scores += body_scores(thumbs_TCHW).tolist()

    def facts(self, modality: str = "") -> ClipFacts:
        """What the frames so far show; ``modality`` ES is endoscopy whatever the pixels say."""
        assert self._bright_HW is not None
        scores = np.array(self._scores)
        endoscopy = modality == "ES" or looks_like_endoscopy(scores)
        return ClipFacts(
            border_px=border_px(self._bright_HW),
            still=still_segments(self._changes.levels),
            cuts=cuts(self._changes.levels),
            body_scores=tuple(self._scores),
            is_endoscopy=endoscopy,
            out_of_body=out_of_body(scores) if endoscopy else (),
        )


def thumbnails(x_CTHW: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(T, C, h, w): every k-th pixel, at most 64 x 64; averages would hide sensor noise."""
    step_h, step_w = (max(-(-n // _THUMB), 1) for n in x_CTHW.shape[2:])
    thin = x_CTHW[:, :, step_h // 2 :: step_h, step_w // 2 :: step_w]
    return np.ascontiguousarray(thin.swapaxes(0, 1))


def border_px(bright_HW: npt.NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Black rows and columns (top, bottom, left, right) of the brightest value per pixel.

    A row counts as content when more than 1 % of it is ever brighter than video black; letters
    in the border are content. A clip that is black everywhere has no border.
    """
    lit_HW = bright_HW > _BLACK
    height, width = lit_HW.shape
    rows = np.flatnonzero(lit_HW.mean(axis=1) > _BORDER_SHARE)
    columns = np.flatnonzero(lit_HW.mean(axis=0) > _BORDER_SHARE)
    if not len(rows) or not len(columns):
        return 0, 0, 0, 0
    top, left = int(rows[0]), int(columns[0])
    return top, height - 1 - int(rows[-1]), left, width - 1 - int(columns[-1])


def still_segments(changes: Sequence[float]) -> tuple[Interval, ...]:
    """Runs of at least 8 frames that repeat the one before.

    ``changes[t]`` is the mean difference in grey levels from frame t - 1 to frame t; that of the
    first frame has no meaning.
    """
    still = np.array(changes) < _STILL_LEVELS
    still[:1] = False
    return tuple(run for run in _runs(still) if run[1] - run[0] >= _STILL_FRAMES)


def cuts(changes: Sequence[float]) -> tuple[int, ...]:
    """Frames that differ from the one before far more than frames of the clip do."""
    steps = np.array(changes)
    if len(steps) < 3:
        return ()
    usual = float(np.median(steps[1:]))
    jump = (steps > _CUT_LEVELS) & (steps > _CUT_FACTOR * usual)
    jump[0] = False
    return tuple(np.flatnonzero(jump).tolist())


def body_scores(frames_TCHW: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Share of the lit pixels of each RGB frame that have the colour of tissue.

    NaN for frames of which less than 5 % is lit, and for grey clips.
    """
    if frames_TCHW.shape[1] != 3:
        return np.full(len(frames_TCHW), np.nan)
    r, g, b = (frames_TCHW[:, c].astype(np.float64) / 255 + 0.02 for c in range(3))
    lit = np.maximum(np.maximum(r, g), b) > _DARK + 0.02
    tissue = (np.log(r / g) > _RED_OVER_GREEN) & (np.log(b / g) < _BLUE_OVER_GREEN)
    n_lit = lit.sum(axis=(1, 2)).astype(np.float64)
    enough = n_lit > _DARK_SHARE * lit[0].size
    return np.where(enough, (tissue & lit).sum(axis=(1, 2)) / np.maximum(n_lit, 1), np.nan)


def looks_like_endoscopy(scores: npt.NDArray[np.float64]) -> bool:
    """Whether most frames that are not dark look like tissue."""
    seen = scores[~np.isnan(scores)]
    return bool(len(seen)) and float((seen >= IN_BODY_SCORE).mean()) >= _ENDOSCOPY_SHARE


def out_of_body(scores: npt.NDArray[np.float64]) -> tuple[Interval, ...]:
    """Runs of frames that do not look like tissue; dark ones belong to the run around them."""
    outside = scores < IN_BODY_SCORE
    known = np.flatnonzero(~np.isnan(scores))
    if not len(known):
        return ()
    # A dark frame is outside if the last or the next frame with light is: doubt counts as risk.
    places = np.arange(len(scores))
    before = known[np.clip(np.searchsorted(known, places, side="right") - 1, 0, None)]
    after = known[np.clip(np.searchsorted(known, places), None, len(known) - 1)]
    return _runs(outside[before] | outside[after])


def _runs(mask: npt.NDArray[np.bool_]) -> tuple[Interval, ...]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return tuple((int(a), int(b)) for a, b in edges.reshape(-1, 2))
