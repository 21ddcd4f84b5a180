"""Headers of an archive's files: from the journal where a file is unchanged, else read now."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl

from medssl.archive._headers import (
    Block,
    Journal,
    Row,
    block_of,
    read_block,
    read_rows,
    refused_row,
)
from medssl.archive._listing import SCHEMA
from medssl.archive._pool import Pool
from medssl.archive._tables import HEADER_SCHEMA, HEADERS, read_table, write_table
from medssl.core.errors import MedsslError, ReadError
from medssl.readers._dispatch import Entry

BLOCK_FILES = 128
# Reasons that may pass without the file changing (a permission, a network share).
TRANSIENT = ["refused:unreadable", "refused:decoder_crash"]
_JOURNAL = "headers.bin"
_NOTE = "medssl_journal"
# A journal may hold this much of changed and deleted files, beside as much as is in use.
_SLACK_BYTES = 4 * 2**20
Progress = Callable[[int, int], None]


class Reading:
    """Headers of the files that are new or changed; the others come from the journal."""

    def __init__(self, out: Path, pool: Pool, progress: Progress) -> None:
        self._out = out
        self._pool = pool
        self._progress = progress
        self.journal = Journal(out / _JOURNAL)

    def headers(self, listing: pl.DataFrame) -> tuple[pl.DataFrame, int]:
        """Where every file's header lies, sorted by path, and how many were read now."""
        same = [*SCHEMA]
        table = listing.join(self._known(), on=same, how="left", maintain_order="left")
        transient = table["outcome"].is_in(TRANSIENT).fill_null(value=False)
        fresh = table["block"].is_null() | transient
        kept = table.filter(~fresh).select(*HEADER_SCHEMA)
        read = self._read(listing.filter(fresh), done=kept.height)
        headers = self._compacted(kept.vstack(read).sort("path"))
        note = {_NOTE: f"{self.journal.token} {self.journal.size}"}
        write_table(self._out / HEADERS, headers, private=True, note=note)
        return headers, read.height

    def _known(self) -> pl.DataFrame:
        """Headers of the last run, and of one that was killed after it."""
        path = self._out / HEADERS
        tables, end = [pl.DataFrame(schema=HEADER_SCHEMA)], 0
        if path.is_file():
            token, _, noted = pl.read_parquet_metadata(path).get(_NOTE, "").partition(" ")
            if token == self.journal.token:
                tables, end = [read_table(path, HEADER_SCHEMA)], int(noted)
        for at, rows in self.journal.recover(end):
            columns = [(os.fsencode(row.path), *row[1:4]) for row in rows]
            entries = pl.DataFrame(columns, SCHEMA, orient="row")
            tables.append(_located(entries, block_of(rows), at))
        return pl.concat(tables).unique("path", keep="last", maintain_order=True)

    def _compacted(self, headers: pl.DataFrame) -> pl.DataFrame:
        """Leave changed and deleted files out of the journal once they are the greater part."""
        blocks = headers["block"].unique().sort().to_list()
        in_use = sum(map(self.journal.bytes_of, blocks))
        if self.journal.size <= 2 * in_use + _SLACK_BYTES:
            return headers
        small = Journal(self._out / f"{_JOURNAL}.new")
        small.path.unlink(missing_ok=True)
        places = {at: small.copy_block(self.journal, at) for at in blocks}
        small.path.replace(self.journal.path)
        read_rows.cache_clear()
        moved = pl.col("block").replace_strict(places, return_dtype=pl.Int64)
        return headers.with_columns(moved)

    def _read(self, listing: pl.DataFrame, done: int) -> pl.DataFrame:
        tables = [pl.DataFrame(schema=HEADER_SCHEMA)]
        total = done + listing.height
        slices = listing.iter_slices(BLOCK_FILES)
        results = self._pool.map(read_block, map(_entries, slices), chunk=1)
        start = 0
        for entries, result in results:
            for part, block in self._whole(entries, result):
                at = self.journal.append(block)
                tables.append(_located(listing.slice(start, len(part)), block, at))
                start += len(part)
            self._progress(done + start, total)
        return pl.concat(tables)

    def _whole(
        self, entries: list[Entry], result: Block | MedsslError
    ) -> Iterator[tuple[list[Entry], Block]]:
        """The block, or where its worker died, every file on its own to find the one that kills."""
        if isinstance(result, Block):
            yield entries, result
            return
        for part, one in self._pool.map(read_block, [[entry] for entry in entries], chunk=1):
            if isinstance(one, MedsslError):
                reason = one.reason if isinstance(one, ReadError) else "unreadable"
                one = block_of([refused_row(part[0], reason, one.what)])  # noqa: PLW2901
            yield part, one


def _entries(listing: pl.DataFrame) -> list[Entry]:
    return [Entry(os.fsdecode(path), *stamp) for path, *stamp in listing.iter_rows()]


def _located(listing: pl.DataFrame, block: Block, at: int) -> pl.DataFrame:
    return listing.with_columns(
        pl.Series("outcome", block.outcomes, pl.String),
        pl.Series("group", block.groups, pl.UInt64),
        pl.lit(at, pl.Int64).alias("block"),
        pl.Series("number", range(len(block.groups)), pl.UInt32),
    )


def stored_rows(out: Path) -> Iterator[Row]:
    """Every file of a catalog with its header, in no particular order."""
    table = read_table(out / HEADERS, HEADER_SCHEMA)
    journal = str(out / _JOURNAL)
    for (block,), part in table.select("block", "number").group_by("block"):
        rows = read_rows(journal, int(str(block)))
        yield from (rows[number] for number in part["number"])
