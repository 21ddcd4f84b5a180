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
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medssl.archive.tracks import TABLE_ENDING, Track
from medssl.core.errors import NothingUsableError, UsageError
from medssl.core.phases import CHOLEC80, NONE
from medssl.core.tables import open_table
from medssl.evaluation.calibration_summary import Events
from medssl.evaluation.phase_summary import Video, summarise
from medssl.stages._evaluate_trust import Trust, quality_of_results
from medssl.stages._pairs import patients_of
from medssl.stages._video_pairs import ROUNDED_P, ROUNDED_S, in_seconds, pair_videos

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
    trust = Trust(config.sites, Events)
    quality = quality_of_results(config.pred)
    for pair, patient, track, read in zip(pairs, patients, tracks, predictions, strict=True):
        timed = in_seconds(track, config.fps)
        video, missing_s, sure_T = _video(pair.case, patient, timed, read, names)
        if len(video.ref_T):
            right_T = video.pred_T == video.ref_T
            there_T = np.isfinite(sure_T)
            if there_T.any():
                trust.add(pair.case, sure_T[there_T, None], right_T[there_T, None])
                result = pair.pred.relative_to(config.pred).as_posix()
                refer = quality.get(result, {}).get("refer", "")
                trust.note(float(sure_T[there_T].mean()), float(right_T.mean()), refer)
            videos.append(video)
            lacks.append(missing_s)
    if not videos:
        raise NothingUsableError("no frame has a reference phase", where=str(config.ref))
    summary = summarise(videos, names)
    for case, missing_s in zip(summary["cases"], lacks, strict=True):
        case["missing_s"] = missing_s
    summary |= trust.as_json()
    return {**summary, "without_reference_phase": len(pairs) - len(videos)}


class _Read(NamedTuple):
    """A prediction in the order of time; its probabilities are NaN where the table has none."""

    times_s: npt.NDArray[np.float64]
    phases: list[str]
    sure: npt.NDArray[np.float64]


def _read(path: Path) -> _Read:
    """Gaps of a video are no error here."""
    with open_table(path) as file:
        rows = list(csv.DictReader(file))
    try:
        times_s = np.array([float(row["time_s"]) for row in rows])
        phases = [row["phase"].strip() for row in rows]
        sure = np.array([float(row.get("probability") or "nan") for row in rows])
        sure = np.clip(sure, ROUNDED_P, 1 - ROUNDED_P)
    except (KeyError, ValueError, AttributeError):
        what = "a prediction lacks time_s or phase, or a number is none"
        raise UsageError(what, where=str(path)) from None
    if not len(times_s) or not np.isfinite(times_s).all():
        raise UsageError("a prediction has no rows, or a time is no number", where=str(path))
    order = np.argsort(times_s, kind="stable")
    return _Read(times_s[order], [phases[place] for place in order], sure[order])


def _names(
    config: EvaluateConfig,
    tracks: list[Track],
    predictions: list[_Read],
) -> tuple[str, ...]:
    if config.labels is not None:
        return tuple(config.labels.values())
    found = {name for track in tracks for name in track.names}
    found |= {name for read in predictions for name in read.phases if name}
    return CHOLEC80 if found <= set(CHOLEC80) else tuple(sorted(found))


def _video(
    name: str,
    patient: str,
    track: Track,
    read: _Read,
    names: tuple[str, ...],
) -> tuple[Video, float, npt.NDArray[np.float64]]:
    """The video at the slower rate, seconds without prediction, (T,) probabilities of phases."""
    times_s, phases, sure = read
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
    sure_T = np.where(pred_T == NONE, np.nan, sure[place_T])[there]
    return Video(name, patient, ref_T[there], pred_T[there], step_s), missing_s, sure_T
