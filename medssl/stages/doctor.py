"""``medssl doctor``: what is on the disk before anything else runs, as counts and as one page.

The archive is indexed into a private temporary folder that is deleted again; some records are
decoded for thumbnails. Neither the report nor the page holds a path or an identifier.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from medssl import __version__
from medssl.archive._pool import usable_cpus
from medssl.archive._reading import Progress
from medssl.archive.build import Rules
from medssl.archive.catalog import Catalog
from medssl.archive.identity import load_salt
from medssl.archive.indexing import update_catalog
from medssl.archive.split import Fractions
from medssl.core.config import Config
from medssl.core.errors import UsageError
from medssl.core.runlog import Run, write_text
from medssl.core.sample import Record
from medssl.stages import _doctor_facts as facts
from medssl.stages._bars import Bars
from medssl.stages._doctor_page import as_page
from medssl.stages._doctor_samples import Sampled, choose, look_at
from medssl.stages._doctor_verdict import verdict
from medssl.stages._machine import machine

REPORT, PAGE = "doctor.json", "doctor.html"
# The store holds volumes as float16; compression is not counted on (docs/results/bench_store.md).
_STORE_BYTES_PER_VOXEL = 2
_RECORDS_PER_SYNTAX = 3


class DoctorConfig(Config):
    """Options of ``medssl doctor``."""

    archive: Path
    out: Path | None = None
    """Folder for ``doctor.html`` and ``doctor.json``; none are written without it."""
    workers: int | None = Field(default=None, ge=0)
    """Processes that read headers; default: one per CPU."""
    samples: int = Field(default=24, ge=0)
    """Records to decode for thumbnails and for a look for burned-in text."""
    overwrite: bool = False
    quiet: bool = False


def run(config: DoctorConfig) -> Run:
    """Examine the archive; ``Run.result`` is the report, see docs/doctor.md.

    Raises:
        UsageError: the archive is no folder, or ``out`` is in use.
    """
    if not config.archive.is_dir():
        raise UsageError("the archive is not a folder", where=str(config.archive))
    run = Run("doctor", config.out or config.archive)
    if config.out is not None:
        run = Run.open("doctor", config.out, overwrite=config.overwrite)
    with (
        tempfile.TemporaryDirectory(prefix="medssl-doctor-") as private,
        Bars(config.quiet) as bars,
    ):
        report, pictures = _examine(config, Path(private), bars)
    run.result = report
    run.exit_code = 0 if report["files"]["record"] else 3
    if config.out is not None:
        run.save_config(config, {})
        write_text(config.out / REPORT, json.dumps(report, indent=1) + "\n")
        write_text(config.out / PAGE, as_page(report, pictures))
    return run


def _examine(
    config: DoctorConfig, private: Path, bars: Bars
) -> tuple[dict[str, Any], list[Sampled]]:
    start_s = time.perf_counter()
    rules = Rules(salt=load_salt(private), fractions=Fractions(), seed=0)
    workers = usable_cpus() if config.workers is None else config.workers
    progress = bars.updater("headers")
    root = config.archive.absolute()
    update_catalog(root, private, rules, workers=workers, progress=progress)
    index_s = time.perf_counter() - start_s
    catalog = Catalog.open(private)
    records, files = catalog.records(), facts.files_of(catalog)
    pictures = _pictures(catalog, choose(records, config.samples), bars.updater("samples"))
    report: dict[str, Any] = {
        "medssl": __version__,
        "files": {
            **facts.outcomes_of(files),
            "bytes": sum(max(one.size_bytes, 0) for one in files),
        },
        "records": {
            "total": len(records),
            "patients": len({one.patient_id for one in records}),
            **facts.counts_of(records),
        },
        "syntaxes": _syntaxes(catalog, records, files, pictures),
        "splits": facts.splits_of(records),
        "flags": facts.flags_of(records),
        "quarantine": facts.quarantine_of(files, catalog.ledger),
        "orphans": facts.orphans_of(records, files),
        "duplicates": facts.duplicates_of(records, files),
        "identity": {
            **facts.identity_risk(root, records, files),
            "text_looked_at": sum(one.decoded_bytes > 0 for one in pictures),
            "text_found": sum(one.text_found for one in pictures),
        },
        "machine": machine(config.out or Path.cwd()),
        "plan": _plan(records, pictures, index_s),
        "samples": [_sample_row(one) for one in pictures],
    }
    report["verdict"] = [{"level": level, "text": text} for level, text in verdict(report)]
    return report, pictures


def _pictures(catalog: Catalog, chosen: Sequence[Record], progress: Progress) -> list[Sampled]:
    pictures = []
    for done, record in enumerate(chosen, start=1):
        pictures.append(look_at(catalog, record))
        progress(done, len(chosen))
    return pictures


def _syntaxes(
    catalog: Catalog,
    records: Sequence[Record],
    files: Sequence[facts.File],
    pictures: Sequence[Sampled],
) -> list[dict[str, Any]]:
    """Transfer syntaxes with the number of files, and whether a record of each decodes here.

    A damaged file says nothing about its syntax: up to three records are tried.
    """
    of_record = {one.record_id: one.syntax for one in files if one.record_id and one.syntax}
    looked_at = {one.record.record_id: one for one in pictures}
    smallest: dict[str, list[Record]] = defaultdict(list)
    pictured = [one for one in records if math.prod(one.shape)]  # contours have no pixels
    for one in sorted(pictured, key=lambda r: (r.record_id not in looked_at, math.prod(r.shape))):
        smallest[of_record.get(one.record_id, "")].append(one)
    rows = []
    for uid, n in facts.syntaxes_of(files).most_common():
        reason, seen = facts.decoder_refusal(files, uid), False
        for record in smallest[uid][:_RECORDS_PER_SYNTAX]:
            reason = (looked_at.get(record.record_id) or look_at(catalog, record)).reason
            seen = not reason
            if seen:
                break
        decoded = "yes" if seen else "no" if reason else "not tried"
        shown, name = facts.syntax_name(uid)
        rows.append({"uid": shown, "name": name, "files": n, "decoded": decoded, "reason": reason})
    return rows


def _plan(records: Sequence[Record], pictures: Sequence[Sampled], index_s: float) -> dict[str, Any]:
    """What comes next, by stated rules: 2 bytes per voxel in the store, decoding as measured."""
    voxels = sum(math.prod(r.shape) for r in records if r.kind == "volume" and r.role == "image")
    decoded = sum(one.decoded_bytes for one in pictures)
    seconds = sum(one.decode_s for one in pictures)
    return {
        "headers_s": round(index_s, 1),
        "store_bytes": voxels * _STORE_BYTES_PER_VOXEL,
        "decode_bytes_per_s": round(decoded / seconds) if seconds else None,
        "store_s": round(4 * voxels / (decoded / seconds) / usable_cpus()) if decoded else None,
    }


def _sample_row(one: Sampled) -> dict[str, Any]:
    return {
        "record_id": one.record.record_id,
        "kind": one.record.kind,
        "modality": one.record.modality,
        "shape": list(one.record.shape),
        "shown": one.picture_CHW is not None,
        "hidden": one.hidden,
        "reason": one.reason,
    }
