"""The tables of a catalog folder: their columns, and how they are written whole."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import Any

import polars as pl

from medssl.archive._listing import SCHEMA as LISTING_SCHEMA
from medssl.archive._perceptual import near_pairs
from medssl.archive.split import Member, join
from medssl.core.runlog import write_bytes
from medssl.core.sample import Record

RECORDS, PATHS, SOURCES = "records.parquet", "paths.parquet", "sources.parquet"
HEADERS, PIXELS = "headers.parquet", "pixels.parquet"
RECORD_SCHEMA: dict[str, Any] = {
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
PATH_SCHEMA: dict[str, Any] = {**LISTING_SCHEMA, "outcome": pl.String}
# One row per record in the same order, then one per entry that the index quarantined.
SOURCE_SCHEMA: dict[str, Any] = {
    "record_id": pl.String,
    "rows": pl.List(pl.UInt32),  # of paths.parquet, in reading order
    "found_json": pl.String,  # empty = quarantined
}
HEADER_SCHEMA: dict[str, Any] = {
    **LISTING_SCHEMA,
    "outcome": pl.String,
    "group": pl.UInt64,
    "block": pl.Int64,
    "number": pl.UInt32,
}
PIXEL_SCHEMA: dict[str, Any] = {
    "record_id": pl.String,
    "fingerprint": pl.String,
    "pixel_hash": pl.String,
    "perceptual_hash": pl.String,
    "pixel_flags": pl.List(pl.String),
}
# Metadata of paths.parquet: the archive's place.
ROOT_NOTE = "medssl_root"
_LISTS = [name for name, kind in RECORD_SCHEMA.items() if isinstance(kind, pl.List)]
_KEY = ["record_id", "fingerprint"]
_ROW_GROUP = 2**16
_values = attrgetter(*RECORD_SCHEMA)


def record_table(records: Iterable[Record]) -> pl.DataFrame:
    """Records as a table."""
    return pl.DataFrame([_values(one) for one in records], RECORD_SCHEMA, orient="row")


def records_of(table: pl.DataFrame) -> list[Record]:
    """Inverse of :func:`record_table`."""
    records = []
    for row in table.iter_rows(named=True):
        for name in _LISTS:
            row[name] = None if row[name] is None else tuple(row[name])
        records.append(Record(**row))
    return records


def write_table(
    path: Path, table: pl.DataFrame, *, private: bool = False, note: dict[str, str] | None = None
) -> None:
    """Replace a table whole; private ones are readable by their owner only."""
    buffer = io.BytesIO()
    table.write_parquet(
        buffer, compression="zstd", compression_level=1, row_group_size=_ROW_GROUP, metadata=note
    )
    write_bytes(path, buffer.getvalue(), mode=0o600 if private else 0o644)


def read_table(path: Path, schema: dict[str, Any]) -> pl.DataFrame:
    """A table, or an empty one of this schema if there is none yet."""
    return pl.read_parquet(path) if path.is_file() else pl.DataFrame(schema=schema)


def finished(records: pl.DataFrame, pixels: pl.DataFrame) -> pl.DataFrame:
    """Records with what is known of their pixels, duplicates marked and splits joined.

    Of records of the same objects or the same pixels, all but the first are duplicates of it.
    Patients who share an image are taken for one and go to one split. Images that look alike are
    only marked: different patients may look alike.
    """
    table = records.drop("pixel_hash", "perceptual_hash")
    table = table.join(pixels, on=_KEY, how="left", maintain_order="left")
    flags = pl.concat_list("flags", pl.col("pixel_flags").fill_null([]))
    table = table.with_columns(flags.list.unique(maintain_order=True).alias("flags"))
    image_pixels = pl.when(pl.col("role") == "image").then("pixel_hash")
    objects = pl.when(pl.col("objects_hash") != "").then("objects_hash")
    first = pl.coalesce(_first_with(objects), _first_with(image_pixels), pl.lit(""))
    table = _with_near(table.with_columns(first.alias("duplicate_of")))
    splits = join(
        Member(patient, tuple(filter(None, hashes)), split)
        for patient, split, *hashes in table.select(
            "patient_id", "split", image_pixels.alias("a"), objects.alias("b")
        ).iter_rows()
    )
    patients = pl.col("patient_id").replace_strict(splits, return_dtype=pl.String)
    return table.with_columns(patients.alias("split")).select(*RECORD_SCHEMA)


def _with_near(table: pl.DataFrame) -> pl.DataFrame:
    """``near_duplicate_of``: among images of one kind and modality that are no duplicates."""
    usable = pl.col("perceptual_hash").is_not_null() & (pl.col("duplicate_of") == "")
    images = table.filter(usable & (pl.col("role") == "image"))
    near: dict[str, str] = {}
    for group in images.partition_by("kind", "modality", maintain_order=True):
        ids = group["record_id"].to_list()
        pairs = near_pairs(group["perceptual_hash"].to_list())
        near.update({ids[later]: ids[earlier] for later, earlier in pairs.items()})
    marks = pl.col("record_id").replace_strict(near, default="", return_dtype=pl.String)
    return table.with_columns((marks if near else pl.lit("")).alias("near_duplicate_of"))


def _first_with(key: pl.Expr) -> pl.Expr:
    """Id of the first record with the same key, where that is another one."""
    first = pl.col("record_id").first().over(key)
    return pl.when(key.is_not_null() & (first != pl.col("record_id"))).then(first)
