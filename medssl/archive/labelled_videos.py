"""Data sets of videos with phases, or with tools, frame by frame.

``data`` is a folder of videos; labels are files of :mod:`medssl.archive.tracks`, in the same folder
or elsewhere, or one folder of videos per phase. A label file belongs to the video of its name
(``video01-phase.txt`` to ``video01.mp4`` at any depth); a table may name the path below ``data``
too. Videos without labels, and labels without a video, are counted and not used.

Splits: the column of a table, or folders ``train``, ``val`` and ``test``. Patients: the column,
else DICOM ids, else every video is a patient of its own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medssl.archive.cases import SPLITS, Case, refuse_leaks
from medssl.archive.labelled import Labelled
from medssl.archive.scan import Scan, scan_folder
from medssl.archive.tracks import (
    PHASE_ENDING,
    TABLE_ENDING,
    TOOL_ENDING,
    Track,
    read_phase_file,
    read_phases_csv,
    read_table,
    read_tool_file,
    whole,
)
from medssl.core.errors import NothingUsableError, ReadError, UsageError
from medssl.core.phases import CHOLEC80
from medssl.readers._base import Found, Refused

_READERS = {
    PHASE_ENDING: read_phase_file,
    TOOL_ENDING: read_tool_file,
    TABLE_ENDING: read_phases_csv,
}
_FIX = "name the label file as the video, e.g. video01-phase.txt for video01.mp4"


@dataclass(frozen=True, kw_only=True)
class VideoCase(Case):
    """One video; ``track`` holds its labels, ``None`` = not labelled."""

    track: Track | None = None


@dataclass(frozen=True, kw_only=True)
class LabelledVideos(Labelled):
    """A data set of videos; ``labels`` are the phases or tools, numbered from 0.

    Attributes:
        skipped: files that are no labelled video, by kind.
    """

    cases: tuple[VideoCase, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Of phases or tools, in the order of their numbers."""
        return tuple(self.labels.values())


def load_videos(
    data: Path, labels: Path | None = None, *, tools: bool = False, names: Sequence[str] = ()
) -> LabelledVideos:
    """List the videos of a data set with their labels.

    Args:
        data: folder of videos.
        labels: a label file, a table or a folder of label files; default: what lies in ``data``,
            else the names of its folders.
        tools: read tool files, not phase files.
        names: the phases or tools in their order; default: Cholec80's where all are among them,
            else in the order of the tool file, else sorted.

    Raises:
        UsageError: no labels, none of a video that is there, a gap, a label that is not among
            ``names``, names that look alike, a patient in two splits.
        NothingUsableError: no video is there.
    """
    scan = scan_folder(data)
    videos = videos_in(scan)
    tracks = find_tracks(labels or data, tools=tools)
    if not tracks and labels is None and not tools:
        tracks = _of_folders(videos, class_depth(scan))
    if not tracks:
        ending = TOOL_ENDING if tools else PHASE_ENDING
        fix = f"files <video>{ending}, or a table video,frame,label"
        raise UsageError("no labels here", where=str(labels or data), fix=fix)
    track_of = track_of_each(tracks, videos)
    known = _names(list(track_of.values()), names, tools=tools)
    cases = tuple(
        video_case(name, one, track_of.get(name), class_depth(scan))
        for name, one in sorted(videos.items())
    )
    refuse_leaks([case for case in cases if case.track])
    first = _first_readable(cases)
    skipped = Counter(scan.ignored)
    skipped.update(one.geometry.kind for one in scan.found if one.geometry.kind != "clip")
    skipped["unlabelled"] += sum(case.track is None for case in cases)
    skipped["labels without a video"] += len(tracks) - len(track_of)
    return LabelledVideos(
        labels=dict(enumerate(known)),
        channels=("grey",) if first.shape[0] == 1 else ("red", "green", "blue"),
        modality=first.modality,
        cases=cases,
        kind="image",  # encoders see frames
        skipped=dict(sorted((+skipped).items())),
    )


def find_tracks(labels: Path, *, tools: bool) -> list[Track]:
    """The labels of all videos in a file or below a folder; none of another kind.

    Raises:
        UsageError: see :mod:`medssl.archive.tracks`; phase files in two formats.
    """
    if labels.is_file():
        reader = next((r for ending, r in _READERS.items() if labels.name.endswith(ending)), None)
        return [reader(labels)] if reader else read_table(labels)
    if not labels.is_dir():
        raise UsageError("the labels do not exist", where=str(labels))
    endings = (TOOL_ENDING,) if tools else (PHASE_ENDING, TABLE_ENDING)
    found = {ending: sorted(_shown(labels.rglob(f"*{ending}"))) for ending in endings}
    kinds = [ending for ending, files in found.items() if files]
    if len(kinds) > 1:
        what = f"label files of two kinds: *{kinds[0]} and *{kinds[1]}"
        raise UsageError(what, where=str(labels), fix="give one folder of them")
    if kinds:
        return [_READERS[kinds[0]](path) for path in found[kinds[0]]]
    tables = sorted(_shown(labels.glob("*.csv")))
    return read_table(tables[0]) if len(tables) == 1 else []


