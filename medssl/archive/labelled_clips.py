"""Data sets with a class per video: a folder of videos and a table.

The columns are ``video,label[,patient,split]``. Videos are named as in
:mod:`medssl.archive.labelled_videos`: by their path below the folder or by their file name, with or
without its ending. Videos without a row, rows without a label and rows without a video are counted
and not used.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from medssl.archive.cases import Case
from medssl.archive.labelled_classes import (
    ClassCase,
    LabelledClasses,
    Named,
    class_names,
    load_classes,
    with_classes,
)
from medssl.archive.labelled_videos import class_depth, track_of_each, video_case, videos_in
from medssl.archive.scan import scan_folder
from medssl.archive.tracks import Track, read_video_table
from medssl.core.errors import UsageError
from medssl.core.sample import UNKNOWN
from medssl.core.tables import open_table


def load_with_classes(data: Path, labels: Path | None = None) -> LabelledClasses:
    """A data set of scans, pictures or videos.

    Args:
        data: as :func:`load_classes` takes it; or a folder of videos, or a table of them.
        labels: the table; default: that in the folder of videos, where one is there.

    Raises:
        UsageError, NothingUsableError, ReadError: as the functions below, and ``load_classes``.
    """
    if labels is None:
        tables = [data] if data.is_file() else sorted(data.glob("*.csv"))
        labels = tables[0] if len(tables) == 1 and _names_videos(tables[0]) else None
    if labels is None:
        return load_classes(data)
    return load_clip_classes(data if data.is_dir() else data.parent, labels)


def load_clip_classes(data: Path, labels: Path) -> LabelledClasses:
    """List the videos of a folder with the classes of a table.

    Raises:
        UsageError: no such table or folder, none of its videos is there, a video with two rows, too
            few classes, class names that look alike, a patient in two splits.
        NothingUsableError: no video is there.
        ReadError: no labelled video can be read; that of the first.
    """
    if not labels.is_file():
        fix = "a table video,label; or leave labels out and give one folder of videos per class"
        raise UsageError("the labels of videos are no table", where=str(labels), fix=fix)
    tracks = read_video_table(labels)
    scan = scan_folder(data)
    videos = videos_in(scan)
    track_of = track_of_each(tracks, videos)
    named, skipped = [], Counter(scan.ignored)
    for name, one in sorted(videos.items()):
        track = track_of.get(name)
        case = dict(vars(video_case(name, one, track, class_depth(scan))))
        del case["track"]
        named.append(Named(Case(**case), _class_of(track)))
    skipped.update(one.geometry.kind for one in scan.found if one.geometry.kind != "clip")
    skipped["unlabelled"] += sum(not one.label for one in named)
    skipped["labels without a video"] += len(tracks) - len(track_of)
    return with_classes(named, skipped, labels, least_classes=2)


def class_references(ref: Path) -> LabelledClasses:
    """Reference classes to compare with: :func:`load_classes`, or a table of videos.

    Such a table may lie anywhere: its cases are named as in the table, and no video is opened.

    Raises:
        UsageError, ReadError: as :func:`load_classes`.
    """
    if not (ref.is_file() and _names_videos(ref)):
        return load_classes(ref, least_classes=1)
    tracks = read_video_table(ref)
    [(video, times)] = Counter(track.video for track in tracks).most_common(1)
    if times > 1:
        raise UsageError("a video is labelled twice", where=f"{ref}: {video}", fix="keep one")
    names = class_names({_class_of(track) for track in tracks} - {""}, len(tracks), ref)
    number = {name: k for k, name in enumerate(names)}
    cases = tuple(
        ClassCase(
            name=track.video,
            images=(Path(track.video),),
            label=None,
            patient=track.patient or track.video,
            split=track.split or None,
            target=number.get(_class_of(track)),
        )
        for track in tracks
    )
    return LabelledClasses(
        labels=dict(enumerate(names)), channels=(), modality=UNKNOWN, cases=cases, kind="clip"
    )


def _names_videos(table: Path) -> bool:
    if table.suffix.lower() != ".csv":
        return False
    with open_table(table) as file:
        columns = {name.strip() for name in file.readline().split(",")}
    return "video" in columns and "image" not in columns


def _class_of(track: Track | None) -> str:
    return "" if track is None else next(iter(track.names), "")
