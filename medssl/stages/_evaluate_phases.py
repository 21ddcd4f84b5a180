"""Compare predicted phases with reference phases, video by video.

The prediction is a folder of ``<name>_phases.csv`` (``time_s,phase,probability``) as ``medssl
predict`` writes them; the reference a folder of the same files, of Cholec80's ``<name>-phase.txt``,
or a table ``video,frame|time_s,label``, see :mod:`medssl.archive.tracks`. References that count
frames are of ``fps`` frames per second.

Both are read at the slower of their rates, from the first to the last reference row. Where the
reference has no phase nothing counts; where the prediction has none the frame is wrong, so that a
prediction that ends early is no better for it (``missing_s`` of each case). Metrics, boundaries and
the rule for absent phases: docs/phases.md.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medssl.archive.labelled_videos import find_tracks
from medssl.archive.tracks import TABLE_ENDING, Track
from medssl.core.errors import MedsslError, NothingUsableError, UsageError
from medssl.core.phases import CHOLEC80, NONE
from medssl.evaluation.phase_summary import Video, summarise
from medssl.stages._pairs import Pair, patients_of

if TYPE_CHECKING:
    from medssl.stages.evaluate import EvaluateConfig

# Times are rounded to milliseconds in files.
_ROUNDED_S = 2e-3


def evaluate_phases(config: EvaluateConfig) -> dict[str, Any]:
    """The content of the metrics file.

    Raises:
        UsageError: a folder is missing, label files with a gap, a video without patient.
        MedsslError: a prediction without reference or a reference without prediction.
        NothingUsableError: no video, or no frame with a reference phase.
    """
    pairs, tracks = _pairs(config)
    patients = patients_of(config.groups, pairs)
    predictions = [_read(pair.pred) for pair in pairs]
    names = _names(config, tracks, predictions)
    videos, lacks = [], []
    for pair, patient, track, read in zip(pairs, patients, tracks, predictions, strict=True):
        video, missing_s = _video(pair.case, patient, _in_seconds(track, config.fps), read, names)
        if len(video.ref_T):
            videos.append(video)
            lacks.append(missing_s)
    if not videos:
        raise NothingUsableError("no frame has a reference phase", where=str(config.ref))
    summary = summarise(videos, names)
    for case, missing_s in zip(summary["cases"], lacks, strict=True):
        case["missing_s"] = missing_s
    return {**summary, "without_reference_phase": len(pairs) - len(videos)}


def _pairs(config: EvaluateConfig) -> tuple[list[Pair], list[Track]]:
    """Every prediction with the labels of the same name."""
    if not config.pred.is_dir():
        raise UsageError("the folder does not exist", where=str(config.pred))
    files = {
        file.relative_to(config.pred).as_posix().removesuffix(TABLE_ENDING): file
        for file in sorted(config.pred.rglob(f"*{TABLE_ENDING}"))
        if not file.name.startswith(".")
    }
    tracks = find_tracks(config.ref, tools=False)
    if not files or not tracks:
        what = f"no {'prediction' if tracks else 'reference'} of phases"
        fix = f"files <name>{TABLE_ENDING}"
        raise NothingUsableError(what, where=f"{config.pred}, {config.ref}", fix=fix)
    taken: dict[str, Track] = {}
    for track in tracks:
        found = [n for n in files if track.video in (n, n.rpartition("/")[2])]
        if len(found) != 1 or found[0] in taken:
            what = "a reference has no prediction of the same name, or several"
            raise MedsslError(what, where=track.video, fix="one prediction per video")
        taken[found[0]] = track
    left = sorted(files.keys() - taken.keys())
    if left:
        fix = "add it to the reference, or move the prediction away"
        raise MedsslError("a prediction has no reference", where=str(files[left[0]]), fix=fix)
    ordered = sorted(taken)
    return [Pair(n, files[n], config.ref) for n in ordered], [taken[n] for n in ordered]


def _read(path: Path) -> tuple[npt.NDArray[np.float64], list[str]]:
    """Times and phases of a prediction, in the order of time; gaps of a video are no error here."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    try:
        times_s = np.array([float(row["time_s"]) for row in rows])
        phases = [row["phase"].strip() for row in rows]
    except (KeyError, ValueError, AttributeError):
        what = "a prediction lacks time_s or phase, or a time is no number"
        raise UsageError(what, where=str(path)) from None
    if not len(times_s) or not np.isfinite(times_s).all():
        raise UsageError("a prediction has no rows, or a time is no number", where=str(path))
    order = np.argsort(times_s, kind="stable")
    return times_s[order], [phases[place] for place in order]


def _names(
    config: EvaluateConfig,
    tracks: list[Track],
    predictions: list[tuple[npt.NDArray[np.float64], list[str]]],
) -> tuple[str, ...]:
    if config.labels is not None:
        return tuple(config.labels.values())
    found = {name for track in tracks for name in track.names}
    found |= {name for _, phases in predictions for name in phases if name}
    return CHOLEC80 if found <= set(CHOLEC80) else tuple(sorted(found))


def _in_seconds(track: Track, fps: float) -> Track:
    if track.clock == "time_s":
        return track
    return Track(track.video, "time_s", track.at_N / fps, track.values, track.code_N)


def _video(
    name: str,
    patient: str,
    track: Track,
    read: tuple[npt.NDArray[np.float64], list[str]],
    names: tuple[str, ...],
) -> tuple[Video, float]:
    """The video at the slower rate, and how many labelled seconds have no prediction."""
    times_s, phases = read
    unknown = sorted(set(phases) - set(names) - {""})
    if unknown:
        what = "a predicted phase is not among labels"
        raise UsageError(what, where=f"{name}: {unknown[0]}", fix=f"known are: {', '.join(names)}")
    own_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else track.step
    every = max(round(own_s / track.step), 1)
    at_T = track.at_N[::every]
    step_s = track.step * every
    ref_T = track.phases(np.arange(len(track.at_N))[::every], names)
    number = {phase: k for k, phase in enumerate(names)} | {"": NONE}
    pred_N = np.array([number[phase] for phase in phases])
    place_T = np.searchsorted((times_s[:-1] + times_s[1:]) / 2, at_T)
    near_T = np.abs(times_s[place_T] - at_T) <= step_s / 2 + _ROUNDED_S
    pred_T = np.where(near_T, pred_N[place_T], NONE)
    there = ref_T != NONE
    missing_s = round(float((pred_T[there] == NONE).sum() * step_s), 3)
    return Video(name, patient, ref_T[there], pred_T[there], step_s), missing_s
