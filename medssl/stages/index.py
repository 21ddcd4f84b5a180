"""``medssl index``: what an archive holds, as a catalog. Reads headers only; imports no torch."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import rich.progress
from pydantic import Field, field_validator
from rich.console import Console

from medssl.archive._pool import map_items, usable_cpus
from medssl.archive._reading import Progress
from medssl.archive.build import Rules
from medssl.archive.catalog import Catalog, PixelFacts, is_catalog, pixel_hash
from medssl.archive.identity import SALT_NAME, load_salt
from medssl.archive.indexing import stored_policy, update_catalog
from medssl.archive.split import Fractions
from medssl.core.config import Config
from medssl.core.errors import MedsslError, NothingUsableError, ReadError, UsageError
from medssl.core.runlog import Run
from medssl.core.sample import Record

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
    gaps: Literal["quarantine", "split", "resample"] | None = None
    """Missing slices: quarantine the series, split it, or resample across the gap; default: as
    this catalog was made, at first quarantine."""
    tilt: Literal["shear", "resample"] | None = None
    """Tilted gantry: keep the sheared affine, or resample to right angles; default: as this
    catalog was made, at first shear."""
    clip_folders: bool | None = None
    """Take numbered pictures of one size in a folder for the frames of one clip."""
    video_backend: Literal["pyav", "decord", "torchcodec"] | None = None
    """Library that decodes videos; default: as this catalog was made, at first pyav."""
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
    with _Bars(config.quiet) as bars:
        update = update_catalog(
            config.archive,
            config.out,
            _rules(config),
            workers=_workers(config),
            progress=bars.updater("headers"),
        )
        catalog = Catalog.open(config.out)
        if config.pixels:
            _decode(catalog, _workers(config), bars.updater("pixels"))
    summary = catalog.summary
    if not summary["records"]:
        reasons = ", ".join(f"{n} {reason}" for reason, n in summary["reasons"].items())
        what = f"no readable image or volume; quarantined: {reasons or 'nothing'}"
        raise NothingUsableError(what, where=str(config.archive), fix="see quarantine.jsonl")
    run.exit_code = 4 if summary["quarantined"] else 0
    return run.finish(opened=update.opened, files=update.files, **summary)


def _rules(config: IndexConfig) -> Rules:
    clips = {None: None, True: "clips", False: "images"}[config.clip_folders]
    given: dict[str, Any] = {
        "gaps": config.gaps,
        "tilt": config.tilt,
        "folders": clips,
        "video": config.video_backend,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    return Rules(
        salt=load_salt(config.out),
        fractions=config.split,
        seed=config.seed,
        modality=config.modality,
        policy=replace(stored_policy(config.out), **chosen),
    )


def _decode(catalog: Catalog, workers: int, progress: Progress) -> None:
    """Decode every record whose pixels are not known yet; saves now and then."""
    failed = {(e.record_id, e.hash) for e in catalog.ledger.entries() if e.stage == "pixels"}
    missing = [r for r in catalog.records() if not r.pixel_hash and _key(r) not in failed]
    facts: dict[str, PixelFacts] = {}
    hash_one = partial(_hash_pixels, catalog.folder)
    results = map_items(hash_one, missing, workers=workers, chunk=_DECODE_CHUNK)
    for done, (record, result) in enumerate(results, start=1):
        if isinstance(result, MedsslError):
            reason = result.reason if isinstance(result, ReadError) else "too_large"
            key, mark = _key(record)
            catalog.ledger.add(key, "pixels", reason, result.what, hash=mark)
        else:
            facts[record.record_id] = result
        progress(done, len(missing))
        if done % _SAVE_EVERY == 0:
            _save(catalog, facts)
    _save(catalog, facts)


def _save(catalog: Catalog, facts: dict[str, PixelFacts]) -> None:
    catalog.ledger.save()
    catalog.add_pixels(facts)
    facts.clear()


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


def _hash_pixels(folder: Path, record: Record) -> PixelFacts:
    """Runs in a worker: decodes one record and refuses pictures nothing can be learnt from."""
    array = Catalog.open(folder).sample(record).array
    if not np.isfinite(array).all():
        raise ReadError("nan_voxels", "voxels are NaN or infinite")
    if record.role == "image" and array.min() == array.max():
        raise ReadError("constant", "all voxels have one value")
    return PixelFacts(pixel_hash=pixel_hash(array))
