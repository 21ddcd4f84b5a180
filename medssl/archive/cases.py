"""One case of a labelled data set, rows of a table, and the law of splits."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from medssl.archive.identity import case_stem
from medssl.core.errors import ReadError, UsageError
from medssl.readers._base import Found, Refused
from medssl.readers._read import record

SPLITS = {"train", "val", "test"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One labelled (or, without label, test) scan.

    Attributes:
        name: unique within the data set; names the case's files.
        images: one file (or DICOM folder) per channel, or one 4D file.
        label: label map on the grid of the images.
        patient: raw patient id; cases of one patient stay together.
        split: ``train``, ``val``, ``test``, or ``None`` where the data set does not say.
        record: the DICOM volume that ``images`` are the files of; ``None`` = read by path.
        refused: why the files cannot be used, where that is known already.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None
    patient: str
    split: str | None = None
    record: Found | None = None
    refused: Refused | None = None

    def records(self) -> list[Found]:
        """What ``images`` hold, one per channel file.

        Raises:
            ReadError: they cannot be used.
        """
        if self.refused is not None:
            bad = self.refused
            raise ReadError(bad.reason, bad.message, where=bad.files[0])
        return [self.record] if self.record else [record(path) for path in self.images]


def row_case(row: Mapping[str, str | None], path: Path, number: int) -> Case:
    """The case of one row of the table ``path``.

    Raises:
        UsageError: no image, or a split of another name.
    """
    image, label = (row.get("image") or "").strip(), (row.get("label") or "").strip()
    split = (row.get("split") or "").strip() or None
    where = f"{path} line {number}"
    if not image:
        raise UsageError("a row names no image", where=where)
    if split is not None and split not in SPLITS:
        raise UsageError(f"split is '{split}'", where=where, fix="train, val, test or empty")
    name = case_stem(Path(image))
    patient = (row.get("patient") or "").strip() or name
    file = path.parent / label if label else None
    return Case(name=name, images=(path.parent / image,), label=file, patient=patient, split=split)


def unique_names(cases: list[Case], path: Path) -> list[Case]:
    """Cases of a table with the folder in the name where several files have one name.

    Folders count from the table's; where files lie elsewhere, from the folder they have in common.
    """
    times = Counter(case.name for case in cases)
    base = path.parent
    if any(not case.images[0].is_relative_to(base) for case in cases):
        base = Path(os.path.commonpath([case.images[0].parent.absolute() for case in cases]))
    return [c if times[c.name] == 1 else replace(c, name=_long_name(c, base)) for c in cases]


def refuse_leaks(cases: Iterable[Case]) -> None:
    """No patient in two splits; cases of no named split are one more.

    Raises:
        UsageError: naming patients.
    """
    splits: dict[str, set[str | None]] = defaultdict(set)
    for case in cases:
        splits[case.patient].add(case.split)
    leaks = sorted(patient for patient, found in splits.items() if len(found) > 1)
    if leaks:
        what = f"{len(leaks)} patients stand in more than one split"
        raise UsageError(what, where=", ".join(leaks[:5]), fix="give each patient one split")


def _long_name(case: Case, base: Path) -> str:
    image = case.images[0]
    relative = (image if image.is_relative_to(base) else image.absolute()).relative_to(base)
    return "_".join((*relative.parts[:-1], case.name))
