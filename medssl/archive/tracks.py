"""Label files of videos: what holds at which frame, or at which second.

- Cholec80's phase file ``<video>-phase.txt``: a header ``Frame<TAB>Phase``, a line per frame.
- Cholec80's tool file ``<video>-tool.txt``: a header with ``Frame`` and the names of the tools, a
  line per 25th frame with 1 where a tool is in view.
- Table: columns ``video`` and ``frame`` or ``time_s``, and ``label``; a row per frame of one rate,
  empty labels for frames without; several labels of one frame are separated by ``;``. Columns
  ``patient`` and ``split`` are taken along.
- ``<video>_phases.csv`` with the columns ``time_s`` and ``phase``, as ``medssl predict`` writes it.

Rows follow each other at one rate. A frame that is missing or listed twice is an error: which of
two labels is right, and what was meant for the missing one, is not guessed.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medssl.core.errors import UsageError
from medssl.core.phases import NONE
from medssl.core.tables import open_table

PHASE_ENDING, TOOL_ENDING = "-phase.txt", "-tool.txt"
# What ``medssl predict`` writes: phases, and probabilities of tools, which are no labels.
TABLE_ENDING, TOOLS_ENDING = "_phases.csv", "_tools.csv"
_FRAME, _TIME = "frame", "time_s"
_SEPARATOR = ";"
# Steps that differ by less than this share are one step: times are rounded in files.
_UNEVEN = 0.5


@dataclass(frozen=True, eq=False)
class Track:
    """Labels of one video.

    Attributes:
        video: name of the video, as the labels have it.
        clock: what ``at_N`` counts: ``frame`` or ``time_s``.
        at_N: ascending, at one rate.
        values: the sets of names that occur.
        code_N: which of ``values`` holds at each row.
        columns: names that a tool file asks about, in its order, whether they occur or not.
        patient, split: as a table says; empty = not said.
    """

    video: str
    clock: str
    at_N: npt.NDArray[np.float64]
    values: tuple[frozenset[str], ...]
    code_N: npt.NDArray[np.int64]
    columns: tuple[str, ...] = ()
    patient: str = ""
    split: str = ""

    @property
    def names(self) -> set[str]:
        """Every label that occurs, or might have."""
        return set(self.columns).union(*self.values)

    @property
    def step(self) -> float:
        """Between two rows, in frames or seconds."""
        return float(np.median(np.diff(self.at_N))) if len(self.at_N) > 1 else 1.0

    def rows(self, numbers_T: npt.ArrayLike, times_s_T: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The row of each of some frames, by number or by time; -1 = none within half a step."""
        asked = np.asarray(numbers_T if self.clock == _FRAME else times_s_T, dtype=np.float64)
        after_T = np.clip(np.searchsorted(self.at_N, asked), 1, max(len(self.at_N) - 1, 1))
        around_2T = np.stack([after_T - 1, np.minimum(after_T, len(self.at_N) - 1)])
        apart_2T = np.abs(self.at_N[around_2T] - asked)
        nearest_T = np.take_along_axis(around_2T, apart_2T.argmin(0)[None], 0)[0]
        near = apart_2T.min(0) <= self.step / 2
        return np.where(near, nearest_T, NONE)

    def phases(self, rows_T: npt.NDArray[np.int64], names: Sequence[str]) -> npt.NDArray[np.int64]:
        """Number of the phase in each row; -1 = none.

        Raises:
            UsageError: a row has two phases, or one that is not among ``names``.
        """
        if any(len(value) > 1 for value in self.values):
            raise UsageError("a frame has two phases", where=self.video)
        self.refuse_unknown(names)
        number = {name: k for k, name in enumerate(names)}
        of_value = [number[next(iter(value))] if value else NONE for value in self.values]
        return np.where(rows_T == NONE, NONE, np.array(of_value)[self.code_N[rows_T]])

    def tools(self, rows_T: npt.NDArray[np.int64], names: Sequence[str]) -> npt.NDArray[np.bool_]:
        """(T, K) which of ``names`` are in view in each row.

        Raises:
            UsageError: a name that is not among ``names``.
        """
        self.refuse_unknown(names)
        of_value = np.array([[name in value for name in names] for value in self.values])
        return np.asarray(of_value[self.code_N[rows_T]] & (rows_T != NONE)[:, None])

    def refuse_unknown(self, names: Sequence[str]) -> None:
        """Refuse a label that is none of ``names``."""
        unknown = sorted(self.names - set(names))
        if unknown:
            where, fix = f"{self.video}: {unknown[0]}", f"known are: {', '.join(names)}"
            raise UsageError("a label that is not known", where=where, fix=fix)


