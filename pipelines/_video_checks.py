"""Numbered videos through every library, and the real clips."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError
from medssl.core.seeding import generator
from medssl.readers import video
from medssl.readers._base import Found, Policy
from medssl.readers._dispatch import group_headers, load
from medssl.readers._video_rules import LIBRARY_BYTES
from pipelines._video_files import KINDS, encode, numbers_of, trim

Made = dict[str, tuple[Path, list[int]]]
BACKENDS = ("pyav", "decord", "torchcodec")
CALLS, FRAMES = 5, 16


def made_kinds(folder: Path) -> Iterator[tuple[str, tuple[Path, list[int]]]]:
    """Name -> file, and the numbers that a player shows."""
    for kind, how in KINDS.items():
        encode(folder / kind, **how)
        yield kind, (folder / kind, list(range(60)))
    trim(folder / "b_frames.mp4", folder / "trimmed.mp4", 5)
    yield "trimmed.mp4 (edit list)", (folder / "trimmed.mp4", list(range(5, 60)))
    encode(folder / "rotated.mp4", rotation=90)
    yield "rotated.mp4 (90 degrees)", (folder / "rotated.mp4", list(range(60)))


def found_in(path: Path, backend: Any = "pyav") -> Found:
    """The record of a video file."""
    found, _ = group_headers([video.header(path)], Policy(video=backend))
    return found[0]


def backend_rows(made: Made) -> list[list[str]]:
    """File, container and codec, and what each library does."""
    rows = []
    for kind, (path, expected) in made.items():
        index = found_in(path).options["index"]
        cells = [_cell(path, expected, backend) for backend in BACKENDS]
        rows.append([kind, f"{index['container']} / {index['codec']}", *cells])
    return rows


def _cell(path: Path, expected: list[int], backend: str) -> str:
    found = found_in(path, backend)
    said = [f for f in found.flags if f.startswith("backend_refused")]
    if not said:
        return _compared(path, found, expected)
    reason = said[0].rpartition(":")[2]
    forced = {"backend": backend, "library_bytes": LIBRARY_BYTES.get(backend, 0)}
    outcome = _compared(path, replace(found, options=found.options | forced), expected)
    return f"refused: {reason} ({outcome})"


def _compared(path: Path, found: Found, expected: list[int]) -> str:
    reference = load(found_in(path))
    wrong = 0
    for call in range(CALLS):
        rng = generator(call, "frames")
        numbers = rng.integers(len(expected), size=FRAMES).tolist()
        try:
            frames = load(found, numbers)
        except ReadError as error:
            return f"raises {error.reason}"
        upright = np.rot90(frames, -1, (2, 3)) if path.stem == "rotated" else frames
        for place, (number, seen) in enumerate(zip(numbers, numbers_of(upright), strict=True)):
            other = differs(frames[:, place], reference[:, number])
            wrong += other or seen != expected[number]
    return "identical" if wrong == 0 else f"{wrong} of {CALLS * FRAMES} frames wrong"


def differs(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> bool:
    """Whether any pixel does."""
    return not np.array_equal(x, y)


def real_rows(data: Path) -> list[list[object]]:
    """Set, container and codec, number of clips, and whether they hold the frames listed."""
    rows: list[list[object]] = []
    for name in ("lung_ultrasound", "lung_ultrasound_nc"):
        table = data / name / "labels.csv"
        if not table.exists():
            continue
        with table.open(encoding="utf-8") as file:
            listed = list(csv.DictReader(file))
        seen: Counter[tuple[str, bool]] = Counter()
        for row in listed:
            found = found_in(data / name / "videos" / row["file"])
            index = found.options["index"]
            whole = load(found).shape == found.shape and found.shape[1] == int(row["frames"])
            seen[f"{index['container']} / {index['codec']}", whole] += 1
        for (kind, whole), n in sorted(seen.items()):
            rows.append([name, kind, n, "all frames, as listed" if whole else "differs"])
    return rows
