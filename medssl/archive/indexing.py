"""Bring a catalog up to date with its archive: list, read what changed, assemble, write."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from medssl import __version__
from medssl.archive._assembly import Assembly
from medssl.archive._headers import HEADER_LIMIT_S
from medssl.archive._listing import SCHEMA, list_files
from medssl.archive._pool import Pool
from medssl.archive._reading import TRANSIENT, Progress, Reading
from medssl.archive._tables import PATHS, RECORDS, ROOT_NOTE
from medssl.archive.build import Rules
from medssl.archive.identity import load_salt
from medssl.archive.split import Fractions
from medssl.core.errors import UsageError
from medssl.core.runlog import write_text
from medssl.readers._base import Policy

_META = "index.json"
_WORKER_MODULES = ("medssl.archive.build", "medssl.readers.dicom")


@dataclass(frozen=True)
class Update:
    """What an update did.

    Attributes:
        files: files of the archive, members of containers included.
        opened: files that had to be opened; the others were known and unchanged.
    """

    files: int
    opened: int


def update_catalog(
    archive: Path, out: Path, rules: Rules, *, workers: int, progress: Progress
) -> Update:
    """Index an archive into a catalog folder; a run that was killed is taken up where it was.

    Args:
        archive: folder.
        out: the catalog, which may be empty; left out if it lies inside the archive.
        rules: salt, split, modality and policy.
        workers: processes; 0 = this one, without time limits.
        progress: called with (files done, files in all).

    Raises:
        UsageError: the catalog is of another archive.
    """
    root = archive.absolute()
    with Pool(workers, HEADER_LIMIT_S) as pool:
        if not (out / _META).is_file():
            pool.start(*_WORKER_MODULES)  # they load while the disk is listed
        known = _known_listing(out)
        listing = list_files(root, out, known)
        if known is not None:
            _refuse_another(out, root, listing, known)
        if _is_current(out, listing, rules):
            return Update(listing.height, 0)
        reading = Reading(out, pool, progress)
        headers, opened = reading.headers(listing)
        tables = Assembly(headers, reading.journal.path, root, rules).run(pool)
    _write_meta(out, rules, complete=False)
    tables.write(out)
    _write_meta(out, rules, complete=True)
    return Update(listing.height, opened)


def stored_policy(out: Path) -> Policy:
    """The policy a catalog was made with; the default one if there is none."""
    path = out / _META
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return Policy(**content.get("policy", {}))


def stored_rules(out: Path) -> Rules:
    """The rules a catalog was made with.

    Raises:
        UsageError: it was made by a version that did not note them.
    """
    try:
        content = json.loads((out / _META).read_text(encoding="utf-8"))
        return Rules(
            salt=load_salt(out),
            fractions=Fractions(**content["split"]),
            seed=content["seed"],
            modality=content["modality"],
            policy=Policy(**content["policy"]),
        )
    except (OSError, ValueError, TypeError, KeyError):
        raise _outdated(out) from None


def archive_of(out: Path) -> Path:
    """The archive that a catalog was made of.

    Raises:
        UsageError: it was made by a version that did not note it, or is no longer there.
    """
    root = _noted_root(out)
    if root is None:
        raise _outdated(out)
    if not root.is_dir():
        fix = "index it where it is now: medssl index ARCHIVE -o CATALOG"
        raise UsageError("the archive is not where it was indexed", where=str(root), fix=fix)
    return root


def _noted_root(out: Path) -> Path | None:
    noted = pl.read_parquet_metadata(out / PATHS).get(ROOT_NOTE, "")
    return Path(os.fsdecode(bytes.fromhex(noted))) if noted else None


def _refuse_another(out: Path, root: Path, listing: pl.DataFrame, known: pl.DataFrame) -> None:
    """An archive may move; one that shares no file name with the catalog's is another one."""
    before = _noted_root(out)
    if before is None or before == root or known.is_empty() or listing.is_empty():
        return
    old = known["path"].bin.slice(len(os.fsencode(before)))
    if not listing["path"].bin.slice(len(os.fsencode(root))).is_in(old.implode()).any():
        fix = "choose another --out: a catalog belongs to one archive"
        raise UsageError("the catalog is of another archive", where=str(out), fix=fix)


def _outdated(out: Path) -> UsageError:
    fix = "bring it up to date: medssl index ARCHIVE -o CATALOG"
    return UsageError("the catalog is of another version of medssl", where=str(out), fix=fix)


def _known_listing(out: Path) -> pl.DataFrame | None:
    path = out / PATHS
    return pl.read_parquet(path, columns=[*SCHEMA]) if path.is_file() else None


def _is_current(out: Path, listing: pl.DataFrame, rules: Rules) -> bool:
    if not (out / _META).is_file() or not (out / RECORDS).is_file():
        return False
    stored = json.loads((out / _META).read_text(encoding="utf-8"))
    if stored != _meta(rules, complete=True):
        return False
    paths = pl.read_parquet(out / PATHS)
    transient = paths["outcome"].is_in(TRANSIENT).any()
    return not transient and paths.select(*SCHEMA).equals(listing)


def _meta(rules: Rules, *, complete: bool) -> dict[str, Any]:
    return {
        "medssl": __version__,
        "policy": asdict(rules.policy),
        "split": rules.fractions.model_dump(),
        "seed": rules.seed,
        "modality": rules.modality,
        "complete": complete,
    }


def _write_meta(out: Path, rules: Rules, *, complete: bool) -> None:
    write_text(out / _META, json.dumps(_meta(rules, complete=complete), indent=1) + "\n")
