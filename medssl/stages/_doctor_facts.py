"""What the headers of an archive say, as counts: the part of ``medssl doctor`` without pixels."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import polars as pl
from pydicom.uid import UID

from medssl.archive._name_risk import count_kinds
from medssl.archive._reading import stored_rows
from medssl.archive._tables import PATHS, SOURCES
from medssl.archive.catalog import Catalog
from medssl.archive.identity import case_stem
from medssl.archive.profile import action_of
from medssl.archive.quarantine import Ledger
from medssl.core.errors import ReadError
from medssl.core.reasons import meaning
from medssl.core.sample import Record
from medssl.readers._dicom_open import opened

# Headers read once more for their identifying fields: one per record, spread evenly.
_HEADERS_LOOKED_AT = 300
_LABEL_WORD = re.compile(r"[-_.](seg|segmentation|labels?|masks?)$", re.IGNORECASE)
# Fields whose value alone tells who somebody is.
_DIRECT = {
    0x00100010: "PatientName",
    0x00100020: "PatientID",
    0x00100030: "PatientBirthDate",
    0x00101040: "PatientAddress",
    0x00102154: "PatientTelephoneNumbers",
    0x00101000: "OtherPatientIDs",
    0x00080050: "AccessionNumber",
    0x00080090: "ReferringPhysicianName",
    0x00081070: "OperatorsName",
    0x00080080: "InstitutionName",
    0x00080020: "StudyDate",
}


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of the archive; the path is used here and never shown."""

    path: str
    size_bytes: int
    outcome: str
    """``record``, ``refused:<reason>`` or ``ignored:<kind>``."""
    record_id: str = ""
    syntax: str = ""
    """Transfer syntax UID of a DICOM file."""


def files_of(catalog: Catalog) -> list[File]:
    """Every file of the archive, in the order of ``paths.parquet``."""
    syntaxes = {
        os.fsencode(row.path): str(row.content.get("header", {}).get("tags", {}).get("syntax", ""))
        for row in stored_rows(catalog.folder)
    }
    sources = pl.read_parquet(catalog.folder / SOURCES).filter(pl.col("found_json") != "")
    owners = dict(sources.select("rows", "record_id").explode("rows").reverse().iter_rows())
    paths = pl.read_parquet(catalog.folder / PATHS).select("path", "size", "outcome")
    return [
        File(
            path=os.fsdecode(path),
            size_bytes=size,
            outcome=outcome,
            record_id=owners.get(row, ""),
            syntax=syntaxes.get(path, ""),
        )
        for row, (path, size, outcome) in enumerate(paths.iter_rows())
    ]


def syntax_name(uid: str) -> tuple[str, str]:
    """UID and name of a registered transfer syntax; the text of any other is not repeated."""
    known = UID(uid)
    if known.is_transfer_syntax and not known.is_private:
        return uid, known.name
    return "", "unregistered transfer syntax"


def syntaxes_of(files: Iterable[File]) -> Counter[str]:
    """Number of DICOM files by transfer syntax UID."""
    return Counter(one.syntax for one in files if one.syntax)


def decoder_refusal(files: Iterable[File], uid: str) -> str:
    """Why the headers of this syntax were refused, if it was for want of a decoder."""
    reasons = {one.outcome.partition(":")[2] for one in files if one.syntax == uid}
    return next((one for one in sorted(reasons) if one.startswith("no_decoder")), "")


