"""Every kind of video with every library: identical frames, or refused and why; damage; bodies.

python -m pipelines.check_video [--data ../shared/data]
"""

from __future__ import annotations

import csv
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from PIL import Image

from medssl.core.errors import ReadError
from medssl.core.seeding import generator
from medssl.readers import video
from medssl.readers._base import Found, Policy
from medssl.readers._clip_quality import IN_BODY_SCORE, body_scores, thumbnails
from medssl.readers._dispatch import group_headers, load
from medssl.readers._video_index import VideoIndex
from medssl.readers._video_rules import LIBRARY_BYTES
from pipelines._bench import write_table
from pipelines._scenes import room, tissue
from pipelines._video_files import KINDS, encode, numbers_of, trim

BACKENDS = ("pyav", "decord", "torchcodec")
DAMAGED = (
    *("gop12.mp4", "open_gop.mp4", "b_frames.mkv", "h265.mp4", "mjpeg.avi", "mpeg4_b.avi"),
    *("mpeg2.ts", "mpeg2.mpg", "vp9.mkv", "wmv2.wmv", "animated.gif"),
)
_CALLS, _FRAMES = 5, 16
_CLEAN = "identical"


def main(
    data: Annotated[Path, typer.Option(help="real data sets")] = Path("../shared/data"),
    files: Annotated[int, typer.Option(help="damaged copies per kind")] = 40,
) -> None:
    """Write docs/results/video.md, video_damage.md and out_of_body.md."""
    with tempfile.TemporaryDirectory() as name:
        made = dict(_made(Path(name)))
        _write_backends(made)
        _write_damage(made, files)
    _write_bodies(data)
    _write_real(data)


def _made(folder: Path) -> Iterator[tuple[str, tuple[Path, list[int]]]]:
    """Name -> file, and the numbers that a player shows."""
    for kind, how in KINDS.items():
        encode(folder / kind, **how)
        yield kind, (folder / kind, list(range(60)))
    trim(folder / "b_frames.mp4", folder / "trimmed.mp4", 5)
    yield "trimmed.mp4 (edit list)", (folder / "trimmed.mp4", list(range(5, 60)))
    encode(folder / "rotated.mp4", rotation=90)
    yield "rotated.mp4 (90 degrees)", (folder / "rotated.mp4", list(range(60)))


def _found(path: Path, backend: Any = "pyav") -> Found:
    found, _ = group_headers([video.header(path)], Policy(video=backend))
    return found[0]


def _write_backends(made: dict[str, tuple[Path, list[int]]]) -> None:
    rows = []
    for kind, (path, expected) in made.items():
        index = _found(path).options["index"]
        cells = [_cell(path, expected, backend) for backend in BACKENDS]
        rows.append([kind, f"{index['container']} / {index['codec']}", *cells])
    note = (
        f"Frames with their number drawn in; {_CALLS} calls of {_FRAMES} random frames per cell, "
        "compared with the number and, pixel by pixel, with PyAV decoding from the start. "
        "*identical*: all are. *refused*: the record says so and PyAV decodes; in brackets what "
        "the library does when it is forced to decode all the same."
    )
    write_table(
        "video", "Video files and libraries", ["file", "container / codec", *BACKENDS], rows, note,
        by="check_video",
    )  # fmt: skip


def _cell(path: Path, expected: list[int], backend: str) -> str:
    found = _found(path, backend)
    said = [f for f in found.flags if f.startswith("backend_refused")]
    if not said:
        return _compared(path, found, expected)
    reason = said[0].rpartition(":")[2]
    forced = {"backend": backend, "library_bytes": LIBRARY_BYTES.get(backend, 0)}
    outcome = _compared(path, replace(found, options=found.options | forced), expected)
    return f"refused: {reason} ({outcome})"


def _compared(path: Path, found: Found, expected: list[int]) -> str:
    reference = load(_found(path))
    wrong = 0
    for call in range(_CALLS):
        rng = generator(call, "frames")
        numbers = rng.integers(len(expected), size=_FRAMES).tolist()
        try:
            frames = load(found, numbers)
        except ReadError as error:
            return f"raises {error.reason}"
        upright = np.rot90(frames, -1, (2, 3)) if path.stem == "rotated" else frames
        for place, (number, seen) in enumerate(zip(numbers, numbers_of(upright), strict=True)):
            other = _differs(frames[:, place], reference[:, number])
            wrong += other or seen != expected[number]
    return _CLEAN if wrong == 0 else f"{wrong} of {_CALLS * _FRAMES} frames wrong"


