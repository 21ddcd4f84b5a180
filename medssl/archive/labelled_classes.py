"""Data sets with a class per scan, picture or video: a table, or a folder per class.

- CSV: columns ``image,label[,patient,split]``; the label is the name of a class, paths are
  relative to the table, an image may be the folder of a DICOM series. A row without a label is not
  used.
- Folders: ``<class>/...`` or ``{train,val,test}/<class>/...``; every readable scan or picture at
  any depth below a class has it; where there are videos only, every video.
- Videos with a table ``video,label[,patient,split]``: :mod:`medssl.archive.labelled_clips`.

Patients: the column; else DICOM ids or a BIDS ``sub-`` folder; else every image is its own patient
(names repeat from folder to folder and say nothing). Names of classes are the user's own: they go
into the model's card and the results, into no ledger or log.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from medssl.archive.cases import SPLITS, Case, refuse_leaks, row_case, unique_names
from medssl.archive.datasets import FILE_NAME
from medssl.archive.identity import patient_of
from medssl.archive.labelled import Labelled
from medssl.archive.scan import scan_folder
from medssl.core.errors import ReadError, UsageError
from medssl.core.tables import open_table
from medssl.readers._base import Found, Refused

_HIDDEN = ("__MACOSX",)
# One labelled image per class is a data set; as many classes as this many images are ids.
_ONE_CLASS_EACH_FROM = 10


@dataclass(frozen=True, kw_only=True)
class ClassCase(Case):
    """A scan, picture or video; ``target`` is the number of its class, ``None`` = not labelled."""

    target: int | None = None


@dataclass(frozen=True, kw_only=True)
class LabelledClasses(Labelled):
    """A data set with classes; ``labels`` are numbered from 0 in the order of their names.

    Attributes:
        skipped: files and rows that are no labelled image, by kind.
    """

    cases: tuple[ClassCase, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Named:
    """A case and the name of its class; empty = none."""

    case: Case
    label: str


def load_classes(data: Path, *, least_classes: int = 2) -> LabelledClasses:
    """List the cases of a data set with classes.

    Args:
        data: a ``.csv`` file, a folder with one, or a folder of class folders.
        least_classes: fewer are refused; a classifier needs two to learn from.

    Raises:
        UsageError: no such layout, a missing file, an image with two classes, too few classes,
            class names that look alike, a patient in two splits.
        ReadError: no image can be read; that of the first.
    """
    if data.is_file() and data.suffix.lower() == ".csv":
        return _from_table(data, least_classes)
    tables = sorted(data.glob("*.csv"))
    if len(tables) == 1:
        return _from_table(tables[0], least_classes)
    if (data / FILE_NAME).is_file():
        fix = "use --task segmentation, or give a table image,label with class names"
        raise UsageError("dataset.json names label maps, not classes", where=str(data), fix=fix)
    if not data.is_dir():
        raise UsageError("the data set does not exist", where=str(data))
    return _from_folders(data, least_classes)


def _from_table(path: Path, least_classes: int) -> LabelledClasses:
    with open_table(path) as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"image", "label"} <= set(rows[0]):
        fix = "first line: image,label[,patient,split]"
        raise UsageError("the table has no rows with image and label", where=str(path), fix=fix)
    named = [_row(row, path, number) for number, row in enumerate(rows, start=2)]
    _check_images(named, path)
    cases = unique_names([one.case for one in named], path)
    named = [Named(case, one.label) for case, one in zip(cases, named, strict=True)]
    skipped = Counter({"unlabelled": sum(not one.label for one in named)})
    return with_classes(named, skipped, path, least_classes)


def _row(row: Mapping[str, str | None], path: Path, number: int) -> Named:
    label = " ".join((row.get("label") or "").split())
    case = row_case({**row, "label": ""}, path, number)
    if not (row.get("patient") or "").strip():
        case = replace(case, patient=(row.get("image") or "").strip())
    return Named(case, label)


def _check_images(named: list[Named], path: Path) -> None:
    """One row per image, files that are there, and labels that are no files."""
    label_of: dict[Path, str] = {}
    for one in named:
        image = one.case.images[0]
        if not image.exists():
            raise UsageError("a file of the data set is missing", where=str(image))
        if image in label_of:
            twice = "is listed twice" if label_of[image] == one.label else "has two classes"
            raise UsageError(f"an image {twice}", where=str(image))
        label_of[image] = one.label
    labels = {one.label for one in named if one.label}
    files = [label for label in labels if (path.parent / label).is_file()]
    if files:
        fix = "use --task segmentation, or write names of classes into the column"
        raise UsageError("labels of the table are files, not classes", where=files[0], fix=fix)


def _from_folders(root: Path, least_classes: int) -> LabelledClasses:
    scan = scan_folder(root)
    skipped: Counter[str] = Counter(scan.ignored)
    named: list[Named] = []
    by_split = _by_split(scan.root)
    videos = {one.geometry.kind for one in scan.found if one.role != "label"} == {"clip"}
    for found in scan.found:
        if found.role == "label" or (found.geometry.kind == "clip") != videos:
            skipped["label" if found.role == "label" else "clip"] += 1
            continue
        who = patient_of(found, scan.root)
        certain = bool(found.patient or found.study) or who.startswith("sub-")
        patient = who if certain else _relative(found.files, scan.root)
        named += _in_folder(found, patient, scan.root, by_split)
    for bad in scan.refused:  # a bad case, which is named when it is to be used
        named += _in_folder(bad, _relative(bad.files, scan.root), scan.root, by_split)
    if not named:
        fix = "give a table image,label or one folder per class"
        raise UsageError("no labelled image here", where=str(root), fix=fix)
    cases = _distinct([one.case for one in named])
    named = [Named(case, one.label) for case, one in zip(cases, named, strict=True)]
    return with_classes(named, skipped, root, least_classes)


def _by_split(root: Path) -> bool:
    folders = {path.name for path in root.iterdir() if path.is_dir() and _shown(path.name)}
    return bool(folders) and folders <= SPLITS


def _shown(name: str) -> bool:
    return not name.startswith(".") and name not in _HIDDEN


def _in_folder(one: Found | Refused, patient: str, root: Path, by_split: bool) -> Iterable[Named]:
    """The case in its class folder; none below hidden folders."""
    files = one.files
    places = {Path(file).relative_to(root).parts[: 1 + by_split] for file in files}
    place = Path(files[0]).relative_to(root)
    if not all(map(_shown, place.parts)):
        return
    if len(places) > 1:
        raise UsageError("the files of one series lie in two class folders", where=files[0])
    if len(place.parts) < 2 + by_split:
        fix = "give a table image,label or one folder per class"
        raise UsageError("an image lies in no class folder", where=files[0], fix=fix)
    split = place.parts[0] if by_split else None
    name = "_".join((*place.parts[:-1], place.name))
    part = one.part if isinstance(one, Found) else ""
    case = Case(
        name=f"{name}_{part}" if part else name,
        images=tuple(map(Path, files)),
        label=None,
        patient=patient,
        split=split,
        record=one if isinstance(one, Found) else None,
        refused=one if isinstance(one, Refused) else None,
    )
    yield Named(case, place.parts[int(by_split)])


def _distinct(cases: list[Case]) -> list[Case]:
    """Series of one folder are told apart by a number."""
    seen: Counter[str] = Counter()
    out = []
    for case in cases:
        seen[case.name] += 1
        again = seen[case.name] > 1
        out.append(replace(case, name=f"{case.name}#{seen[case.name]}") if again else case)
    return out


def _relative(files: tuple[str, ...], root: Path) -> str:
    return Path(files[0]).relative_to(root).as_posix()


def with_classes(
    named: list[Named], skipped: Counter[str], where: Path, least_classes: int
) -> LabelledClasses:
    """The data set of these cases.

    Raises:
        UsageError: fewer classes, class names that look alike or are as many as the cases, a
            patient in two splits.
        ReadError: no image can be read; that of the first.
    """
    names = class_names({one.label for one in named if one.label}, len(named), where)
    if len(names) < least_classes:
        what = f"the data set has {len(names)} class, a classifier needs {least_classes}"
        raise UsageError(what, where=str(where), fix="add images of another class")
    number = {name: k for k, name in enumerate(names)}
    cases = tuple(ClassCase(**{**vars(one.case), "target": number.get(one.label)}) for one in named)
    refuse_leaks(cases)
    first = _first_readable(case for case in cases if case.target is not None)
    return LabelledClasses(
        labels=dict(enumerate(names)),
        channels=tuple(f"channel_{c}" for c in range(first.shape[0])),
        modality=first.modality,
        cases=cases,
        kind=first.geometry.kind,
        skipped=dict(sorted((+skipped).items())),
    )


def class_names(found: set[str], n_cases: int, where: Path) -> list[str]:
    """The classes in their order.

    Raises:
        UsageError: names that look alike, or as many as cases.
    """
    names = sorted(found)
    if len(names) == n_cases >= _ONE_CLASS_EACH_FROM:
        fix = "the column label holds the class, not an id"
        raise UsageError("every image has a class of its own", where=str(where), fix=fix)
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[name.casefold()].append(name)
    for spellings in alike.values():
        if len(spellings) > 1:
            shown = f"{where}: {', '.join(spellings)}"
            what = "names of classes differ in upper and lower case only"
            raise UsageError(what, where=shown, fix="write each class in one way")
    return names


def _first_readable(cases: Iterable[Case]) -> Found:
    first_error: ReadError | None = None
    for case in cases:
        try:
            return case.records()[0]
        except ReadError as error:
            first_error = first_error or error
    assert first_error is not None  # there are as many labelled cases as classes, or more
    raise first_error