def read_phase_file(path: Path) -> Track:
    """Cholec80's phase file.

    Raises:
        UsageError: other columns, a gap, a frame listed twice.
    """
    header, rows = _tab_file(path)
    if [name.casefold() for name in header] != ["frame", "phase"]:
        raise UsageError("the first line is not Frame<TAB>Phase", where=str(path))
    labels = [_one(row[1]) for row in rows]
    video = path.name.removesuffix(PHASE_ENDING)
    track = _track(video, _FRAME, _numbers([row[0] for row in rows], path), labels, path)
    if track.at_N[0] != 0 or track.step != 1:
        what = f"frames begin at {track.at_N[0]:g} and rise by {track.step:g}"
        raise UsageError(what, where=str(path), fix="one line per frame, from frame 0 on")
    return track


def read_tool_file(path: Path) -> Track:
    """Cholec80's tool file.

    Raises:
        UsageError: other columns, a gap, a frame listed twice, values other than 0 and 1.
    """
    header, rows = _tab_file(path)
    if len(header) < 2 or header[0].casefold() != _FRAME or len(set(header)) < len(header):
        raise UsageError("the first line is not Frame and the names of tools", where=str(path))
    odd = next((value for row in rows for value in row[1:] if value not in {"0", "1"}), None)
    if odd is not None:
        raise UsageError(f"a tool is neither 0 nor 1 but '{odd}'", where=str(path))
    labels = [
        frozenset(name for name, value in zip(header[1:], row[1:], strict=True) if value == "1")
        for row in rows
    ]
    video = path.name.removesuffix(TOOL_ENDING)
    track = _track(video, _FRAME, _numbers([row[0] for row in rows], path), labels, path)
    return replace(track, columns=tuple(header[1:]))


def read_phases_csv(path: Path) -> Track:
    """Table of one video, with the columns ``time_s`` and ``phase``.

    Raises:
        UsageError: other columns, a gap, a time listed twice.
    """
    rows = _table(path, {_TIME, "phase"})
    at_N = _numbers([row[_TIME] for row in rows], path)
    labels = [_one(row["phase"]) for row in rows]
    return _track(path.name.removesuffix(TABLE_ENDING), _TIME, at_N, labels, path)


def read_table(path: Path) -> list[Track]:
    """Table of several videos, in the order in which they come.

    Raises:
        UsageError: other columns, a gap, a frame listed twice, a video with two patients or splits.
    """
    rows = _table(path, {"video", "label"})
    clocks = sorted({_FRAME, _TIME} & set(rows[0]))
    if len(clocks) != 1:
        fix = "first line: video,frame,label or video,time_s,label"
        raise UsageError("the table needs one of frame and time_s", where=str(path), fix=fix)
    by_video: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        by_video[row["video"]].append(row)
    if "" in by_video:
        raise UsageError("a row names no video", where=str(path))
    return [_from_rows(video, clocks[0], own, path) for video, own in by_video.items()]


def _from_rows(video: str, clock: str, rows: list[dict[str, str]], path: Path) -> Track:
    at_N = _numbers([row[clock] for row in rows], path)
    labels = [_several(row["label"]) for row in rows]
    said = {key: {row.get(key, "") for row in rows} for key in ("patient", "split")}
    for key, found in said.items():
        if len(found) > 1:
            raise UsageError(f"a video has two entries of {key}", where=f"{path}: {video}")
    patient, split = (next(iter(said[key])) for key in ("patient", "split"))
    track = _track(video, clock, at_N, labels, path)
    return replace(track, patient=patient, split=split)


