"""Compare predicted classes with reference classes.

The prediction is ``classes.csv`` of ``medssl predict``; ``paths.parquet`` beside it tells which
file a record id stands for. The reference is a table ``image,label[,patient,split]`` or a folder
per class, see :mod:`medssl.archive.labelled_classes`, or a table of videos ``video,label[,patient,
split]``, which need not be there. Where it names a test split only that counts;
images without a label do not count either. An image belongs to the record of the same file (or of
the series in the same folder); where not all are found so, to the one of the same file name, and
``paired_by`` in the result says so. A row of a table of videos belongs to the record whose path
ends with what the row says, with or without the file's ending.

Intervals are 95 % percentile bootstrap over patients. A class without a reference case has no
recall, no F1 and no AUROC (null) and does not count in macro means, see
:mod:`medssl.evaluation.classification`.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from medssl.archive.labelled_classes import ClassCase, LabelledClasses
from medssl.archive.labelled_clips import class_references
from medssl.core.errors import MedsslError, NothingUsableError, UsageError
from medssl.evaluation.calibration_summary import Summary
from medssl.evaluation.classification import summarise
from medssl.stages import _class_table
from medssl.stages._evaluate_trust import Trust, read_quality

if TYPE_CHECKING:
    from medssl.stages.evaluate import EvaluateConfig

_PATHS = "paths.parquet"


class Pair(NamedTuple):
    """A reference case and the record that was predicted for it."""

    case: ClassCase
    record_id: str


def evaluate_classes(config: EvaluateConfig) -> dict[str, Any]:
    """The content of the metrics file.

    Raises:
        UsageError: no such files, or options of segmentation.
        MedsslError: an image without prediction or a prediction without image, or a class that the
            model does not know.
        NothingUsableError: no labelled image to compare.
    """
    if config.labels is not None or config.groups is not None:
        what = "labels and groups belong to segmentation"
        fix = "class names and patients come from the reference: a column patient"
        raise UsageError(what, fix=fix)
    table = config.pred / _class_table.NAME if config.pred.is_dir() else config.pred
    names, p_of = _class_table.read_table(table)
    reference = class_references(config.ref)
    files_of = _files(table.with_name(_PATHS), p_of)
    pairs, paired_by = pair_records(reference.cases, files_of, by_end=not reference.channels)
    wanted = _to_compare(pairs)
    labels = [_number(reference, one.case, names, config.ref) for one in wanted]
    p_NK = np.array([p_of[one.record_id] for one in wanted])
    patients = [one.case.patient for one in wanted]
    summary = summarise(labels, p_NK, patients, names)
    trust = Trust(config.sites, lambda: Summary(names))
    quality = read_quality(table.parent)
    for one, label, p_K in zip(wanted, labels, p_NK, strict=True):
        trust.add(one.case.name, p_K[None], np.array([label]))
        refer = quality.get(one.record_id, {}).get("refer", "")
        trust.note(float(p_K.max()), float(p_K.argmax() == label), refer)
    summary |= trust.as_json()
    summary["cases"] = [
        {
            "case": one.case.name,
            "label": names[label],
            "predicted": names[int(p_K.argmax())],
            "p": float(p_K[label]),
        }
        for one, label, p_K in zip(wanted, labels, p_NK, strict=True)
    ]
    return {**summary, "left_out": len(pairs) - len(wanted), "paired_by": paired_by}


def pair_records(
    cases: Sequence[ClassCase], files_of: Mapping[str, Sequence[str]], *, by_end: bool = False
) -> tuple[list[Pair], str]:
    """Every predicted record with its image, and whether by ``file`` or by its ``name``.

    Args:
        cases: of the reference.
        files_of: files of each predicted record.
        by_end: the images are ends of paths, and their files not at hand.

    Raises:
        MedsslError: a record without image, a labelled image without record, or names that fit
            several.
    """
    paired_by = "name"
    if by_end:
        pairs = _matched(cases, files_of, Path.as_posix, _ends)
    else:
        pairs, paired_by = _matched(cases, files_of, _place, _with_folder(_place)), "file"
        if len(pairs) < len(files_of):
            pairs, paired_by = _matched(cases, files_of, _name, _with_folder(_name)), "name"
    found = {one.record_id for one in pairs}
    lost = next((files[0] for record, files in files_of.items() if record not in found), None)
    if lost is not None:
        fix = "add it to the reference, or predict on the reference's images only"
        raise MedsslError("a prediction has no reference", where=lost, fix=fix)
    named = {one.case.name for one in pairs}
    for case in _counting(cases):
        if case.name not in named:
            fix = "predict it too (was it quarantined?), or take it out of the reference"
            raise MedsslError("a reference has no prediction", where=str(case.images[0]), fix=fix)
    return pairs, paired_by


def _matched(
    cases: Sequence[ClassCase],
    files_of: Mapping[str, Sequence[str]],
    key: Callable[[Path], str],
    keys_of_file: Callable[[Path], Iterable[str]],
) -> list[Pair]:
    """Pairs of cases and records of which a file has the case's key among its own."""
    records: dict[str, set[str]] = defaultdict(set)
    for record_id, files in files_of.items():
        for file in map(Path, files):
            for own in keys_of_file(file):
                records[own].add(record_id)
    pairs = []
    taken: dict[str, Path] = {}
    for case in cases:
        found = records.get(key(case.images[0]), set())
        if not found:
            continue
        record_id = min(found)
        if len(found) > 1 or record_id in taken:
            where = f"{case.images[0]}, {taken.get(record_id, files_of[record_id][0])}"
            fix = "keep predictions and reference images where they were, or give them other names"
            raise MedsslError("predictions and images do not pair by name", where=where, fix=fix)
        taken[record_id] = case.images[0]
        pairs.append(Pair(case, record_id))
    return pairs