def counts_of(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    """Number of records by each of the columns that describe them."""
    columns = ("kind", "modality", "format", "role", "vendor", "body_part")
    return {
        column: dict(Counter(str(getattr(one, column)) for one in records).most_common())
        for column in columns
    }


def outcomes_of(files: Iterable[File]) -> dict[str, Any]:
    """Number of files that are used, cannot be used, or are no imaging (by kind)."""
    ignored: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for one in files:
        outcome, _, kind = one.outcome.partition(":")
        counts[outcome] += 1
        if outcome == "ignored":
            ignored[kind] += 1
    return {
        "record": counts["record"],
        "refused": counts["refused"],
        "ignored": dict(ignored.most_common()),
    }


def quarantine_of(files: Iterable[File], ledger: Ledger) -> list[dict[str, Any]]:
    """What an index would quarantine, by reason, most files first."""
    items = Counter(entry.reason for entry in ledger.entries())
    counts = Counter(
        one.outcome.partition(":")[2] for one in files if one.outcome.startswith("refused:")
    )
    reasons = sorted(items | counts, key=lambda reason: (-counts[reason], reason))
    return [
        {"reason": one, "items": items[one], "files": counts[one], **meaning(one)._asdict()}
        for one in reasons
    ]


def splits_of(records: Iterable[Record]) -> dict[str, Any]:
    """Series that hold more than one record, and the tags that tell the records apart."""
    parts: dict[str, list[str]] = defaultdict(list)
    for one in records:
        parts[one.series_id].append(one.part)
    several = [members for members in parts.values() if len(members) > 1]
    tags: Counter[str] = Counter()
    for members in several:
        pairs = (pair for part in members for pair in part.split(";") if pair)
        tags.update({pair.partition("=")[0] for pair in pairs})
    tags.pop("Object", None)  # several objects under one series id are records in any case
    return {"series": len(parts), "split": len(several), "by_tag": dict(tags.most_common())}


def flags_of(records: Iterable[Record]) -> dict[str, int]:
    """Number of records by quality flag, without the flag's value."""
    names = Counter(flag.partition("=")[0] for one in records for flag in one.flags)
    return dict(names.most_common())


def duplicates_of(records: Iterable[Record], files: Iterable[File]) -> dict[str, int]:
    """Copies that the headers give away; equal pixels are found by ``index --pixels``."""
    objects = Counter(one.objects_hash for one in records if one.objects_hash)
    return {
        "records": sum(n - 1 for n in objects.values()),
        "files": sum(one.outcome == "refused:duplicate_file" for one in files),
    }


def orphans_of(records: Sequence[Record], files: Sequence[File]) -> dict[str, int]:
    """Labels without the image that they belong to, and headers without their pixels.

    Labels by the series a label names, else by its file name without ``_seg`` and the like.
    """
    stems = {one.record_id: _stem(one.path) for one in files if one.record_id}
    images = [one for one in records if one.role == "image"]
    labels = [one for one in records if one.role == "label"]
    series = {one.series_id for one in images}
    image_stems = {stems.get(one.record_id) for one in images}
    alone = sum(
        not series & set(one.references)
        if one.references
        else stems.get(one.record_id) not in image_stems
        for one in labels
    )
    return {
        "labels": len(labels),
        "labels_without_image": alone,
        "headers_without_pixels": sum(one.outcome == "refused:missing_file" for one in files),
    }


def identity_risk(root: Path, records: Sequence[Record], files: Sequence[File]) -> dict[str, Any]:
    """Where identifiers may stand: headers, names of files, marks of burned-in text. Counts only.

    Args:
        root: the archive; its own name and place do not count.
        records: of the archive.
        files: of the archive.
    """
    first = {one.record_id: one.path for one in files if one.record_id and one.syntax}
    paths = list(first.values())
    looked_at = paths[:: max(1, -(-len(paths) // _HEADERS_LOOKED_AT))]
    fields: Counter[str] = Counter()
    for path in looked_at:
        fields.update(_identifying_fields(path))
    flags = Counter(flag for one in records for flag in one.flags)
    return {
        "headers_looked_at": len(looked_at),
        "header_fields": dict(fields.most_common()),
        "names": dict(count_kinds(PurePath(one.path).relative_to(root) for one in files)),
        "burned_in_possible": flags["burned_in_text_possible"],
        "secondary_captures": flags["secondary_capture"],
        "ultrasound": sum(one.modality == "US" for one in records),
        "ultrasound_without_regions": flags["sector_from_pixels"],
    }


def _identifying_fields(path: str) -> set[str]:
    """Names of the direct identifiers that have a value; everything else of the profile as one."""
    found: set[str] = set()
    try:
        with opened(path) as source:
            for tag in source.dataset.keys():  # noqa: SIM118 - the values are not converted
                if action_of(int(tag)) is None or not source.dataset.get_item(tag).value:
                    continue
                other = "private elements" if tag.is_private else "other identifying fields"
                found.add(_DIRECT.get(int(tag), other))
    except (ReadError, OSError):
        return set()  # gone since it was listed
    return found


def _stem(path: str) -> str:
    return _LABEL_WORD.sub("", case_stem(Path(path)))
