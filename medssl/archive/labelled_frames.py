"""Data sets with masks of some frames of videos, e.g. those of end-diastole and end-systole.

``data`` is a folder of videos; masks are pictures in a folder of their own per video,
``<video>/<frame>.png``, or are named by a table ``video,frame,mask[,patient,split]``. Frames are
numbers in the file, from 0 on; a table may have ``time_s`` in their place. Paths of masks are
relative to the table. A mask has the size of the file's frames; one that is all background says
that nothing is there. Frames without a mask are not used, whatever they show.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.archive._label_checks import check_names
from medssl.archive._label_names import labels_in
from medssl.archive.cases import Case, refuse_leaks
from medssl.archive.clips import ClipPlan
from medssl.archive.labelled import Labelled
from medssl.archive.labelled_videos import class_depth, video_case, videos_in, videos_named
from medssl.archive.scan import scan_folder
from medssl.archive.tracks import whole
from medssl.core.errors import ReadError, UsageError
from medssl.core.preprocess import resize_labels
from medssl.core.tables import open_table
from medssl.readers._mask import is_picture, read_mask

_FIX = "masks <video>/<frame>.png, or a table video,frame,mask"


@dataclass(frozen=True)
class FrameLabel:
    """One mask; ``frame`` is a number in the file, or ``time_s`` says when it was shown."""

    video: str
    frame: int | None
    time_s: float | None
    mask: Path
    patient: str = ""
    split: str = ""


@dataclass(frozen=True, kw_only=True)
class FrameCase(Case):
    """A labelled frame: ``images`` is its video, ``label`` its mask."""

    frame: int | None = None
    time_s: float | None = None

    @property
    def at(self) -> str:
        """Frame or time, for names."""
        return str(self.frame) if self.frame is not None else f"{self.time_s:g}s"

    def number_in(self, times_s: Sequence[float] | None, total: int) -> int:
        """Number of the frame in its file.

        Raises:
            ReadError: ``frame_missing``, ``times_unknown``.
        """
        if self.frame is not None:
            number = self.frame
        elif times_s is None:
            raise ReadError("times_unknown", "the video does not say when its frames were shown")
        else:
            assert self.time_s is not None
            step_s = float(np.median(np.diff(times_s))) if total > 1 else 0.0
            if self.time_s > times_s[-1] + step_s:
                what = f"a mask is of {self.time_s:g} s, the last frame of {times_s[-1]:g} s"
                raise ReadError("frame_missing", what, where=str(self.label))
            number = int(np.abs(np.asarray(times_s) - self.time_s).argmin())
        if number >= total:
            what = f"a mask is of frame {number}, the video has {total}"
            fix = "frames are counted from 0"
            raise ReadError("frame_missing", what, where=str(self.label), fix=fix)
        return number


@dataclass(frozen=True, kw_only=True)
class LabelledFrames(Labelled):
    """Frames of videos with masks.

    Attributes:
        skipped: files that are no labelled video, by kind.
    """

    cases: tuple[FrameCase, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)


def load_frames(data: Path, labels: Path) -> LabelledFrames:
    """List the labelled frames of a folder of videos.

    Raises:
        UsageError: no masks, none of a video that is there, a frame with two, a missing file, no
            label in any mask, a patient in two splits.
        NothingUsableError: no video is there.
        ReadError: a mask cannot be read, or no labelled video.
    """
    rows = frame_labels(labels)
    scan = scan_folder(data)
    videos = videos_in(scan)
    video_of = videos_named([row.video for row in rows], videos)
    own = [row for row in rows if row.video in video_of]
    if not own:
        raise UsageError("no mask of a video that is here", where=str(labels), fix=_FIX)
    cases = []
    for row in own:
        name = video_of[row.video]
        track = whole(name, "")
        of_video = video_case(name, videos[name], track, class_depth(scan))
        case = {key: value for key, value in vars(of_video).items() if key != "track"}
        case |= {"label": row.mask, "frame": row.frame, "time_s": row.time_s}
        case |= {"patient": row.patient or of_video.patient, "split": row.split or of_video.split}
        frame = FrameCase(**case)
        cases.append(replace(frame, name=f"{frame.name}_{frame.at}"))
    _refuse_twice([case.name for case in cases], labels)
    refuse_leaks(cases)
    first = next((c.record for c in cases if c.record is not None), None)
    found = first or cases[0].records()[0]  # refused, all of them: says why
    used = {video_of[row.video] for row in own}
    skipped = Counter(scan.ignored)
    skipped["unlabelled"] += len(videos) - len(used)
    skipped["labels without a video"] += len({r.video for r in rows} - video_of.keys())
    return LabelledFrames(
        labels=labels_in([row.mask for row in own], labels),
        channels=("grey",) if found.shape[0] == 1 else ("red", "green", "blue"),
        modality=found.modality,
        cases=tuple(cases),
        kind="image",  # encoders see frames
        skipped=dict(sorted((+skipped).items())),
    )


def frame_labels(labels: Path) -> list[FrameLabel]:
    """The masks of a table, or below a folder.

    Raises:
        UsageError: no such file, other columns, a name that is no frame, a missing mask.
    """
    if labels.is_dir():
        rows = _in_folders(labels)
    elif labels.is_file():
        rows = _in_table(labels)
    else:
        raise UsageError("the labels do not exist", where=str(labels))
    if not rows:
        raise UsageError("no masks here", where=str(labels), fix=_FIX)
    return rows


def frame_mask(
    case: FrameCase, shape_HW: tuple[int, ...], names: Mapping[int, str], plan: ClipPlan
) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    """The mask (1, h, w) of a frame on its prepared grid, and remarks on it.

    Raises:
        ReadError: ``label_shape_mismatch``, ``unknown_label_values``, and what reading raises.
    """
    assert case.label is not None
    labels_HW, flags = read_mask(case.label)
    if labels_HW.shape != shape_HW:
        what = f"the mask has {labels_HW.shape} pixels, the frame {shape_HW}"
        fix = "masks lie pixel by pixel on their frames: do not resize either"
        raise ReadError("label_shape_mismatch", what, where=str(case.label), fix=fix)
    check_names(labels_HW, dict(names), case.label)
    top, bottom, left, right = plan.box
    classes = np.searchsorted(sorted(names), labels_HW[None, top:bottom, left:right])
    return resize_labels(classes.astype(np.uint8), (1, *plan.size_HW)), flags


def _in_table(path: Path) -> list[FrameLabel]:
    with open_table(path) as file:
        rows = [{k: (v or "").strip() for k, v in row.items() if k} for row in csv.DictReader(file)]
    columns = set(rows[0]) if rows else set()
    if not {"video", "mask"} <= columns or len({"frame", "time_s"} & columns) != 1:
        fix = "first line: video,frame,mask or video,time_s,mask, then [,patient,split]"
        raise UsageError("the table names no masks of frames", where=str(path), fix=fix)
    return [_row(row, path, number) for number, row in enumerate(rows, start=2) if row["mask"]]


def _row(row: Mapping[str, Any], path: Path, number: int) -> FrameLabel:
    where, mask = f"{path} line {number}", path.parent / row["mask"]
    if not row["video"]:
        raise UsageError("a row names no video", where=where)
    if not mask.is_file():
        raise UsageError("a mask is missing", where=str(mask))
    frame, time_s = row.get("frame"), row.get("time_s")
    if frame is not None and not frame.isdigit():
        raise UsageError(f"frame '{frame}' is no number from 0 on", where=where)
    try:
        at_s = None if time_s is None else float(time_s)
    except ValueError:
        raise UsageError(f"time_s '{time_s}' is no number", where=where) from None
    if at_s is not None and not 0 <= at_s < float("inf"):
        raise UsageError(f"time_s is {at_s:g}", where=where)
    at = None if frame is None else int(frame)
    return FrameLabel(row["video"], at, at_s, mask, row.get("patient", ""), row.get("split", ""))


def _in_folders(root: Path) -> list[FrameLabel]:
    """Pictures whose name is a number, by the folder that they lie in."""
    rows = []
    for file in sorted(root.rglob("*")):
        place = file.relative_to(root)
        if not is_picture(file) or place.name.startswith(".") or len(place.parts) < 2:
            continue
        if not file.stem.isdigit():
            fix = "call masks by the number of their frame, e.g. 0007.png"
            raise UsageError("a mask's name is no number of a frame", where=str(file), fix=fix)
        rows.append(FrameLabel(place.parent.as_posix(), int(file.stem), None, file))
    return rows


def _refuse_twice(names: Sequence[str], where: Path) -> None:
    [(name, times)] = Counter(names).most_common(1)
    if times > 1:
        raise UsageError(f"a frame has {times} masks", where=f"{where}: {name}", fix="keep one")