def _place(path: Path) -> str:
    return str(path.resolve())


def _name(path: Path) -> str:
    return path.name


def _with_folder(key: Callable[[Path], str]) -> Callable[[Path], Iterable[str]]:
    """Keys of a file and of its folder: an image may be the folder of a series."""
    return lambda path: (key(path), key(path.parent))


def _ends(path: Path) -> Iterable[str]:
    """All ends of a path, with and without the file's ending."""
    for parts in (path.parts, path.with_suffix("").parts):
        yield from ("/".join(parts[k:]) for k in range(len(parts)))


def _counting(cases: Iterable[ClassCase]) -> list[ClassCase]:
    """Labelled cases; where a test split is named, those of it."""
    labelled = [case for case in cases if case.target is not None]
    test = [case for case in labelled if case.split == "test"]
    return test or labelled


def _to_compare(pairs: list[Pair]) -> list[Pair]:
    counting = {case.name for case in _counting(one.case for one in pairs)}
    wanted = [one for one in pairs if one.case.name in counting]
    if not wanted:
        raise NothingUsableError("no predicted image has a reference label")
    return wanted


def _number(reference: LabelledClasses, case: ClassCase, names: Sequence[str], where: Path) -> int:
    assert case.target is not None  # only labelled cases are compared
    name = reference.labels[case.target]
    if name not in names:
        what = "the reference holds a class that the model does not know"
        raise MedsslError(what, where=f"{where}: {name}", fix=f"it knows: {', '.join(names)}")
    return names.index(name)


def _files(path: Path, wanted: Iterable[str]) -> dict[str, list[str]]:
    """Files of each predicted record."""
    if not path.is_file():
        fix = "keep it beside classes.csv: it tells which file a record id stands for"
        raise UsageError("there is no paths.parquet", where=str(path), fix=fix)
    known: dict[str, list[str]] = defaultdict(list)
    for record_id, file in pl.read_parquet(path).select("record_id", "path").iter_rows():
        known[record_id].append(os.fsdecode(file))
    missing = [record_id for record_id in wanted if record_id not in known]
    if missing:
        what = f"paths.parquet does not know {len(missing)} of the predicted records"
        raise UsageError(what, where=str(path), fix="predict again into a new folder")
    return {record_id: known[record_id] for record_id in wanted}
