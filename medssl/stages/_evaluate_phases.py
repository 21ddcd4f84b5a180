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

from medssl.archive.tracks import TABLE_ENDING, Track
from medssl.core.errors import NothingUsableError, UsageError
from medssl.core.phases import CHOLEC80, NONE
from medssl.evaluation.phase_summary import Video, summarise
from medssl.stages._pairs import patients_of
from medssl.stages._video_pairs import ROUNDED_S, in_seconds, pair_videos

if TYPE_CHECKING:
    from medssl.stages.evaluate import EvaluateConfig


def evaluate_phases(config: EvaluateConfig) -> dict[str, Any]:
    """The content of the metrics file.

    Raises:
        UsageError: a folder is missing, label files with a gap, a video without patient.
        MedsslError: a prediction without reference or a reference without prediction.
        NothingUsableError: no video, or no frame with a reference phase.
    """
    pairs, tracks = pair_videos(config, TABLE_ENDING, tools=False)
    patients = patients_of(config.groups, pairs)
    predictions = [_read(pair.pred) for pair in pairs]
    names = _names(config, tracks, predictions)
    videos, lacks = [], []
    for pair, patient, track, read in zip(pairs, patients, tracks, predictions, strict=True):
        video, missing_s = _video(pair.case, patient, in_seconds(track, config.fps), read, names)
        if len(video.ref_T):
            videos.append(video)
            lacks.append(missing_s)
    if not videos:
        raise NothingUsableError("no frame has a reference phase", where=str(config.ref))
    summary = summarise(videos, names)
    for case, missing_s in zip(summary["cases"], lacks, strict=True):
        case["missing_s"] = missing_s
    return {**summary, "without_reference_phase": len(pairs) - len(videos)}


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
    near_T = np.abs(times_s[place_T] - at_T) <= step_s / 2 + ROUNDED_S
    pred_T = np.where(near_T, pred_N[place_T], NONE)
    there = ref_T != NONE
    missing_s = round(float((pred_T[there] == NONE).sum() * step_s), 3)
    return Video(name, patient, ref_T[there], pred_T[there], step_s), missing_s
