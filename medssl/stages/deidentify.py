"""Copies of scans with fewer traces of the patient: ``medssl deidentify -i IN -o OUT``.

This reduces the risk that somebody is recognised; it does not guarantee that nobody is. A face can
be rendered from a head scan, rare findings speak for themselves, and text in a place where no rule
looks stays.

Written: ``OUT/files/<patient>/<study>/<series>/<id>.dcm`` and ``OUT/files/nifti/<id>.nii.gz`` (all
names are salted hashes), ``OUT/quarantine.jsonl`` (what was not copied, and why) and
``OUT/run.json``.

DICOM: the Basic Profile of PS3.15 2024b, every row of Table E.1-1; no option that would keep dates,
descriptions or devices. Ultrasound and screen captures are copied only if everything outside the
picture could be blackened. NIfTI: free text of the header and extensions go. Other formats, text
and reports are not copied.

The key: pseudonyms and UIDs come from a secret in ``--key`` (default ``OUT.key``, beside OUT and
not in it, readable by its owner only). With the key and a list of patients anybody can tell who is
who: keep it apart from the copies. The same key gives the same pseudonyms, so that later studies
join earlier ones; delete it once nothing will be added. ``OUT.key.paths.parquet`` beside it says
which file has which id.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import rich
import yaml
from pydantic import Field
from rich.progress import track

from medssl.archive._deid_dicom import Ignored, copy_dicom
from medssl.archive._deid_nifti import copy_nifti
from medssl.archive._pool import map_items, usable_cpus
from medssl.archive.identity import hash_id, load_secret
from medssl.archive.profile import EDITION
from medssl.archive.quarantine import Ledger
from medssl.core.config import Config
from medssl.core.errors import (
    MedsslError,
    NothingUsableError,
    ReadError,
    ResourceError,
    UsageError,
)
from medssl.core.runlog import Run, write_bytes
from medssl.readers._dicom_open import is_bare
from medssl.readers._dispatch import HEAD_BYTES, read_header, walk
from medssl.readers._source import container_of, is_container, open_source

_FILES = "files"
_CHUNK = 16
_OTHERS_MAY = 0o077


class DeidentifyConfig(Config):
    """What to copy where."""

    input: Path
    """Folder of scans."""
    out: Path
    key: Path | None = None
    """File of the secret that pseudonyms come from; made if it does not exist."""
    workers: int | None = Field(default=None, ge=0)
    """Processes; default: one per CPU, none for a few files."""
    resume: bool = False
    overwrite: bool = False


def run(config: DeidentifyConfig) -> Run:
    """Copy every scan that the rules cover; one bad file does not stop the rest.

    Raises:
        UsageError: folders that overlap, a key that others can read or that lies in ``out``.
        NothingUsableError: nothing could be copied; the ledger says why.
        ResourceError: the disk is full.
    """
    _refuse_overlap(config)
    key_file = config.key or config.out.absolute().with_name(f"{config.out.absolute().name}.key")
    key = _load_key(key_file, config.out)
    finished = Run.open("deidentify", config.out, resume=config.resume, overwrite=config.overwrite)
    _check_same_key(finished.out, key)
    finished.save_config(config, {"profile": EDITION, "key_check": hash_id(key, "check")})
    paths = list(walk(config.input, skip=config.out))
    ids = {path: hash_id(key, "file", str(path.relative_to(config.input))) for path in paths}
    table = key_file.with_name(f"{key_file.name}.paths.parquet")
    _write_paths(table, ids)
    counts, ledger = Counter[str](), Ledger(finished.out / "quarantine.jsonl")
    failed: set[tuple[str, str]] = set()
    for file_id, outcome in _outcomes(config, ids, key):
        if isinstance(outcome, ReadError):
            ledger.add(file_id, "deidentify", outcome.reason, outcome.what)
            failed.add((file_id, ""))
            counts["quarantined"] += 1
        elif isinstance(outcome, MedsslError):
            ledger.save()
            raise outcome
        else:
            counts[outcome] += 1
    ledger.keep("deidentify", failed)
    ledger.save()
    _finish(finished, counts, ledger)
    # For the terminal only: run.json is written and holds no path.
    finished.result["outputs"] = [key_file.absolute(), table.absolute()]
    return finished


def _finish(run: Run, counts: Counter[str], ledger: Ledger) -> None:
    copied = counts["copied"] + counts["kept"]
    run.exit_code = 4 if counts["quarantined"] else 0
    if not copied:
        run.exit_code = NothingUsableError.exit_code
    run.finish(
        profile=f"DICOM PS3.15 {EDITION} Basic Profile",
        copied=counts["copied"],
        kept=counts["kept"],
        quarantined=counts["quarantined"],
        reasons=ledger.reasons(),
        ignored={k: n for k, n in sorted(counts.items()) if k.startswith("ignored:")},
    )
    if not copied:
        reasons = ", ".join(f"{n} {reason}" for reason, n in ledger.reasons().items())
        what = f"nothing could be copied ({reasons or 'no scan found'})"
        raise NothingUsableError(what, fix="see quarantine.jsonl")


def _outcomes(
    config: DeidentifyConfig, ids: dict[Path, str], key: bytes
) -> Iterator[tuple[str, str | MedsslError]]:
    """``(file id, copied | kept | ignored:<kind> or error)``."""
    target = config.out / _FILES
    done = {file.name.partition(".")[0] for file in target.glob("**/*.*")}
    todo = [path for path, file_id in ids.items() if file_id not in done]
    yield from ((ids[path], "kept") for path in ids.keys() - set(todo))
    workers = usable_cpus() if config.workers is None else config.workers
    copy = partial(_copy, target=target, root=config.input, key=key)
    results = map_items(copy, todo, workers=workers, chunk=_CHUNK)
    quiet = not rich.get_console().is_terminal
    shown = track(results, "deidentify", total=len(todo), transient=True, disable=quiet)
    for path, outcome in shown:
        yield ids[path], outcome


def _copy(path: Path, *, target: Path, root: Path, key: bytes) -> str:
    """Runs in a worker: one file; what became of it."""
    file_id = hash_id(key, "file", str(path.relative_to(root)))
    try:
        kind = _format(path)
        if kind == "dicom":
            folders, content = copy_dicom(path, key, file_id)
            place = target.joinpath(*(name or "unknown" for name in folders), f"{file_id}.dcm")
        elif kind == "nifti":
            content, place = copy_nifti(path), target / "nifti" / f"{file_id}.nii.gz"
        else:
            return kind
    except Ignored as nothing:
        return f"ignored:{nothing.kind}"
    except ResourceError as error:
        raise ReadError("too_large", error.what, where=str(path)) from None
    except OSError as error:
        what = f"the file cannot be read ({error.strerror or type(error).__name__})"
        raise ReadError("unreadable", what, where=str(path)) from None
    place.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(place, content)
    return "copied"


def _format(path: Path) -> str:
    """``dicom``, ``nifti`` or ``ignored:<kind>``.

    Raises:
        ReadError: an image of a format that no rule covers: ``not_deidentified:<format>``.
    """
    # Opening a named pipe would wait for its writer.
    if container_of(path) is not None or (path.is_file() and not is_container(path)):
        try:
            with open_source(path) as file:
                head = file.read(HEAD_BYTES)
        except OSError:
            head = b""
        if head[128:132] == b"DICM" or is_bare(head):
            return "dicom"
    header = read_header(path)
    if header.ignored:
        return f"ignored:{header.ignored}"
    if header.format != "nifti":
        what = f"no rule says how to clean {header.format} files"
        raise ReadError(f"not_deidentified:{header.format}", what, where=str(path))
    return "nifti"


def _load_key(path: Path, out: Path) -> bytes:
    if path.resolve().is_relative_to(out.resolve()):
        fix = "keep the key apart from the copies: choose another --key"
        raise UsageError("the key lies in the output folder", where=str(path), fix=fix)
    key = load_secret(path)
    if len(key) < 16:
        raise UsageError("the key is too short", where=str(path), fix="choose another --key")
    if path.stat().st_mode & _OTHERS_MAY:
        fix = "chmod 600, then run again"
        raise UsageError("others may read the key", where=str(path), fix=fix)
    return key


def _check_same_key(out: Path, key: bytes) -> None:
    earlier = out / "resolved.yaml"
    if not earlier.exists():
        return
    known = yaml.safe_load(earlier.read_text(encoding="utf-8"))
    if known.get("key_check") != hash_id(key, "check"):
        fix = "give the --key of the earlier run, or --overwrite"
        raise UsageError("the earlier copies were made with another key", where=str(out), fix=fix)


def _refuse_overlap(config: DeidentifyConfig) -> None:
    if not config.input.is_dir():
        raise UsageError("the input is not a folder", where=str(config.input))
    out, scans = config.out.resolve(), config.input.resolve()
    if out.is_relative_to(scans) or scans.is_relative_to(out):
        fix = "choose an --out beside the input"
        raise UsageError("the output and the input overlap", where=str(config.out), fix=fix)


def _write_paths(path: Path, ids: dict[Path, str]) -> None:
    # Binary, as in the catalog: file names need not be valid text.
    rows = [(file_id, os.fsencode(str(file))) for file, file_id in ids.items()]
    schema: dict[str, Any] = {"file_id": pl.String, "path": pl.Binary}
    table = io.BytesIO()
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(table)
    write_bytes(path, table.getvalue(), mode=0o600)
