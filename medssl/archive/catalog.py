"""The catalog: records without paths or names, and beside it, for the owner only, the paths."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import polars as pl

from medssl.archive._tables import (
    HEADERS,
    PATHS,
    PIXEL_SCHEMA,
    PIXELS,
    RECORD_SCHEMA,
    RECORDS,
    SOURCES,
    finished,
    read_table,
    records_of,
    write_table,
)
from medssl.archive.quarantine import Ledger
from medssl.core.errors import ConfigError, ReadError, UsageError
from medssl.core.runlog import write_text
from medssl.core.sample import Record, Sample
from medssl.readers._base import Found
from medssl.readers._dispatch import sample
from medssl.readers._found_json import from_json

SUMMARY, LEDGER = "summary.json", "quarantine.jsonl"
# Files of the catalog folder that hold paths or identifiers (mode 0600).
PRIVATE = (PATHS, HEADERS, SOURCES, "headers.bin", "salt")


@dataclass(frozen=True, kw_only=True)
class PixelFacts:
    """What decoding a record told; kept while its files do not change."""

    pixel_hash: str
    perceptual_hash: str | None = None
    flags: tuple[str, ...] = ()


def is_catalog(path: str | Path) -> bool:
    """Whether ``path`` is a folder that ``medssl index`` wrote."""
    return (Path(path) / RECORDS).is_file()


class Catalog:
    """A catalog folder, read on demand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def open(cls, path: str | Path) -> Catalog:
        """Open a catalog.

        Raises:
            UsageError: the folder is not a catalog.
        """
        if not is_catalog(path):
            fix = "make one with: medssl index ARCHIVE -o CATALOG"
            raise UsageError("not a catalog", where=str(path), fix=fix)
        return cls(Path(path))

    def records(self, where: str | None = None) -> list[Record]:
        """Records in archive order.

        Args:
            where: filter over the columns, e.g. ``modality == 'MR' and n_files > 20``.

        Raises:
            ConfigError: the filter names no column or is no expression.
        """
        return records_of(self.table if where is None else _filtered(self.table, where))

    @property
    def table(self) -> pl.DataFrame:
        """The records as a table; its columns are described in ``docs/catalog.md``.

        Raises:
            UsageError: another version of medssl wrote it, with other columns.
        """
        table = pl.read_parquet(self.folder / RECORDS)
        if set(table.columns) != RECORD_SCHEMA.keys():
            fix = "bring it up to date: medssl index ARCHIVE -o CATALOG"
            what = "the catalog is of another version of medssl"
            raise UsageError(what, where=str(self.folder), fix=fix)
        return table

    def files(self, record_id: str) -> list[Path]:
        """Files of a record in reading order, or of what the index quarantined under this id.

        Raises:
            ReadError: ``not_in_catalog``.
        """
        return [Path(path) for path in self._source(record_id)[0]]

    def sample(self, record: Record) -> Sample:
        """The record's sample; its array loads on first access.

        Raises:
            ReadError: ``not_in_catalog``.
        """
        one = sample(self.found(record.record_id))
        return replace(one, modality=record.modality, name=record.record_id)

    def found(self, record_id: str) -> Found:
        """What the readers need to load a record; its identifiers are left out.

        Raises:
            ReadError: ``not_in_catalog``.
        """
        files, content = self._source(record_id)
        if not content:
            raise ReadError("not_in_catalog", f"no record {record_id}")
        return from_json({**json.loads(content), "files": files})

    @cached_property
    def ledger(self) -> Ledger:
        """The quarantine ledger; call ``save`` after adding."""
        return Ledger(self.folder / LEDGER)

    @property
    def summary(self) -> dict[str, Any]:
        """Counts: see :func:`summarise`."""
        content: dict[str, Any] = json.loads((self.folder / SUMMARY).read_text(encoding="utf-8"))
        return content

    def add_pixel_hashes(self, hashes: Mapping[str, str]) -> None:
        """Note the pixel hash of the records named that have none yet; see :meth:`add_pixels`."""
        known = set(self.table.filter(pl.col("pixel_hash").is_not_null())["record_id"])
        fresh = {key: value for key, value in hashes.items() if key not in known}
        self.add_pixels({key: PixelFacts(pixel_hash=value) for key, value in fresh.items()})

    def add_pixels(self, facts: Mapping[str, PixelFacts]) -> None:
        """Note what decoding told of the records named, mark duplicates, join splits."""
        table = self.table
        marks = dict(table.select("record_id", "fingerprint").iter_rows())
        rows = [
            (key, marks[key], one.pixel_hash, one.perceptual_hash, list(one.flags))
            for key, one in facts.items()
            if key in marks
        ]
        new = pl.DataFrame(rows, PIXEL_SCHEMA, orient="row")
        old = read_table(self.folder / PIXELS, PIXEL_SCHEMA).filter(
            ~pl.col("record_id").is_in(new["record_id"].to_list())
        )
        pixels = old.vstack(new)
        write_table(self.folder / PIXELS, pixels)
        table = finished(table, pixels)
        write_table(self.folder / RECORDS, table)
        write_summary(self.folder, {**self.summary, **summarise(table, self.ledger)})

    def forget(self, ids: Collection[str]) -> int:
        """Have the next index open the files of these records or ledger entries again.

        Returns:
            Number of files.
        """
        sources = pl.read_parquet(self.folder / SOURCES)
        rows = sources.filter(pl.col("record_id").is_in(list(ids)))["rows"].explode().unique()
        paths = pl.read_parquet(self.folder / PATHS).with_row_index("row")
        again = pl.col("row").is_in(rows.drop_nulls().to_list())
        # No file has this stamp: it will not be taken for unchanged.
        stamp = pl.when(again).then(-2).otherwise("mtime_ns").alias("mtime_ns")
        place = _own(pl.read_parquet_metadata(self.folder / PATHS))
        paths_now = paths.with_columns(stamp).drop("row")
        write_table(self.folder / PATHS, paths_now, private=True, note=place)
        headers = pl.read_parquet(self.folder / HEADERS)
        forgotten = paths.filter(again)["path"].to_list()
        known = headers.filter(~pl.col("path").is_in(forgotten))
        note = dict(pl.read_parquet_metadata(self.folder / HEADERS))
        write_table(self.folder / HEADERS, known, private=True, note=_own(note))
        return len(forgotten)

    def _source(self, record_id: str) -> tuple[list[str], str]:
        path = self.folder / SOURCES
        place = _places(str(path), path.stat().st_mtime_ns).get(record_id)
        if place is None:
            raise ReadError("not_in_catalog", f"no record {record_id}")
        (row,) = pl.scan_parquet(path).slice(place, 1).collect().iter_rows(named=True)
        rows = row["rows"]
        low = min(rows)
        paths = pl.scan_parquet(self.folder / PATHS).select("path")
        near = paths.slice(low, max(rows) - low + 1).collect()["path"]
        return [os.fsdecode(near[number - low]) for number in rows], row["found_json"]


