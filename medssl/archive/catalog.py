"""The catalog: records without paths or names, and beside it, for the owner only, the paths."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from medssl.archive.build import Listed
from medssl.archive.quarantine import Ledger
from medssl.archive.scan import FileState, header_of
from medssl.archive.split import Member, join
from medssl.core.errors import ConfigError, ReadError, UsageError
from medssl.core.runlog import write_bytes, write_text
from medssl.core.sample import Record, Sample
from medssl.readers._base import Found
from medssl.readers._dispatch import group_headers, sample

RECORDS, PATHS, SUMMARY = "records.parquet", "paths.parquet", "summary.json"
LEDGER = "quarantine.jsonl"
_RECORD_SCHEMA: dict[str, Any] = {
    **{field.name: pl.String for field in fields(Record)},
    "shape": pl.List(pl.Int64),
    "spacing_mm": pl.List(pl.Float64),
    "affine": pl.List(pl.Float64),
    "flags": pl.List(pl.String),
    "references": pl.List(pl.String),
    "study_day": pl.Int64,
    "duration_s": pl.Float64,
    "n_files": pl.Int64,
    "size_bytes": pl.Int64,
}
_PATH_SCHEMA: dict[str, Any] = {
    "path": pl.Binary,  # file names need not be valid text
    "size": pl.Int64,
    "mtime_ns": pl.Int64,
    "inode": pl.UInt64,
    "header_json": pl.String,
    "outcome": pl.String,
    "record_id": pl.String,
    "position": pl.Int64,
}


def is_catalog(path: str | Path) -> bool:
    """Whether ``path`` is a folder that :func:`write_catalog` wrote."""
    return (Path(path) / RECORDS).is_file()


def pixel_hash(array: npt.NDArray[Any]) -> str:
    """SHA-256 of shape and values as little-endian float32: equal pictures, equal hash."""
    content = np.ascontiguousarray(array, dtype="<f4")
    digest = hashlib.sha256(str(content.shape).encode())
    digest.update(content.data)
    return digest.hexdigest()


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
        table = pl.read_parquet(self.folder / RECORDS)
        if where is not None:
            table = _filtered(table, where)
        return [_record(row) for row in table.iter_rows(named=True)]

    def files(self, record_id: str) -> list[Path]:
        """Files of a record in reading order."""
        return [Path(state.path) for state in self._states(record_id)]

    def sample(self, record: Record) -> Sample:
        """The record's sample; its array loads on first access.

        Raises:
            ReadError: ``not_in_catalog``, or ``changed`` if the files no longer make one record.
        """
        found = self._found(record.record_id)
        return replace(sample(found), modality=record.modality, name=record.record_id)

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
        """Fill ``pixel_hash`` of the records named; patients who share an image share a split."""
        records = [
            replace(one, pixel_hash=hashes.get(one.record_id, one.pixel_hash))
            for one in self.records()
        ]
        splits = join(
            Member(r.patient_id, r.pixel_hash if r.role == "image" else None, r.split)
            for r in records
        )
        records = [replace(one, split=splits[one.patient_id]) for one in records]
        _write_records(self.folder, records)
        _write_summary(self.folder, {**self.summary, **summarise(records, self.ledger)})

    def states(self) -> dict[str, FileState]:
        """Every file of the archive as last seen, by path."""
        table = pl.read_parquet(self.folder / PATHS)
        return {(state := _state(row)).path: state for row in table.iter_rows(named=True)}

    def _states(self, record_id: str) -> list[FileState]:
        table = pl.scan_parquet(self.folder / PATHS)
        rows = table.filter(pl.col("record_id") == record_id).sort("position").collect()
        return [_state(row) for row in rows.iter_rows(named=True)]

    def _found(self, record_id: str) -> Found:
        states = self._states(record_id)
        if not states:
            raise ReadError("not_in_catalog", f"no record {record_id}")
        found, _ = group_headers(map(header_of, states))
        if len(found) != 1:
            fix = "index the archive again"
            raise ReadError("changed", f"record {record_id} is no single scan any more", fix=fix)
        return found[0]


def write_catalog(
    folder: Path,
    listed: list[Listed],
    states: Iterable[FileState],
    ledger: Ledger,
    summary: Mapping[str, Any],
) -> None:
    """Write all tables, each whole; paths are readable by their owner only."""
    owner = {
        file: (one.record.record_id, position)
        for one in listed
        for position, file in enumerate(one.files)
    }
    rows = [
        (
            os.fsencode(state.path),
            *state.stamp,
            state.header_json,
            state.outcome,
            *owner.get(state.path, ("", 0)),
        )
        for state in states
    ]
    _write_table(folder / PATHS, pl.DataFrame(rows, _PATH_SCHEMA, orient="row"), mode=0o600)
    _write_records(folder, [one.record for one in listed])
    ledger.save()
    _write_summary(folder, summary)


def summarise(records: list[Record], ledger: Ledger) -> dict[str, Any]:
    """Counts of records by kind, modality, role, split, format and flag; reasons of the ledger."""
    counts: dict[str, Any] = {"records": len(records)}
    for key in ("kind", "modality", "role", "split", "format"):
        counts[key] = dict(sorted(Counter(str(getattr(r, key)) for r in records).items()))
    flags = Counter(flag.partition("=")[0] for record in records for flag in record.flags)
    return {
        **counts,
        "patients": len({record.patient_id for record in records}),
        "flags": dict(sorted(flags.items())),
        "quarantined": len(ledger.entries()),
        "reasons": ledger.reasons(),
        "split_check": _split_check(records, ledger),
    }


def _split_check(records: Iterable[Record], ledger: Ledger) -> str:
    """``checked`` once every usable image has a pixel hash: duplicates can then be seen."""
    unusable = {entry.record_id for entry in ledger.entries()}
    images = [one for one in records if one.role == "image" and one.record_id not in unusable]
    return "checked" if all(one.pixel_hash for one in images) else "unchecked"


def _filtered(table: pl.DataFrame, where: str) -> pl.DataFrame:
    try:
        return table.filter(pl.sql_expr(where))
    except pl.exceptions.PolarsError as error:
        what = f"where: {str(error).splitlines()[0]}"
        fix = f"columns: {', '.join(table.columns)}; e.g. \"modality == 'MR'\""
        raise ConfigError(what, fix=fix) from None


def _record(row: dict[str, Any]) -> Record:
    for key in ("shape", "spacing_mm", "affine", "flags", "references"):
        row[key] = None if row[key] is None else tuple(row[key])
    return Record(**row)


def _state(row: dict[str, Any]) -> FileState:
    return FileState(
        path=os.fsdecode(row["path"]),
        size=row["size"],
        mtime_ns=row["mtime_ns"],
        inode=row["inode"],
        header_json=row["header_json"],
        outcome=row["outcome"],
    )


def _write_records(folder: Path, records: list[Record]) -> None:
    rows = [tuple(asdict(record).values()) for record in records]
    _write_table(folder / RECORDS, pl.DataFrame(rows, _RECORD_SCHEMA, orient="row"))


def _write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    write_text(folder / SUMMARY, json.dumps(summary, indent=1) + "\n")


def _write_table(path: Path, table: pl.DataFrame, *, mode: int = 0o644) -> None:
    buffer = io.BytesIO()
    table.write_parquet(buffer, compression="zstd")
    write_bytes(path, buffer.getvalue(), mode=mode)