def _shown(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if not path.name.startswith(".")]


def videos_in(scan: Scan) -> dict[str, Found | Refused]:
    """Clips, and what cannot be read, by path below the root without ending."""
    clips = [one for one in scan.found if one.geometry.kind == "clip" and one.role != "label"]
    both: list[Found | Refused] = [*clips, *scan.refused]
    named: dict[str, Found | Refused] = {}
    for one in both:
        name = Path(one.files[0]).relative_to(scan.root).with_suffix("").as_posix()
        if name in named:
            raise UsageError("two videos differ in their ending only", where=one.files[0])
        named[name] = one
    if not clips:
        raise NothingUsableError("no video here", where=str(scan.root))
    return named


def class_depth(scan: Scan) -> int:
    """Folders before that of a class: 1 below ``train``, ``val`` and ``test``."""
    folders = {Path(one.files[0]).relative_to(scan.root).parts[0] for one in scan.found}
    return int(bool(folders) and folders <= SPLITS)


def _of_folders(videos: Iterable[str], depth: int) -> list[Track]:
    """Labels by the folders that videos lie in; none where one lies in no folder."""
    parts = {name: name.split("/") for name in videos}
    if any(len(found) < 2 + depth for found in parts.values()):
        return []
    return [whole(name, found[depth]) for name, found in parts.items()]


def track_of_each(
    tracks: Sequence[Track], videos: Mapping[str, Found | Refused]
) -> dict[str, Track]:
    """The track of each labelled video.

    Raises:
        UsageError: no track has a video, one has several, a video has two tracks.
    """
    video_of = videos_named([track.video for track in tracks], videos)
    track_of: dict[str, Track] = {}
    for track in tracks:
        name = video_of.get(track.video)
        if name is None:
            continue
        if name in track_of:
            raise UsageError("a video is labelled twice", where=track.video, fix="keep one")
        track_of[name] = track
    if not track_of:
        raise UsageError("no labels of a video that is here", where=tracks[0].video, fix=_FIX)
    return track_of


def videos_named(names: Iterable[str], videos: Mapping[str, Found | Refused]) -> dict[str, str]:
    """The video that each name of the labels stands for; names of no video are left out.

    Raises:
        UsageError: a name fits several videos.
    """
    places: dict[str, set[str]] = defaultdict(set)
    for video, one in videos.items():
        ending = Path(one.files[0]).suffix
        stem = video.rpartition("/")[2]
        for key in (video, video + ending, stem, stem + ending):
            places[key].add(video)
    video_of: dict[str, str] = {}
    for name in names:
        found = {name} & videos.keys() or places.get(name, set())
        if len(found) > 1:
            fix = "name videos by their path below the data folder, in a table"
            raise UsageError("labels fit several videos", where=name, fix=fix)
        if found:
            video_of[name] = next(iter(found))
    return video_of


def _names(tracks: Sequence[Track], given: Sequence[str], *, tools: bool) -> list[str]:
    found = sorted(set().union(*(track.names for track in tracks)))
    if given:
        for track in tracks:
            track.refuse_unknown(given)
        return list(given)
    alike = Counter(name.casefold() for name in found)
    twice = [name for name in found if alike[name.casefold()] > 1]
    if twice:
        what = "labels differ in upper and lower case only"
        raise UsageError(what, where=", ".join(twice), fix="write each in one way")
    if len(found) < 2 - tools:
        what = f"the labels name {len(found)} {'tools' if tools else 'phases'}"
        raise UsageError(what, fix="two phases, or one tool, are the least to learn from")
    columns = tracks[0].columns
    if set(columns) == set(found):
        return list(columns)
    return list(CHOLEC80) if set(found) <= set(CHOLEC80) and not tools else found


def video_case(name: str, one: Found | Refused, track: Track | None, depth: int) -> VideoCase:
    """The case of one video.

    Raises:
        UsageError: a split of another name.
    """
    who = one.patient or one.study if isinstance(one, Found) else ""
    folder = name.partition("/")[0] if depth else None
    split = (track.split if track else "") or folder
    if split is not None and split not in SPLITS:
        raise UsageError(f"split is '{split}'", where=name, fix="train, val, test or empty")
    return VideoCase(
        name=name.replace("/", "_"),
        images=tuple(map(Path, one.files)),
        label=None,
        patient=(track.patient if track else "") or who or name,
        split=split,
        record=one if isinstance(one, Found) else None,
        refused=one if isinstance(one, Refused) else None,
        track=track,
    )


def _first_readable(cases: Iterable[VideoCase]) -> Found:
    """Of the labelled videos.

    Raises:
        ReadError: none can be read; that of the first.
    """
    first_error: ReadError | None = None
    for case in cases:
        if case.track is None:
            continue
        try:
            return case.records()[0]
        except ReadError as error:
            first_error = first_error or error
    assert first_error is not None  # every track belongs to a case
    raise first_error