def summarise(records: pl.DataFrame, ledger: Ledger) -> dict[str, Any]:
    """Counts of records by kind, modality, role, split, format and flag; reasons of the ledger."""
    counts: dict[str, Any] = {"records": records.height}
    for key in ("kind", "modality", "role", "split", "format"):
        counts[key] = dict(sorted(Counter(records[key].to_list()).items()))
    flags = Counter(flag.partition("=")[0] for flag in records["flags"].explode().drop_nulls())
    return {
        **counts,
        "patients": records["patient_id"].n_unique(),
        "duplicates": records.filter(pl.col("duplicate_of") != "").height,
        "flags": dict(sorted(flags.items())),
        "quarantined": len(ledger.entries()),
        "reasons": ledger.reasons(),
        "split_check": _split_check(records, ledger),
    }


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write ``summary.json``."""
    write_text(folder / SUMMARY, json.dumps(summary, indent=1) + "\n")


def _split_check(records: pl.DataFrame, ledger: Ledger) -> str:
    """``checked`` once every usable image has a pixel hash: duplicates can then be seen."""
    unusable = [entry.record_id for entry in ledger.entries()]
    images = records.filter((pl.col("role") == "image") & ~pl.col("record_id").is_in(unusable))
    return "unchecked" if images["pixel_hash"].null_count() else "checked"


def _filtered(table: pl.DataFrame, where: str) -> pl.DataFrame:
    try:
        return table.filter(pl.sql_expr(where))
    except pl.exceptions.PolarsError as error:
        what = f"where: {str(error).splitlines()[0]}"
        fix = f"columns: {', '.join(table.columns)}; e.g. \"modality == 'MR'\""
        raise ConfigError(what, fix=fix) from None


@lru_cache(2)
def _places(path: str, _mtime_ns: int) -> dict[str, int]:
    """Row of each id in a table of sources; the first of equal ids counts."""
    ids = pl.read_parquet(path, columns=["record_id"])["record_id"].to_list()
    return {key: len(ids) - 1 - n for n, key in enumerate(reversed(ids))}


def _own(note: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in note.items() if key.startswith("medssl")}