def _differs(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> bool:
    return not np.array_equal(x, y)


def _write_damage(made: dict[str, tuple[Path, list[int]]], files: int) -> None:
    rows = []
    for kind in DAMAGED:
        path, _ = made[kind]
        found = _found(path)
        reference = dict(zip(_ticks(found), load(found).swapaxes(0, 1), strict=True))
        for what in ("1 bit", "40 bytes"):
            seen = Counter(_damaged(path, reference, what, files))
            counts = [seen[name] for name in ("refused", "flagged", "exact", "raises", "differs")]
            share = counts[4] / max(sum(counts[2:]), 1)
            rows.append([kind, what, files, *counts, f"{share:.1%}"])
    note = (
        f"{files} copies of each file with one bit flipped or 40 bytes zeroed in the middle 80 %, "
        "through PyAV. Copies are refused at the index, or their record is flagged, or neither; "
        "of the latter two every 4th frame is asked for alone and compared with the frame of that "
        "presentation time. *differs*: other pixels, unnoticed: most codings carry no checksum, "
        "and damage that is still legal cannot be told from a picture."
    )
    head = ["file", "damage", "copies", "refused", "flagged", "frames exact", "frames that raise",
            "frames that differ", "share"]  # fmt: skip
    write_table("video_damage", "Damaged video", head, rows, note, by="check_video")


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
            found = _found(target)
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
            yield "differs" if _differs(frame, reference[tick]) else "exact"


def _write_bodies(data: Path) -> None:
    polyps = sorted((data / "polyps" / "images").glob("*"))
    sets: dict[str, list[npt.NDArray[Any]]] = {
        "real endoscopy (polyps), even numbers": [_picture(f) for f in polyps[::2]],
        "real endoscopy (polyps), odd numbers": [_picture(f) for f in polyps[1::2]],
        "made tissue": [tissue(generator(n, "tissue")) for n in range(500)],
        "made rooms": [room(generator(n, "room")) for n in range(500)],
    }
    for skin in (0.5, 0.7, 0.9):
        pictures = [room(generator(n, f"skin{skin}"), skin=skin) for n in range(500)]
        sets[f"made rooms, a face over {skin:.0%} of the picture"] = pictures
    rows = []
    for name, pictures in sets.items():
        if not pictures:
            continue
        frames = [body_scores(thumbnails(x[:, None])) for x in pictures]
        scores = np.concatenate(frames)
        low, middle, high = np.nanquantile(scores, [0.01, 0.5, 0.99])
        inside = float((scores >= IN_BODY_SCORE).mean())
        rows.append([name, len(scores), f"{low:.2f}", f"{middle:.2f}", f"{high:.2f}",
                     f"{inside:.1%}"])  # fmt: skip
    note = (
        f"Score: share of lit pixels with the colour of tissue; a frame counts as in the body from "
        f"{IN_BODY_SCORE} on, a bound set on the even numbers. White light only. Skin close to the "
        "lens has the colour of tissue: such frames pass, and the last rows say how many."
    )
    head = ["pictures", "n", "score, 1st percentile", "median", "99th", "counted as in the body"]
    write_table("out_of_body", "Frames outside the body", head, rows, note, by="check_video")


def _picture(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def _write_real(data: Path) -> None:
    rows = []
    for name in ("lung_ultrasound", "lung_ultrasound_nc"):
        table = data / name / "labels.csv"
        if not table.exists():
            continue
        with table.open(encoding="utf-8") as file:
            listed = list(csv.DictReader(file))
        seen: Counter[tuple[str, bool]] = Counter()
        for row in listed:
            found = _found(data / name / "videos" / row["file"])
            index = found.options["index"]
            whole = load(found).shape == found.shape and found.shape[1] == int(row["frames"])
            seen[f"{index['container']} / {index['codec']}", whole] += 1
        for (kind, whole), n in sorted(seen.items()):
            rows.append([name, kind, n, "all frames, as listed" if whole else "differs"])
    if rows:
        write_table("video_real", "Real clips", ["set", "container / codec", "clips", "read"],
                    rows, "Every clip decoded whole; frame counts of the sets' own tables.",
                    by="check_video")  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
