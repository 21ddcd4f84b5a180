"""Presentation times of multi-frame objects, from the first header source that makes sense."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medssl.readers._dicom_tags import Elements

# A frame is shown for at least 0.1 ms and at most ten minutes: anything else is a slip.
_SHORTEST_S, _LONGEST_S = 1e-4, 600.0


def frame_times_s(elements: Elements, n_frames: int) -> tuple[list[float] | None, tuple[str, ...]]:
    """Presentation times that begin with 0, and flags that name their source.

    Sources in order: FrameTime, FrameTimeVector, CineRate, RecommendedDisplayFrameRate (PS3.3
    C.7.6.5); the vector comes first where FrameIncrementPointer names it. The last two are rates
    for display, not measurements: the flag says so. A source with an impossible value is passed
    over and flagged.

    Returns:
        Times and flags ``frame_times_from=<keyword>``, ``bad_frame_time``; ``None`` and
        ``frame_times_unknown`` if no source helps.
    """
    sources = ["FrameTime", "FrameTimeVector", "CineRate", "RecommendedDisplayFrameRate"]
    if "1065" in elements.text("FrameIncrementPointer"):
        sources.insert(0, "FrameTimeVector")
    bad = False
    for keyword in sources:
        if not elements.text(keyword):
            continue
        times = _times(elements, keyword, n_frames)
        if times is not None:
            flags = ("bad_frame_time",) if bad else ()
            return times, (f"frame_times_from={keyword}", *flags)
        bad = True
    return None, ("frame_times_unknown", *(("bad_frame_time",) if bad else ()))


def _times(elements: Elements, keyword: str, n_frames: int) -> list[float] | None:
    if keyword == "FrameTimeVector":
        return _from_vector(elements.numbers(keyword), n_frames)
    numbers = elements.numbers(keyword, 1)
    if numbers is None or not math.isfinite(numbers[0]) or numbers[0] <= 0:
        return None
    step_s = numbers[0] / 1000 if keyword == "FrameTime" else 1 / numbers[0]
    if not _SHORTEST_S <= step_s <= _LONGEST_S:
        return None
    return [number * step_s for number in range(n_frames)]


def _from_vector(steps_ms: list[float] | None, n_frames: int) -> list[float] | None:
    """Increments in ms, one per frame; the first is the time before the first frame."""
    if steps_ms is None or len(steps_ms) != n_frames:
        return None
    steps_s = [step / 1000 for step in steps_ms[1:]]
    if not all(_SHORTEST_S <= step <= _LONGEST_S for step in steps_s):
        return None
    return list(accumulate(steps_s, initial=0.0))
