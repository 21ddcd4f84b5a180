"""Copies of one DICOM file within a series: one is kept, the others are named."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from medssl.readers._base import FileHeader, Refused
from medssl.readers._dicom_tags import is_lossy

# Fields that may differ between two copies of one object: how its pixels are coded.
_CODING = {"syntax", "bits_allocated", "bits_stored", "photometric", "extra", "refused", "labels"}


def drop_copies(headers: list[FileHeader]) -> tuple[list[FileHeader], list[Refused]]:
    """Keep one file of each object: without loss, from the fullest folder, the first by path.

    A copy has the same SOPInstanceUID and the same header; where an anonymiser took the UID away,
    the same header and file name in another folder. Files that share a UID but differ in place or
    meaning are no copies.
    """
    by_name: dict[str, list[FileHeader]] = defaultdict(list)
    for one in headers:
        by_name[one.tags["object"] or Path(one.path).name].append(one)
    kept: list[FileHeader] = []
    refused: list[Refused] = []
    # Of a series that lies in two folders, one folder is kept whole where that is possible.
    crowd = Counter(Path(one.path).parent for one in headers)

    def rank(one: FileHeader) -> tuple[bool, int, str]:
        return is_lossy(one.tags["syntax"]), -crowd[Path(one.path).parent], one.path

    for members in _alike(by_name.values()):
        first, *copies = sorted(members, key=rank)
        kept.append(first)
        what = "the same object lies in the archive a second time"
        refused += [Refused(files=(c.path,), reason="duplicate_file", message=what) for c in copies]
    return sorted(kept, key=lambda one: one.path), refused


def _alike(named: Iterable[list[FileHeader]]) -> Iterator[list[FileHeader]]:
    """Files of one UID (or name), divided by their headers."""
    for members in named:
        if len(members) == 1:
            yield members
            continue
        groups: dict[tuple[str, ...], list[FileHeader]] = defaultdict(list)
        for one in members:
            groups[_identity(one)].append(one)
        yield from groups.values()


def _identity(one: FileHeader) -> tuple[str, ...]:
    tags = one.tags
    if tags["object"]:
        content = {key: value for key, value in tags.items() if key not in _CODING}
        return "object", json.dumps(content, sort_keys=True)
    return "name", json.dumps(tags, sort_keys=True)
