"""``medssl index``: what an archive holds, as a catalog. Reads headers only; imports no torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from medssl.archive._pool import usable_cpus
from medssl.archive.build import Rules
from medssl.archive.catalog import Catalog, is_catalog
from medssl.archive.identity import SALT_NAME, load_salt
from medssl.archive.indexing import stored_policy, update_catalog
from medssl.archive.split import Fractions
from medssl.core.config import Config
from medssl.core.errors import NothingUsableError, UsageError
from medssl.core.runlog import Run
from medssl.stages._bars import Bars


class IndexConfig(Config):
    """Options of ``medssl index``."""

    archive: Path
    out: Path
    workers: int | None = Field(default=None, ge=0)
    """Processes that read headers and decode; default: one per CPU. 0 = this process alone, without
    a limit on the time that a damaged file may take."""
    pixels: bool = False
    """Decode every record once: hashes that find duplicates, burned-in text, sectors, stills."""
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
    with Bars(config.quiet) as bars:
        update = update_catalog(
            config.archive,
            config.out,
            _rules(config),
            workers=_workers(config),
            progress=bars.updater("headers"),
        )
        catalog = Catalog.open(config.out)
        if config.pixels:
            from medssl.archive.quality import decode_missing  # loads decoders, which headers spare

            decode_missing(catalog, workers=_workers(config), progress=bars.updater("pixels"))
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


def _workers(config: IndexConfig) -> int:
    return usable_cpus() if config.workers is None else config.workers
