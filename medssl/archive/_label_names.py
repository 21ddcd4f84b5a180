"""Which labels a set of files holds, and their values."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from medssl.core.errors import UsageError
from medssl.readers._dispatch import sample
from medssl.readers._label_grid import MAX_LABEL, whole_values
from medssl.readers._mask import is_picture, read_mask
from medssl.readers.labels import drawn_names, label_record

CHOSEN = "labels.json"

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
        if is_picture(file):
            values.update(np.unique(read_mask(file)[0]).tolist())
            continue
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
    """Values for the names of segments and structures, 0 is background.

    A file ``labels.json``, ``{"1": "liver", ...}`` as predict writes it, beside the table or in the
    folder chooses names and values; without it all names are numbered in sorted order.

    Raises:
        UsageError: more than 255 names, or a ``labels.json`` that does not fit.
    """
    chosen = (where if where.is_dir() else where.parent) / CHOSEN
    if chosen.is_file():
        return _chosen(chosen, set(names))
    ordered = sorted(names)
    if len(ordered) > MAX_LABEL:
        fix = f"name those to use in {CHOSEN}"
        raise UsageError(f"{len(ordered)} labels, at most {MAX_LABEL}", where=str(where), fix=fix)
    return dict(enumerate(["background", *ordered]))


def _chosen(path: Path, names: set[str]) -> dict[int, str]:
    where = str(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UsageError("labels.json is no JSON", where=where) from None
    fix = f'e.g. {{"1": "liver"}}: a value from 1 to {MAX_LABEL} for each name'
    if not isinstance(content, dict) or not all(str(key).isdigit() for key in content):
        raise UsageError("labels.json does not map numbers to names", where=where, fix=fix)
    labels = {0: "background"} | {int(k): str(v) for k, v in content.items() if int(k)}
    if len(labels) < 2 or max(labels) > MAX_LABEL or len(set(labels.values())) < len(labels):
        raise UsageError("labels.json holds no label, or one twice", where=where, fix=fix)
    unknown = sorted(set(labels.values()) - names - {"background"})
    if unknown:
        # The terminal may show names: they are the user's own.
        where = f"{where}: {', '.join(unknown[:8])}; the files hold {', '.join(sorted(names)[:20])}"
        raise UsageError("labels.json names labels that no file holds", where=where)
    return labels
