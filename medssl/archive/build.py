"""From headers to records: ids become salted hashes, dates are shifted, roles are decided."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from medssl.archive import datasets
from medssl.archive._headers import Row, read_rows
from medssl.archive.identity import hash_id, patient_of, split_by_shares
from medssl.core.sample import UNKNOWN, Record, Role
from medssl.readers._base import DEFAULT_POLICY, Found, Policy, Refused
from medssl.readers._dispatch import group_headers
from medssl.readers._found_json import to_json

if TYPE_CHECKING:  # worker processes do without pydantic
    from medssl.archive.split import Fractions

# Longest shift of a patient's dates: a century, so that no year shines through.
_MAX_SHIFT_DAYS = 36_525
_CODE_WORD = re.compile(r"[A-Za-z0-9_ /+.-]{1,40}")
# Formats that cannot state a modality.
_VOLUME_FILES = {"nifti", "nrrd", "mha"}
_WORDS = ("body_part", "view", "laterality", "vendor", "sequence", "contrast")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Choices of the index stage that shape the records."""

    salt: bytes
    fractions: Fractions
    seed: int
    modality: str | None = None
    """Modality of files that do not state one."""
    policy: Policy = DEFAULT_POLICY


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a worker needs to assemble records."""

    journal: str
    root: Path
    hints: Mapping[Path, datasets.Hint]
    salt: bytes
    shares: tuple[float, float]
    seed: int
    modality: str | None
    policy: Policy


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A record on its own, before duplicates and splits are known.

    Attributes:
        rows: its files in reading order, as rows of ``paths.parquet``.
        found_json: what loading needs, without the files.
    """

    record: Record
    rows: tuple[int, ...]
    found_json: str


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Files that cannot be used, as the ledger lists them."""

    record_id: str
    fingerprint: str
    reason: str
    message: str
    rows: tuple[int, ...]


def build_groups(
    context: Context, groups: Sequence[Sequence[tuple[int, int, int]]]
) -> tuple[list[Draft], list[Failure]]:
    """Runs in a worker: assemble the records of some groups of files.

    Args:
        context: where the headers lie, and the rules.
        groups: (block, number in the block, row of ``paths.parquet``) of each file of each group.
    """
    drafts: list[Draft] = []
    failures: list[Failure] = []
    for places in groups:
        files = [read_rows(context.journal, block)[number] for block, number, _ in places]
        numbers = {file.path: (row, file) for file, (_, _, row) in zip(files, places, strict=True)}
        found, refused = group_headers([file.header() for file in files], context.policy)
        drafts += [_draft(one, numbers, context) for one in found]
        failures += [_failure(one, numbers, context) for one in refused]
        failures += [_failure(one, numbers, context) for one in _forgotten(numbers, found, refused)]
    return drafts, failures


def record_id_of(files: Sequence[str], root: Path, salt: bytes, part: str = "") -> str:
    """Id of the record made of these files: stable while the archive keeps their place."""
    first = str(Path(min(files)).relative_to(root))
    return hash_id(salt, "record", first, part) if part else hash_id(salt, "record", first)


def fingerprint(stamps: Iterable[tuple[int, ...]]) -> str:
    """Hash of size, modification time and inode of the files in reading order."""
    return hashlib.sha256(repr(list(stamps)).encode()).hexdigest()[:16]


def study_day_of(raw_date: str, patient: str, salt: bytes) -> int | None:
    """Days on a calendar that starts at a secret day of the patient: only intervals are true.

    >>> a, b = (study_day_of(day, "p", b"s") for day in ("20240228", "20240301"))
    >>> b - a
    2
    """
    try:
        day = date(int(raw_date[:4]), int(raw_date[4:6]), int(raw_date[6:])).toordinal()
    except ValueError:
        return None
    return day - date(1900, 1, 1).toordinal() + _shift_days(patient, salt)


def _shift_days(patient: str, salt: bytes) -> int:
    return int(hash_id(salt, "date", patient), 16) % _MAX_SHIFT_DAYS


_Numbers = Mapping[str, tuple[int, Row]]


def _stamps(files: Iterable[str], numbers: _Numbers) -> list[tuple[int, int, int]]:
    rows = (numbers[file][1] for file in files)
    return [(row.size, row.mtime_ns, row.inode) for row in rows]


def _forgotten(
    numbers: _Numbers, found: Sequence[Found], refused: Sequence[Refused]
) -> list[Refused]:
    """Files that grouping left out: a fault of ours, but no reason to lose them."""
    taken = {file for one in found for file in one.files}
    taken |= {file for one in refused for file in one.files}
    message = "no record and no refusal names this file"
    return [
        Refused(files=(file,), reason="unassigned", message=message)
        for file in numbers
        if file not in taken
    ]


def _failure(refused: Refused, numbers: _Numbers, context: Context) -> Failure:
    return Failure(
        record_id=record_id_of(refused.files, context.root, context.salt),
        fingerprint=fingerprint(_stamps(refused.files, numbers)),
        reason=refused.reason,
        message=refused.message,
        rows=tuple(numbers[file][0] for file in refused.files),
    )


def _draft(found: Found, numbers: _Numbers, context: Context) -> Draft:
    content = to_json(found)
    del content["files"]
    return Draft(
        record=_record(found, _stamps(found.files, numbers), context),
        rows=tuple(numbers[file][0] for file in found.files),
        found_json=json.dumps(content),
    )


def _record(found: Found, stamps: list[tuple[int, int, int]], context: Context) -> Record:
    root, salt = context.root, context.salt
    first = Path(found.files[0])
    patient = patient_of(found, root)
    held_out = datasets.is_test_path(first.relative_to(root))
    geometry = found.geometry
    times_s = geometry.frame_times_s
    return Record(
        record_id=record_id_of(found.files, root, salt, found.part),
        kind=geometry.kind,
        role=_role(found, first, context),
        format=found.format,
        modality=_modality(found, first, context),
        patient_id=hash_id(salt, "patient", patient),
        study_id=hash_id(salt, "study", found.study or str(first.parent)),
        series_id=hash_id(salt, "series", found.series),
        shape=found.shape,
        dtype=found.dtype,
        spacing_mm=geometry.spacing_mm,
        affine=None if geometry.affine is None else tuple(geometry.affine.ravel().tolist()),
        split="test" if held_out else split_by_shares(patient, context.shares, context.seed),
        n_files=len(found.files),
        size_bytes=sum(size for size, _, _ in stamps),
        flags=found.flags,
        part=found.part,
        units=found.units,
        **{name: _word(found.labels.get(name, "")) for name in _WORDS},
        site_id=_hashed(salt, "site", found.labels.get("site", "")),
        study_day=study_day_of(found.labels.get("date", ""), patient, salt),
        references=tuple(hash_id(salt, "series", uid) for uid in found.references),
        objects_hash=_hashed(salt, "objects", found.objects),
        fingerprint=fingerprint(stamps),
        duration_s=times_s[-1] - times_s[0] if times_s else None,
    )


def _hashed(salt: bytes, kind: str, value: str) -> str:
    return hash_id(salt, kind, value) if value else ""


def _word(value: str) -> str:
    """A label as a reader took it from its fixed list; anything else may name somebody."""
    return value if _CODE_WORD.fullmatch(value) else UNKNOWN


def _role(found: Found, path: Path, context: Context) -> Role:
    if found.role != "image":
        return found.role
    hint = _nearest(path, context.hints)
    listed = hint is not None and path in hint.labels
    named = datasets.is_label_path(path.relative_to(context.root))
    return "label" if listed or named else "image"


def _modality(found: Found, path: Path, context: Context) -> str:
    if found.modality != UNKNOWN:
        return found.modality
    if found.format in _VOLUME_FILES:
        hint = _nearest(path, context.hints)
        if hint is not None and hint.modality != UNKNOWN:
            return hint.modality
    return context.modality or UNKNOWN


def _nearest(path: Path, hints: Mapping[Path, datasets.Hint]) -> datasets.Hint | None:
    return next((hints[parent] for parent in path.parents if parent in hints), None)
