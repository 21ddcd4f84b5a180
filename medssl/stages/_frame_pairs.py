"""Predicted masks of videos with the masks of some of their frames.

The prediction of a frame is ``<video>/<frame>.png`` beside ``<video>_areas.csv``, as predict writes
them; references are those of :mod:`medssl.archive.labelled_frames`. Where a table names a test
split only that counts.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medssl.archive.labelled_frames import FrameLabel, frame_labels
from medssl.core.errors import MedsslError, NothingUsableError
from medssl.core.tables import open_table
from medssl.stages._pairs import Pair, patients_of
from medssl.stages._predict_masks import AREAS_ENDING, mask_name

if TYPE_CHECKING:
    from medssl.stages.evaluate import EvaluateConfig


def are_of_videos(pred: Path) -> bool:
    """Whether a folder holds predicted masks of videos."""
    return pred.is_dir() and any(pred.rglob(f"*{AREAS_ENDING}"))


def pair_frames(config: EvaluateConfig) -> tuple[list[Pair], list[str]]:
    """Every labelled frame with its prediction, and the patients: videos, unless labels say more.

    Raises:
        UsageError: no masks, or a table without the columns.
        MedsslError: a reference without prediction, or a prediction without reference.
        NothingUsableError: no labelled frame to compare.
    """
    tables = {
        file.relative_to(config.pred).as_posix().removesuffix(AREAS_ENDING): file
        for file in sorted(config.pred.rglob(f"*{AREAS_ENDING}"))
    }
    rows = frame_labels(config.ref)
    video_of = {row.video: _video(row.video, tables) for row in rows}
    left = sorted(tables.keys() - video_of.values())
    if left:
        fix = "add it to the reference, or move the prediction away"
        raise MedsslError("a prediction has no reference", where=str(tables[left[0]]), fix=fix)
    test = [row for row in rows if row.split == "test"] or [r for r in rows if r.split != "val"]
    pairs, patients = [], []
    for row in test:
        video = video_of[row.video]
        number = _number(row, tables[video])
        file = config.pred / video / mask_name(number)
        if not file.is_file():
            fix = "finetune without task.fps: then every frame is predicted"
            raise MedsslError("a labelled frame was not predicted", where=str(row.mask), fix=fix)
        pairs.append(Pair(f"{video}/{number}", file, row.mask))
        patients.append(row.patient or video)
    if not pairs:
        raise NothingUsableError("no labelled frame to compare", where=str(config.ref))
    return pairs, patients if config.groups is None else patients_of(config.groups, pairs)


def _video(name: str, tables: Mapping[str, Path]) -> str:
    """The predicted video of a name in the labels."""
    known = {name, Path(name).with_suffix("").as_posix()}
    found = [n for n in tables if {n, n.rpartition("/")[2]} & known]
    exact = [n for n in found if n in known]
    if len(exact or found) != 1:
        what = "a reference has no prediction of the same name, or several"
        fix = "one prediction per video, and a --ref of the labels of these videos alone"
        raise MedsslError(what, where=name, fix=fix)
    return (exact or found)[0]


def _number(row: FrameLabel, areas: Path) -> int:
    """Frame of a mask; by the times that the prediction knows where it has a time."""
    if row.frame is not None:
        return row.frame
    with open_table(areas) as file:
        at = {int(r["frame"]): float(r["time_s"]) for r in csv.DictReader(file) if r["time_s"]}
    if not at:
        what = "the prediction does not say when its frames were shown"
        raise MedsslError(what, where=str(areas), fix="name frames by their number")
    numbers = list(at)
    assert row.time_s is not None  # one of them is given
    return numbers[int(np.abs(np.array(list(at.values())) - row.time_s).argmin())]
