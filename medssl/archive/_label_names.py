"""Which labels a set of files holds, and their values."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from medssl.core.errors import UsageError
from medssl.readers._dispatch import sample
from medssl.readers._label_grid import MAX_LABEL, whole_values
from medssl.readers.labels import drawn_names, label_record

__all__ = ["MAX_LABEL", "labels_in", "numbered"]


def labels_in(files: Iterable[Path], where: Path) -> dict[int, str]:
    """Labels that files hold, by value (label maps) or by name (SEG, RTSTRUCT).

    Raises:
        UsageError: both forms in one table, no label at all, or more than 255.
        ReadError: a file that cannot be read.
    """
    values: set[int] = set()
    names: set[str] = set()
    for file in files:
        label = label_record(file)
        if label.format == "labels":
            names |= drawn_names(label)
        else:
            values.update(whole_values(sample(label).array, str(file)))
    if names and values:
        what = "some labels are named (DICOM), others are numbered (label maps)"
        fix = "make two tables, or give all of them in one form"
        raise UsageError(what, where=str(where), fix=fix)
    if names:
        return numbered(names, where)
    if len(values | {0}) < 2:
        raise UsageError("no label map of the table holds a label", where=str(where))
    return {v: f"label_{v}" if v else "background" for v in sorted(values | {0})}


def numbered(names: Iterable[str], where: Path) -> dict[int, str]:
    """Values for names: 0 is background, 1, 2, ... in sorted order."""
    ordered = sorted(names)
    if len(ordered) > MAX_LABEL:
        raise UsageError(f"{len(ordered)} labels, at most {MAX_LABEL}", where=str(where))
    return dict(enumerate(["background", *ordered]))
