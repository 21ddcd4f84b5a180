"""From the headers of an archive to the tables of its catalog, series by series."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from medssl.archive import datasets
from medssl.archive._headers import Row, read_rows
from medssl.archive._pool import Pool
from medssl.archive._tables import (
    PATH_SCHEMA,
    PATHS,
    PIXEL_SCHEMA,
    PIXELS,
    RECORD_SCHEMA,
    RECORDS,
    ROOT_NOTE,
    SOURCE_SCHEMA,
    SOURCES,
    finished,
    read_table,
    record_table,
    write_table,
)
from medssl.archive.build import (
    Context,
    Draft,
    Failure,
    Rules,
    build_groups,
    fingerprint,
    record_id_of,
)
from medssl.archive.catalog import LEDGER, summarise, write_summary
from medssl.archive.quarantine import Ledger
from medssl.core.errors import MedsslError, ReadError

# Files of the groups that a worker assembles in one go.
_GROUP_FILES = 256
_Groups = list[list[tuple[int, int, int]]]


class Assembly:
    """Assembles the records of an archive whose headers are known.

    Only some series are unpacked at a time; what is kept of them are columns.
    """

    def __init__(self, headers: pl.DataFrame, journal: Path, root: Path, rules: Rules) -> None:
        self._headers = headers
        self._journal = str(journal)
        self._context = Context(
            journal=self._journal,
            root=root,
            hints=self._read_hints(),
            salt=rules.salt,
            shares=(rules.fractions.train, rules.fractions.val),
            seed=rules.seed,
            modality=rules.modality,
            policy=rules.policy,
        )
        self._records = [record_table([]).with_columns(pl.lit(0, pl.Int64).alias("first"))]
        self._sources = [pl.DataFrame(schema=SOURCE_SCHEMA)]
        self._failures: list[Failure] = []
        self._outcomes = _Outcomes(headers.height)

    def run(self, pool: Pool) -> Built:
        """Group, and collect what came of it."""
        build = partial(build_groups, self._context)
        for groups, result in pool.map(build, self._batches(), chunk=1):
            self._take(pool, groups, result)
        self._take_refused()
        self._take_bad_data_sets()
        outcomes = self._outcomes.column(self._headers["outcome"])
        records = pl.concat(self._records)
        order = records.select(pl.arg_sort_by("first", "part", maintain_order=True)).to_series()
        sources = pl.concat(self._sources)[order]
        failed = [(one.record_id, list(one.rows), "") for one in self._failures]
        return Built(
            root=self._context.root,
            paths=self._headers.with_columns(outcomes).select(*PATH_SCHEMA),
            records=records[order].select(*RECORD_SCHEMA),
            sources=sources.vstack(pl.DataFrame(failed, SOURCE_SCHEMA, orient="row")),
            failures=self._failures,
        )

    def _batches(self) -> Iterator[_Groups]:
        """Groups of files in archive order, some hundred files at a time."""
        table = self._headers.lazy().with_row_index("row").filter(pl.col("group") != 0)
        table = table.with_columns(pl.col("row").min().over("group").alias("first"))
        columns = table.sort("first", "row").select("first", "block", "number", "row").collect()
        firsts = columns["first"].cast(pl.Int64).to_numpy()
        edges = [*np.flatnonzero(np.diff(firsts, prepend=-1)).tolist(), columns.height]
        batch: _Groups = []
        files = 0
        for start, end in itertools.pairwise(edges):
            batch.append(columns[start:end, 1:].rows())
            files += end - start
            if files >= _GROUP_FILES:
                yield batch
                batch, files = [], 0
        if batch:
            yield batch

    def _take(
        self, pool: Pool, groups: _Groups, result: tuple[list[Draft], list[Failure]] | MedsslError
    ) -> None:
        if not isinstance(result, MedsslError):
            self._add_drafts(result[0])
            self._add_failures(result[1])
            return
        if len(groups) > 1:  # to find the one that kills its worker
            build = partial(build_groups, self._context)
            for one, again in pool.map(build, [[group] for group in groups], chunk=1):
                self._take(pool, one, again)
            return
        reason = result.reason if isinstance(result, ReadError) else "unreadable"
        rows = [read_rows(self._journal, block)[number] for block, number, _ in groups[0]]
        places = tuple(row for *_, row in groups[0])
        self._add_failures([self._failure(rows, places, reason, result.what)])

    def _take_refused(self) -> None:
        """Files whose header was already refused."""
        refused = self._headers.with_row_index("row").filter(
            pl.col("outcome").str.starts_with("refused:")
        )
        for block, number, row in refused.select("block", "number", "row").iter_rows():
            file = read_rows(self._journal, block)[number]
            self._add_failures([self._failure([file], (row,), *file.content["refused"])])

    def _take_bad_data_sets(self) -> None:
        for row, file in self._data_sets():
            if "bad_hint" in file.content:
                self._failures.append(self._failure([file], (row,), *file.content["bad_hint"]))

    def _read_hints(self) -> dict[Path, datasets.Hint]:
        hints = {}
        for _, row in self._data_sets():
            hint = row.content.get("hint")
            if hint is not None:
                labels = frozenset(map(Path, hint["labels"]))
                hints[Path(row.path).parent] = datasets.Hint(hint["modality"], labels)
        return hints

    def _data_sets(self) -> Iterator[tuple[int, Row]]:
        name = f"/{datasets.FILE_NAME}".encode()
        described = self._headers.with_row_index("row").filter(
            pl.col("path").bin.ends_with(name) & pl.col("outcome").str.starts_with("ignored:")
        )
        for row, block, number in described.select("row", "block", "number").iter_rows():
            yield row, read_rows(self._journal, block)[number]

    def _failure(
        self, files: list[Row], rows: tuple[int, ...], reason: str, message: str
    ) -> Failure:
        paths = [file.path for file in files]
        return Failure(
            record_id=record_id_of(paths, self._context.root, self._context.salt),
            fingerprint=fingerprint(file[1:4] for file in files),
            reason=reason,
            message=message,
            rows=rows,
        )

    def _add_drafts(self, drafts: list[Draft]) -> None:
        first = pl.Series("first", [min(one.rows) for one in drafts], pl.Int64)
        self._records.append(record_table(one.record for one in drafts).with_columns(first))
        sources = [(one.record.record_id, list(one.rows), one.found_json) for one in drafts]
        self._sources.append(pl.DataFrame(sources, SOURCE_SCHEMA, orient="row"))
        for one in drafts:
            self._outcomes.set(one.rows, "record")

    def _add_failures(self, failures: list[Failure]) -> None:
        self._failures += failures
        for one in failures:
            self._outcomes.set(one.rows, f"refused:{one.reason}")


class _Outcomes:
    """One outcome per file, as numbers; a record counts more than a refusal of another part."""

    def __init__(self, files: int) -> None:
        self._codes: npt.NDArray[np.int32] = np.zeros(files, dtype=np.int32)
        self._names = ["", "record"]

    def set(self, rows: tuple[int, ...], outcome: str) -> None:
        if outcome not in self._names:
            self._names.append(outcome)
        code = self._names.index(outcome)
        chosen = np.asarray(rows)
        self._codes[chosen] = np.where(self._codes[chosen] == 1, 1, code)

    def column(self, otherwise: pl.Series) -> pl.Series:
        """The outcomes; where none was set, that of the header."""
        named = pl.Series(self._names, dtype=pl.String)[self._codes]
        return named.zip_with(named != "", otherwise).alias("outcome")


@dataclass
class Built:
    """The tables of a catalog, as one run made them."""

    root: Path
    paths: pl.DataFrame
    records: pl.DataFrame
    sources: pl.DataFrame
    failures: list[Failure]

    def write(self, out: Path) -> None:
        """Write all tables, each whole, and bring the ledger up to date."""
        ledger = Ledger(out / LEDGER)
        for one in self.failures:
            ledger.add(one.record_id, "index", one.reason, one.message, hash=one.fingerprint)
        ledger.keep("index", {(one.record_id, one.fingerprint) for one in self.failures})
        now = {(one.record_id, one.reason) for one in self.failures}
        old = [one for one in ledger.entries() if one.stage == "index"]
        ledger.drop(one for one in old if (one.record_id, one.reason) not in now)
        keys = self.records.select("record_id", "fingerprint")
        ledger.keep("pixels", set(keys.iter_rows()))
        pixels = read_table(out / PIXELS, PIXEL_SCHEMA).join(
            keys, on=["record_id", "fingerprint"], how="semi", maintain_order="left"
        )
        records = finished(self.records, pixels)
        kinds = self.paths["outcome"].filter(self.paths["outcome"].str.starts_with("ignored:"))
        ignored = dict(sorted(kinds.value_counts().iter_rows()))
        place = {ROOT_NOTE: os.fsencode(self.root).hex()}  # it need not be valid text
        write_table(out / PATHS, self.paths, private=True, note=place)
        write_table(out / SOURCES, self.sources, private=True)
        write_table(out / PIXELS, pixels)
        write_table(out / RECORDS, records)
        ledger.save()
        write_summary(out, {**summarise(records, ledger), "ignored": ignored})
