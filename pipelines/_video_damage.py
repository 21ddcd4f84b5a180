"""Damaged copies of numbered videos: refused, flagged, raising, or unnoticed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt

from medssl.core.errors import ReadError
from medssl.core.seeding import generator
from medssl.readers._base import Found
from medssl.readers._dispatch import load
from medssl.readers._video_index import VideoIndex
from pipelines._video_checks import Made, differs, found_in

KINDS = (
    *("gop12.mp4", "open_gop.mp4", "b_frames.mkv", "h265.mp4", "mjpeg.avi", "mpeg4_b.avi"),
    *("mpeg2.ts", "mpeg2.mpg", "vp9.mkv", "wmv2.wmv", "animated.gif"),
)
HEAD = ("file", "damage", "copies", "refused", "flagged", "frames exact", "frames that raise",
        "frames that differ", "share")  # fmt: skip


def damage_rows(made: Made, files: int) -> list[list[object]]:
    """Rows under :data:`HEAD`, from ``files`` damaged copies of each kind."""
    rows: list[list[object]] = []
    for kind in KINDS:
        path, _ = made[kind]
        found = found_in(path)
        reference = dict(zip(_ticks(found), load(found).swapaxes(0, 1), strict=True))
        for what in ("1 bit", "40 bytes"):
            seen = Counter(_damaged(path, reference, what, files))
            counts = [seen[name] for name in ("refused", "flagged", "exact", "raises", "differs")]
            share = counts[4] / max(sum(counts[2:]), 1)
            rows.append([kind, what, files, *counts, f"{share:.1%}"])
    return rows


def _ticks(found: Found) -> list[int]:
    return [int(t) for t in VideoIndex.from_json(found.options["index"]).ticks]


def _damaged(
    path: Path, reference: dict[int, npt.NDArray[Any]], what: str, files: int
) -> Iterator[str]:
    content = path.read_bytes()
    target = path.with_name(f"damaged_{path.name}")
    for copy in range(files):
        rng = generator(copy, what)
        broken = bytearray(content)
        at = int(rng.integers(len(content) // 10, len(content) * 9 // 10))
        if what == "1 bit":
            broken[at] ^= 1 << int(rng.integers(8))
        else:
            broken[at : at + 40] = bytes(40)
        target.write_bytes(broken)
        try:
            found = found_in(target)
        except ReadError:
            yield "refused"
            continue
        if found.flags:
            yield "flagged"
        for number, tick in list(enumerate(_ticks(found)))[::4]:
            if tick not in reference:
                continue  # the time itself was hit
            try:
                frame = load(found, [number])[:, 0]
            except ReadError:
                yield "raises"
                continue
            yield "differs" if differs(frame, reference[tick]) else "exact"
