"""``medssl index``: what an archive holds, as a catalog. Reads headers only; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import rich.progress
from pydantic import Field, field_validator
from rich.console import Console

from medssl.archive._pool import map_items, usable_cpus
from medssl.archive.build import Listed, Rules, build_records, fingerprint, record_id_of
from medssl.archive.catalog import (
    LEDGER,
    Catalog,
    is_catalog,
    pixel_hash,
    summarise,
    write_catalog,
)
from medssl.archive.identity import SALT_NAME, load_salt
from medssl.archive.quarantine import Ledger
from medssl.archive.scan import Progress, Scan, scan_folder
from medssl.archive.split import Fractions
from medssl.core.config import Config
from medssl.core.errors import MedsslError, NothingUsableError, ReadError, UsageError
from medssl.core.runlog import Run
from medssl.core.sample import Record, Role
from medssl.readers._base import Found
from medssl.readers._dispatch import sample

# Decoded records between two writes of the catalog: what a killed run loses.
_SAVE_EVERY = 500
_DECODE_CHUNK = 8


class IndexConfig(Config):
    """Options of ``medssl index``."""

    archive: Path
    out: Path
    workers: int | None = Field(default=None, ge=0)
    """Processes that read headers and decode; default: one per CPU, none for a few files."""
    pixels: bool = False
    """Decode every record once and add its pixel hash, so that duplicates are found."""
    modality: str | None = None
    """Modality of files that do not state one (NIfTI without dataset.json), e.g. ``MR``."""
    split: Fractions = Fractions()
    """Share of patients in train, val and test."""
    seed: int = 0

    quiet: bool = False

    @field_validator("split")
    @classmethod
    def _adds_up(cls, split: Fractions) -> Fractions:
        split.check()
        return split


def run(config: IndexConfig) -> Run:
    """Scan, assemble, write the catalog; files that did not change are not opened again.

    Raises:
        UsageError: the archive is no folder, or ``out`` holds something else.
        NothingUsableError: no readable image or volume; the ledger says why.
    """
    if not config.archive.is_dir():
        raise UsageError("the archive is not a folder", where=str(config.archive))
    known = is_catalog(config.out) or (config.out / SALT_NAME).is_file()
    run = Run.open("index", config.out, resume=known)
    run.save_config(config, {})
    old = Catalog.open(config.out) if is_catalog(config.out) else None
    with _Bars(config.quiet) as bars:
        scan = scan_folder(
            config.archive,
            workers=_workers(config),
            cache=old.states() if old else None,
            skip=config.out,
            progress=bars.updater("headers"),
        )
        index = _Index(config, scan, Ledger(config.out / LEDGER), load_salt(config.out))
        records = old.records() if old else []
        listed = index.write({_key(r): r.pixel_hash for r in records if r.pixel_hash})
        if config.pixels:
            listed = index.decode(listed, bars.updater("pixels"))
    summary = Catalog.open(config.out).summary
    if not listed:
        reasons = ", ".join(f"{n} {reason}" for reason, n in summary["reasons"].items())
        what = f"no readable image or volume; quarantined: {reasons or 'nothing'}"
        raise NothingUsableError(what, where=str(config.archive), fix="see quarantine.jsonl")
    run.exit_code = 4 if summary["quarantined"] else 0
    return run.finish(opened=scan.opened, files=len(scan.files), **summary)


@dataclass
class _Index:
    """The parts that make one catalog."""

    config: IndexConfig
    scan: Scan
    ledger: Ledger
    salt: bytes

    def write(self, pixel_hashes: Mapping[tuple[str, str], str]) -> list[Listed]:
        """Build the records with what is known of their pixels, and write everything."""
        rules = Rules(
            salt=self.salt,
            fractions=self.config.split,
            seed=self.config.seed,
            modality=self.config.modality,
        )
        listed, bad = build_records(self.scan, rules, pixel_hashes)
        stamps = {state.path: state.stamp for state in self.scan.files}
        seen = set()
        for one in [*self.scan.refused, *bad]:
            record_id = record_id_of(one.files, self.scan.root, self.salt)
            mark = fingerprint(stamps[file] for file in one.files)
            self.ledger.add(record_id, "index", one.reason, one.message, hash=mark)
            seen.add((record_id, mark))
        self.ledger.keep("index", seen)
        self.ledger.keep("pixels", {_key(one.record) for one in listed})
        ignored = {f"ignored:{kind}": n for kind, n in sorted(self.scan.ignored.items())}
        records = [one.record for one in listed]
        summary = {**summarise(records, self.ledger), "ignored": ignored}
        write_catalog(self.config.out, listed, self.scan.files, self.ledger, summary)
        return listed

    def decode(self, listed: list[Listed], progress: Progress) -> list[Listed]:
        """Decode every record whose pixels are not known yet; saves now and then."""
        failed = {(e.record_id, e.hash) for e in self.ledger.entries() if e.stage == "pixels"}
        records = [one.record for one in listed]
        hashes = {_key(r): r.pixel_hash for r in records if r.pixel_hash}
        done_before = failed | hashes.keys()
        found = {min(one.files): one for one in self.scan.found}
        items = [(_key(one.record), found[min(one.files)], one.record.role) for one in listed]
        missing = [item for item in items if item[0] not in done_before]
        workers = _workers(self.config)
        results = map_items(_hash_pixels, missing, workers=workers, chunk=_DECODE_CHUNK)
        for done, ((key, _, _), result) in enumerate(results, start=1):
            if isinstance(result, MedsslError):
                reason = result.reason if isinstance(result, ReadError) else "too_large"
                self.ledger.add(key[0], "pixels", reason, result.what, hash=key[1])
            else:
                hashes[key] = result
            progress(done, len(missing))
            if done % _SAVE_EVERY == 0:
                self.write(hashes)
        return self.write(hashes)


class _Bars:
    """Progress on standard error, on a terminal only."""

    def __init__(self, quiet: bool) -> None:
        console = Console(stderr=True, quiet=quiet)
        hidden = quiet or not console.is_terminal
        self.progress = rich.progress.Progress(console=console, disable=hidden, transient=True)

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def updater(self, name: str) -> Progress:
        """A new bar, as the function that moves it."""
        bar = self.progress.add_task(name, total=None)

        def update(done: int, total: int) -> None:
            self.progress.update(bar, completed=done, total=total)

        return update


def _key(record: Record) -> tuple[str, str]:
    return record.record_id, record.fingerprint


def _workers(config: IndexConfig) -> int:
    return usable_cpus() if config.workers is None else config.workers


def _hash_pixels(item: tuple[tuple[str, str], Found, Role]) -> str:
    """Runs in a worker: decodes one record and refuses pictures nothing can be learnt from."""
    _, found, role = item
    array = sample(found).array
    if not np.isfinite(array).all():
        raise ReadError("nan_voxels", "voxels are NaN or infinite")
    if role == "image" and array.min() == array.max():
        raise ReadError("constant", "all voxels have one value")
    return pixel_hash(array)
