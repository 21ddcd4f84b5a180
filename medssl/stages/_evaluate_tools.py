"""Compare predicted tools with reference tools, over the frames of all videos together.

The prediction is a folder of ``<name>_tools.csv`` (``time_s`` and a probability per tool) as
``medssl predict`` writes them; the reference a folder of Cholec80's ``<name>-tool.txt``, or a
table, see :mod:`medssl.archive.tracks`. Every reference row counts, with the prediction nearest in
time; where none lies within half a step all tools score 0 (``missing_s`` of each case).

N rows, K tools.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medssl.archive.tracks import TOOLS_ENDING, Track
from medssl.core.errors import UsageError
from medssl.core.tables import open_table
from medssl.evaluation.calibration_summary import Events
from medssl.evaluation.tools import summarise
from medssl.stages._evaluate_trust import Trust, quality_of_results
from medssl.stages._pairs import patients_of
from medssl.stages._video_pairs import ROUNDED_P, ROUNDED_S, in_seconds, pair_videos

if TYPE_CHECKING:
    from medssl.stages.evaluate import EvaluateConfig


def evaluate_tools(config: EvaluateConfig) -> dict[str, Any]:
    """The content of the metrics file.

    Raises:
        UsageError: a broken prediction, other tools than those of the reference.
        MedsslError, NothingUsableError: see :func:`pair_videos`.
    """
    pairs, tracks = pair_videos(config, TOOLS_ENDING, tools=True)
    names = _tools_of(pairs[0].pred)
    there, scores, cases = [], [], []
    trust = Trust(config.sites, lambda: Events(names))
    quality = quality_of_results(config.pred)
    for pair, labels in zip(pairs, tracks, strict=True):
        track = in_seconds(labels, config.fps)
        score_NK, missed = _scores(pair.pred, track, names)
        there.append(track.tools(np.arange(len(track.at_N)), names))
        scores.append(score_NK)
        trust.add(pair.case, np.clip(score_NK, ROUNDED_P, 1 - ROUNDED_P), there[-1])
        refer = quality.get(pair.pred.relative_to(config.pred).as_posix(), {}).get("refer", "")
        right = float(((score_NK > 0.5) == there[-1]).mean())
        trust.note(float(np.maximum(score_NK, 1 - score_NK).mean()), right, refer)
        missing_s = round(float(missed * track.step), 3)
        cases.append({"case": pair.case, "frames": len(score_NK), "missing_s": missing_s})
    video_N = np.repeat(np.arange(len(pairs)), [len(one) for one in scores])
    patients = patients_of(config.groups, pairs)
    found = summarise(np.concatenate(there), np.concatenate(scores), video_N, patients, names)
    return {**found, **trust.as_json(), "cases": cases}


def _tools_of(path: Path) -> tuple[str, ...]:
    with open_table(path) as file:
        header = next(csv.reader(file), [])
    if len(header) < 2 or header[0] != "time_s":
        what = "the first line is not time_s and the names of tools"
        raise UsageError(what, where=str(path), fix="keep the table as predict wrote it")
    return tuple(header[1:])


def _scores(
    path: Path, track: Track, names: tuple[str, ...]
) -> tuple[npt.NDArray[np.float64], int]:
    """(N, K) probabilities at the rows of the reference, and how many rows have none."""
    if _tools_of(path) != names:
        raise UsageError("predictions name different tools", where=str(path))
    with open_table(path) as file:
        rows = list(csv.reader(file))[1:]
    try:
        table = np.array(rows, dtype=np.float64).reshape(-1, len(names) + 1)
    except ValueError:
        raise UsageError("a prediction holds what is no number", where=str(path)) from None
    if not len(table) or not np.isfinite(table).all():
        raise UsageError("a prediction has no rows, or no numbers", where=str(path))
    table = table[np.argsort(table[:, 0], kind="stable")]
    times_s = table[:, 0]
    place_N = np.searchsorted((times_s[:-1] + times_s[1:]) / 2, track.at_N)
    near_N = np.abs(times_s[place_N] - track.at_N) <= track.step / 2 + ROUNDED_S
    return np.where(near_N[:, None], table[place_N, 1:], 0.0), int((~near_N).sum())
