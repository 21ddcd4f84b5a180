"""Numbered pictures of one folder as the frames of clips; only where the policy asks for it.

A clip is a run of at least 16 pictures that share everything but the number in their name, with
one size, one number format and one step from number to number. Where the numbering jumps the run
ends; what is left over stays single images.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from medssl.core.geometry import Geometry
from medssl.readers._base import FileHeader, Found

MIN_FRAMES = 16
_NUMBERED = re.compile(r"(.*?)([0-9]{1,18})")

Numbered = tuple[int, FileHeader]


def clips_of(headers: list[FileHeader]) -> tuple[list[Found], list[FileHeader]]:
    """Clips of one folder, and the pictures that belong to none."""
    found: list[Found] = []
    taken: set[str] = set()
    for pictures in _families(headers):
        runs = [run for run in _runs(pictures) if len(run) >= MIN_FRAMES]
        broken = sum(map(len, runs)) < len(pictures) or len(runs) > 1
        for run in runs:
            found.append(_clip(run, broken))
            taken.update(one.path for _, one in run)
    return found, [one for one in headers if one.path not in taken]


def _families(headers: list[FileHeader]) -> Iterator[list[Numbered]]:
    """Pictures with the same name but for the number, in order; never two of one number."""
    families: dict[tuple[Any, ...], list[Numbered]] = defaultdict(list)
    for one in headers:
        path = Path(one.path)
        name = _NUMBERED.fullmatch(path.stem)
        if name is not None:
            kind = (name[1], path.suffix.lower(), tuple(one.tags["shape"]), one.tags["dtype"])
            families[kind].append((int(name[2]), one))
    for pictures in families.values():
        if len({number for number, _ in pictures}) == len(pictures):
            yield sorted(pictures, key=lambda pair: pair[0])


def _runs(pictures: list[Numbered]) -> list[list[Numbered]]:
    """Cut where the step between numbers is not the usual one."""
    steps = [b - a for (a, _), (b, _) in pairwise(pictures)]
    usual = Counter(steps).most_common(1)[0][0] if steps else 1
    runs = [pictures[:1]]
    for step, picture in zip(steps, pictures[1:], strict=True):
        if step == usual:
            runs[-1].append(picture)
        else:
            runs.append([picture])
    return runs


def _clip(run: list[Numbered], broken: bool) -> Found:
    first = run[0][1]
    channels, height, width = first.tags["shape"]
    name = _NUMBERED.fullmatch(Path(first.path).stem)
    assert name is not None
    flags = {
        "image_folder": True,
        "frame_times_unknown": True,
        "frames_missing": broken,
        "lossy": any(one.tags["lossy"] for _, one in run),
    }
    return Found(
        files=tuple(one.path for _, one in run),
        format="image",
        shape=(channels, len(run), height, width),
        dtype=first.tags["dtype"],
        geometry=Geometry(kind="clip"),
        series=str(Path(first.path).parent / name[1]),
        flags=tuple(name for name, on in flags.items() if on),
    )
