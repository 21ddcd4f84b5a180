"""What lies on the disk below a folder, as one table: no file is opened but changed containers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import polars as pl

from medssl.readers._containers import container_kind
from medssl.readers._dispatch import Entry, walk_entries
from medssl.readers._source import MARK, members, stamp_of

SCHEMA = {
    "path": pl.Binary,  # file names need not be valid text
    "size": pl.Int64,
    "mtime_ns": pl.Int64,
    "inode": pl.UInt64,
}
# Rows that are Python objects at a time.
_BATCH = 2_000


def list_files(root: Path, skip: Path | None, known: pl.DataFrame | None) -> pl.DataFrame:
    """Path, size, time and inode of every file below ``root``, sorted by path.

    Args:
        root: absolute folder.
        skip: a folder inside it that is none of it (the catalog).
        known: an earlier listing; members of containers that did not change come from it.
    """
    containers: list[Entry] = []
    table = _table(_noting(walk_entries(root, skip), containers))
    old = None if known is None else known.select(*SCHEMA)
    for container in containers:
        table.vstack(_members(container, old), in_place=True)
    return table.sort("path")


def _noting(entries: Iterable[Entry], containers: list[Entry]) -> Iterator[Entry]:
    for entry in entries:
        if container_kind(entry.path):
            containers.append(entry)
        yield entry


def _members(container: Entry, known: pl.DataFrame | None) -> pl.DataFrame:
    path = os.fsencode(container.path)
    if known is not None:
        same = known.filter(pl.col("path") == path).rows() == [(path, *container[1:])]
        if same:
            return known.filter(pl.col("path").bin.starts_with(path + os.fsencode(MARK)))
    return _table(_member_entry(member) for member in members(Path(container.path)))


def _member_entry(path: Path) -> Entry:
    try:
        return Entry(str(path), *stamp_of(path))
    except OSError:  # the container vanished meanwhile
        return Entry(str(path), -1, -1, 0)


def _table(entries: Iterator[Entry]) -> pl.DataFrame:
    table = pl.DataFrame(schema=SCHEMA)
    while batch := list(islice(entries, _BATCH)):
        paths, sizes, times, inodes = zip(*batch, strict=True)
        columns = [list(map(os.fsencode, paths)), sizes, times, inodes]
        table.vstack(pl.DataFrame(dict(zip(SCHEMA, columns, strict=True)), SCHEMA), in_place=True)
    return table