def _track(
    video: str,
    clock: str,
    at_N: npt.NDArray[np.float64],
    labels: list[frozenset[str]],
    path: Path,
) -> Track:
    order = np.argsort(at_N, kind="stable")
    at_N = at_N[order]
    _refuse_uneven(at_N, f"{path}: {video}", clock)
    values = tuple(sorted(set(labels), key=sorted))
    number = {value: k for k, value in enumerate(values)}
    code_N = np.array([number[labels[place]] for place in order], dtype=np.int64)
    return Track(video, clock, at_N, values, code_N)


def _refuse_uneven(at_N: npt.NDArray[np.float64], where: str, clock: str) -> None:
    if len(at_N) < 2:
        return
    steps = np.diff(at_N)
    if (steps == 0).any():
        twice = at_N[int(np.argmax(steps == 0))]
        raise UsageError(f"{clock} {twice:g} is listed twice", where=where, fix="keep one")
    step = float(np.median(steps))
    uneven = np.abs(steps - step) > _UNEVEN * step
    if uneven.any():
        place = int(np.argmax(uneven))
        what = f"between {clock} {at_N[place]:g} and {at_N[place + 1]:g} lies no step of {step:g}"
        fix = "one row per frame of one rate; leave the label empty where there is none"
        raise UsageError(what, where=where, fix=fix)


def _tab_file(path: Path) -> tuple[list[str], list[list[str]]]:
    with open_table(path) as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file, delimiter="\t") if row]
    if len(rows) < 2:
        raise UsageError("the label file has no lines", where=str(path))
    odd = next((row for row in rows if len(row) != len(rows[0])), None)
    if odd is not None:
        what = f"a line has {len(odd)} columns, the first {len(rows[0])}"
        raise UsageError(what, where=f"{path}: {odd[0] if odd else ''}")
    return rows[0], rows[1:]


def _table(path: Path, columns: set[str]) -> list[dict[str, str]]:
    with open_table(path) as file:
        rows = list(csv.DictReader(file))
    if not rows or not columns <= set(rows[0]):
        fix = f"first line with {', '.join(sorted(columns))}"
        raise UsageError("the table lacks rows or columns", where=str(path), fix=fix)
    return [{key: (row[key] or "").strip() for key in row if key} for row in rows]


def _numbers(cells: list[str], path: Path) -> npt.NDArray[np.float64]:
    try:
        at_N = np.array([float(cell) for cell in cells])
    except ValueError:
        raise UsageError("a frame or time is no number", where=str(path)) from None
    if not np.isfinite(at_N).all() or at_N.min() < 0:
        raise UsageError("a frame or time is negative or no number", where=str(path))
    return at_N


def _one(label: str) -> frozenset[str]:
    return frozenset({label} - {""})


def _several(label: str) -> frozenset[str]:
    return frozenset({part.strip() for part in label.split(_SEPARATOR)} - {""})


def read_video_table(path: Path) -> list[Track]:
    """Table with one label per video: the columns ``video`` and ``label``.

    Raises:
        UsageError: other columns, a row without a video.
    """
    rows = _table(path, {"video", "label"})
    if {_FRAME, _TIME} & set(rows[0]):
        fix = "--task phase for these, or a row per video without frame and time_s"
        raise UsageError("the labels are of frames, not of videos", where=str(path), fix=fix)
    if any(not row["video"] for row in rows):
        raise UsageError("a row names no video", where=str(path))
    return [
        replace(
            whole(row["video"], " ".join(row["label"].split())),
            patient=row.get("patient", ""),
            split=row.get("split", ""),
        )
        for row in rows
    ]


def whole(video: str, label: str) -> Track:
    """A video that shows one label from its start to its end."""
    at_N, code_N = np.array([0.0, math.inf]), np.array([0, 0], dtype=np.int64)
    return Track(video, "frame", at_N, (_one(label),), code_N)
