"""From counts to plain sentences: what cannot be used, what is at risk, what to do next."""

from __future__ import annotations

from typing import Any, Literal

from medssl.core.reasons import LEAVE

Level = Literal["good", "warn", "bad"]
Line = tuple[Level, str]
# Copies and localizers are expected in any archive.
_HARMLESS = {"duplicate_file", "localizer"}
# More than this share of the imaging files cannot be used: do not go on without a look.
_STOP = 0.2


def verdict(report: dict[str, Any]) -> list[Line]:
    """Sentences, the most pressing first."""
    lines = [
        *_usable(report),
        *_decoders(report["syntaxes"]),
        *_modality(report["records"]),
        *_geometry(report),
        *_labels(report["orphans"], report["duplicates"]),
        *_identity(report["identity"]),
        *_resources(report["machine"], report["plan"]),
    ]
    rank = {"bad": 0, "warn": 1, "good": 2}
    return sorted(lines, key=lambda line: rank[line[0]])


def gib(size: float) -> str:
    """Bytes for people.

    >>> gib(3.2 * 2**30), gib(5_000_000)
    ('3.2 GiB', '4.8 MiB')
    """
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"


def _usable(report: dict[str, Any]) -> list[Line]:
    rows = [row for row in report["quarantine"] if row["reason"] not in _HARMLESS]
    used, refused = report["files"]["record"], sum(row["files"] for row in rows)
    if not used:
        what = f"None of {refused:,} imaging files can be used." if refused else "No imaging found."
        return [("bad", f"{what} {_reasons(rows)}".rstrip())]
    if not refused:
        return [("good", f"Every imaging file can be used: {used:,} files.")]
    share = refused / (used + refused)
    text = (
        f"{_percent(share)} of the imaging files cannot be used ({refused:,} of "
        f"{used + refused:,}). {_reasons(rows)}"
    )
    return [("bad" if share > _STOP else "warn", text)]


def _reasons(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    named = "; ".join(f"{row['reason']} {row['files']:,} ({row['what']})" for row in rows[:3])
    more = f"; further reasons below ({len(rows) - 3})" if len(rows) > 3 else ""
    step = next((row["fix"] for row in rows if row["fix"] != LEAVE), LEAVE)
    return f"{named}{more}. Next: {step}."


def _decoders(rows: list[dict[str, Any]]) -> list[Line]:
    missing = [row for row in rows if row["decoded"] == "no"]
    if not missing:
        return []
    named = ", ".join(f"{row['name']} ({row['files']:,} files: {row['reason']})" for row in missing)
    return [("bad", f"Not decoded on this machine: {named}.")]


def _modality(records: dict[str, Any]) -> list[Line]:
    unknown = records["modality"].get("unknown", 0)
    if not unknown:
        return []
    text = f"{unknown:,} of {records['total']:,} records do not state a modality"
    return [("warn", f"{text}: where they are of one, index with modality=MR (or CT, US ...).")]


def _geometry(report: dict[str, Any]) -> list[Line]:
    lines: list[Line] = []
    flags, splits = report["flags"], report["splits"]
    if splits["split"]:
        tags = ", ".join(splits["by_tag"]) or "orientation or matrix"
        text = f"{splits['split']:,} of {splits['series']:,} series hold more than one record, "
        lines.append(("good", f"{text}told apart by {tags}; each is a record of its own."))
    gaps = [row for row in report["quarantine"] if row["reason"] == "gap"]
    if gaps:
        fix = "find the slices, or index with --gaps split or resample"
        lines.append(("warn", f"{gaps[0]['items']:,} series with missing slices: {fix}."))
    tilted = flags.get("gantry_tilt_deg", 0)
    if tilted:
        lines.append(("warn", f"{tilted:,} series with a tilted gantry: kept as sheared volumes."))
    return lines


def _labels(orphans: dict[str, int], duplicates: dict[str, int]) -> list[Line]:
    lines: list[Line] = []
    alone, total = orphans["labels_without_image"], orphans["labels"]
    if alone:
        lines.append(("warn", f"{alone:,} of {total:,} labels have no image in this archive."))
    copies = duplicates["records"] + duplicates["files"]
    if copies:
        lines.append(("warn", f"{copies:,} copies of other objects; the index marks them."))
    return lines


def _identity(risk: dict[str, Any]) -> list[Line]:
    lines: list[Line] = []
    named = risk["header_fields"].get("PatientName", 0)
    if named:
        text = f"{named:,} of {risk['headers_looked_at']:,} headers looked at carry a patient name."
        lines.append(("warn", f"{text} Before files leave the hospital: medssl deidentify."))
    names = risk["names"]
    if names:
        counts = ", ".join(f"{n:,} like a {kind}" for kind, n in sorted(names.items()))
        lines.append(("warn", f"File and folder names may identify: {counts}."))
    if risk["text_found"]:
        text = f"Burned-in text in {risk['text_found']:,} of {risk['text_looked_at']:,} pictures"
        lines.append(("warn", f"{text} looked at; names may stand in the pixels."))
    elif risk["burned_in_possible"]:
        n = risk["burned_in_possible"]
        lines.append(("warn", f"{n:,} records may hold burned-in text, by their headers."))
    return lines


def _resources(machine: dict[str, Any], plan: dict[str, Any]) -> list[Line]:
    lines: list[Line] = []
    free, store = machine["disk_free_bytes"], plan["store_bytes"]
    if free is not None and store > free:
        text = f"The store needs up to {gib(store)}, {gib(free)} are free"
        lines.append(("bad", f"{text}: choose another disk for the results."))
    shared = machine["shared_memory_bytes"]
    if shared is not None and shared < 2**30:
        text = f"Shared memory has {gib(shared)} free; loading with workers needs about 1 GiB"
        lines.append(("warn", f"{text}: start the container with --shm-size=2g."))
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "Less than 1 %"
