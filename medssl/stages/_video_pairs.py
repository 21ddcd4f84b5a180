"""Predictions and labels of videos by name, and labels by time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from medssl.archive.labelled_videos import find_tracks
from medssl.archive.tracks import Track
from medssl.core.errors import MedsslError, NothingUsableError, UsageError
from medssl.stages._pairs import Pair

if TYPE_CHECKING:
    from medssl.stages.evaluate import EvaluateConfig

# Times are rounded to milliseconds in files.
ROUNDED_S = 2e-3
# And probabilities to 4 digits: 0.0000 is less than this.
ROUNDED_P = 5e-5


def pair_videos(
    config: EvaluateConfig, ending: str, *, tools: bool
) -> tuple[list[Pair], list[Track]]:
    """Every prediction ``<name><ending>`` with the labels of the same name.

    Raises:
        UsageError: a folder is missing, or label files with a gap.
        MedsslError: a prediction without reference or a reference without prediction.
        NothingUsableError: no prediction or no reference.
    """
    if not config.pred.is_dir():
        raise UsageError("the folder does not exist", where=str(config.pred))
    files = {
        file.relative_to(config.pred).as_posix().removesuffix(ending): file
        for file in sorted(config.pred.rglob(f"*{ending}"))
        if not file.name.startswith(".")
    }
    tracks = find_tracks(config.ref, tools=tools)
    if not files or not tracks:
        what = f"no {'prediction' if tracks else 'reference'} to compare"
        fix = f"files <name>{ending}"
        raise NothingUsableError(what, where=f"{config.pred}, {config.ref}", fix=fix)
    taken: dict[str, Track] = {}
    for track in tracks:
        found = [n for n in files if track.video in (n, n.rpartition("/")[2])]
        if len(found) != 1 or found[0] in taken:
            what = "a reference has no prediction of the same name, or several"
            fix = "one prediction per video, and a --ref of the labels of these videos alone"
            raise MedsslError(what, where=track.video, fix=fix)
        taken[found[0]] = track
    left = sorted(files.keys() - taken.keys())
    if left:
        fix = "add it to the reference, or move the prediction away"
        raise MedsslError("a prediction has no reference", where=str(files[left[0]]), fix=fix)
    ordered = sorted(taken)
    return [Pair(n, files[n], config.ref) for n in ordered], [taken[n] for n in ordered]


def in_seconds(track: Track, fps: float) -> Track:
    """The same labels by time, where they count frames."""
    if track.clock == "time_s":
        return track
    return replace(track, clock="time_s", at_N=track.at_N / fps)
