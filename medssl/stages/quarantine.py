"""``medssl quarantine``: what could not be used, by reason; try it again; hand it to support.

The ledger itself holds no path. Paths come from the catalog's private tables and are shown on the
terminal only.
"""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medssl.archive._pool import usable_cpus
from medssl.archive.catalog import LEDGER, Catalog, is_catalog
from medssl.archive.indexing import archive_of, stored_rules, update_catalog
from medssl.archive.quality import decode_missing
from medssl.archive.quarantine import Entry, Ledger
from medssl.core.errors import ReadError, UsageError
from medssl.core.reasons import meaning
from medssl.core.runlog import write_text
from medssl.stages._bars import Bars

# Stages whose entries an index run makes or takes back.
_INDEX_STAGES = {"index", "pixels"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One reason of one stage."""

    reason: str
    stage: str
    items: int
    first_seen: str
    last_seen: str
    what: str
    fix: str


@dataclass(frozen=True, kw_only=True)
class Retried:
    """What became of entries that were tried again.

    Attributes:
        tried: read or decoded again now.
        cured: of these, no longer in the ledger.
        waiting: forgotten; the next run of their stage tries them.
        left: entries of the ledger now.
    """

    tried: int
    cured: int
    waiting: int
    left: int


def open_ledger(folder: Path) -> Ledger:
    """The ledger of a catalog or of a run folder.

    Raises:
        UsageError: there is none.
    """
    path = folder / LEDGER
    if not path.is_file():
        fix = f"give a catalog or a run folder; one without {LEDGER} has nothing quarantined"
        raise UsageError("no quarantine ledger here", where=str(folder), fix=fix)
    return Ledger(path)


def select(ledger: Ledger, reason: str | None = None) -> list[Entry]:
    """Entries with this reason; ``no_decoder`` stands for all its transfer syntaxes.

    Raises:
        UsageError: no entry has it.
    """
    entries = ledger.entries()
    if reason is None:
        return entries
    chosen = [one for one in entries if reason in {one.reason, one.reason.partition(":")[0]}]
    if not chosen:
        known = ", ".join(ledger.reasons()) or "it is empty"
        raise UsageError(f"no entry has the reason '{reason}'", fix=f"in this ledger: {known}")
    return chosen


def overview(entries: Sequence[Entry]) -> list[Row]:
    """Counts by reason and stage, most items first."""
    groups: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for one in entries:
        groups[one.reason, one.stage].append(one)
    rows = [
        Row(
            reason=reason,
            stage=stage,
            items=len(members),
            first_seen=min(one.first_seen for one in members),
            last_seen=max(one.last_seen for one in members),
            **meaning(reason)._asdict(),
        )
        for (reason, stage), members in groups.items()
    ]
    return sorted(rows, key=lambda row: (-row.items, row.reason, row.stage))


def paths_of(folder: Path, entries: Sequence[Entry]) -> list[tuple[Entry, list[Path]]]:
    """Entries with their files, for the terminal only.

    Raises:
        UsageError: the folder is no catalog: only a catalog knows files.
    """
    if not is_catalog(folder):
        fix = "look it up in the paths.parquet of the run, or give the catalog"
        raise UsageError("only a catalog knows the paths of its entries", fix=fix)
    catalog = Catalog.open(folder)
    return [(one, _files(catalog, one.record_id)) for one in entries]


def export(entries: Sequence[Entry], target: Path) -> None:
    """Write ids, hashes, reasons and meanings to a ``.csv`` or ``.json``; no path, no name.

    Raises:
        UsageError: another suffix, or the file exists.
    """
    if target.exists():
        raise UsageError("the output exists", where=str(target), fix="choose another name")
    rows: list[dict[str, Any]] = [
        {**asdict(one), **meaning(one.reason)._asdict()} for one in entries
    ]
    if target.suffix == ".json":
        write_text(target, json.dumps(rows, indent=1) + "\n")
    elif target.suffix == ".csv":
        text = io.StringIO()
        table = csv.DictWriter(text, [*Entry.__dataclass_fields__, "what", "fix"])
        table.writeheader()
        table.writerows(rows)
        write_text(target, text.getvalue())
    else:
        raise UsageError("the export is a .csv or .json file", where=str(target))


def retry(folder: Path, reason: str | None = None, *, quiet: bool = False) -> Retried:
    """Forget entries, and read or decode again now what the index found.

    Entries of other stages (store, finetune, predict) are forgotten: their next run tries again.

    Raises:
        UsageError: no catalog, no such reason, or the archive is no longer there.
    """
    catalog = Catalog.open(folder)
    ledger = open_ledger(folder)
    chosen = select(ledger, reason)
    now = [one for one in chosen if one.stage in _INDEX_STAGES]
    root, rules = archive_of(folder), stored_rules(folder)
    # The index takes its own entries back where they are cured; others keep their first date.
    ledger.drop(one for one in chosen if one.stage != "index")
    ledger.save()
    with Bars(quiet) as bars:
        if now:
            catalog.forget({one.record_id for one in now if one.stage == "index"})
            progress = bars.updater("headers")
            update_catalog(root, folder, rules, workers=usable_cpus(), progress=progress)
        catalog = Catalog.open(folder)
        if any(one.stage == "pixels" for one in now):
            decode_missing(catalog, workers=usable_cpus(), progress=bars.updater("pixels"))
    left = Ledger(folder / LEDGER).entries()
    still = {(one.record_id, one.stage) for one in left}
    return Retried(
        tried=len(now),
        cured=sum((one.record_id, one.stage) not in still for one in now),
        waiting=len(chosen) - len(now),
        left=len(left),
    )


def _files(catalog: Catalog, record_id: str) -> list[Path]:
    try:
        return catalog.files(record_id)
    except ReadError:
        return []  # of an earlier state of the archive
