"""From a scan to records: ids become salted hashes, roles and splits are decided."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medssl.archive import datasets
from medssl.archive.identity import hash_id, patient_of
from medssl.archive.scan import Scan
from medssl.archive.split import Fractions, Member, join, split_of
from medssl.core.errors import ReadError
from medssl.core.sample import UNKNOWN, Record, Role, Split
from medssl.readers._base import Found, Refused


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Choices of the index stage that shape the records."""

    salt: bytes
    fractions: Fractions
    seed: int
    modality: str | None = None
    """Modality of files that do not state one."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A record with what the catalog must not hold: its files."""

    record: Record
    files: tuple[str, ...]


@dataclass(frozen=True)
class _Draft:
    found: Found
    record_id: str
    fingerprint: str
    patient: str
    role: Role
    pixel_hash: str | None

    def member(self, root: Path, rules: Rules) -> Member:
        held_out = datasets.is_test_path(Path(self.found.files[0]).relative_to(root))
        split = "test" if held_out else split_of(self.patient, rules.fractions, rules.seed)
        return Member(self.patient, self.pixel_hash if self.role == "image" else None, split)


def build_records(
    scan: Scan, rules: Rules, pixel_hashes: Mapping[tuple[str, str], str]
) -> tuple[list[Listed], list[Refused]]:
    """Records in path order, and data sets whose description cannot be read.

    Args:
        scan: the archive's content.
        rules: salt, split and modality.
        pixel_hashes: known hashes by (record id, fingerprint).
    """
    hints, refused = _hints(scan)
    stamps = {state.path: state.stamp for state in scan.files}
    drafts = []
    for found in scan.found:
        record_id = record_id_of(found.files, scan.root, rules.salt)
        mark = fingerprint([stamps[file] for file in found.files])
        draft = _Draft(
            found=found,
            record_id=record_id,
            fingerprint=mark,
            patient=patient_of(found, scan.root),
            role=_role(Path(found.files[0]), scan.root, hints),
            pixel_hash=pixel_hashes.get((record_id, mark)),
        )
        drafts.append(draft)
    splits = join(draft.member(scan.root, rules) for draft in drafts)
    listed = []
    for draft in drafts:
        record = _record(
            draft,
            salt=rules.salt,
            split=splits[draft.patient],
            modality=_modality(draft.found, hints, rules),
            size_bytes=sum(stamps[file][0] for file in draft.found.files),
        )
        listed.append(Listed(record=record, files=draft.found.files))
    return listed, refused


def record_id_of(files: Sequence[str], root: Path, salt: bytes) -> str:
    """Id of the record made of these files: stable while the archive keeps their place."""
    first = min(files)
    return hash_id(salt, "record", str(Path(first).relative_to(root)))


def fingerprint(stamps: Iterable[tuple[int, ...]]) -> str:
    """Hash of size, modification time and inode of the files in reading order."""
    return hashlib.sha256(repr(list(stamps)).encode()).hexdigest()[:16]


def _record(draft: _Draft, *, salt: bytes, split: Split, modality: str, size_bytes: int) -> Record:
    found = draft.found
    affine = found.geometry.affine
    study = found.study or str(Path(found.files[0]).parent)
    return Record(
        record_id=draft.record_id,
        kind=found.geometry.kind,
        role=draft.role,
        format=found.format,
        modality=modality,
        patient_id=hash_id(salt, "patient", draft.patient),
        study_id=hash_id(salt, "study", study),
        series_id=hash_id(salt, "series", found.series),
        shape=found.shape,
        dtype=found.dtype,
        spacing_mm=found.geometry.spacing_mm,
        affine=None if affine is None else tuple(affine.ravel().tolist()),
        split=split,
        n_files=len(found.files),
        size_bytes=size_bytes,
        flags=found.flags,
        fingerprint=draft.fingerprint,
        pixel_hash=draft.pixel_hash,
    )


def _hints(scan: Scan) -> tuple[dict[Path, datasets.Hint], list[Refused]]:
    hints: dict[Path, datasets.Hint] = {}
    refused = []
    for state in scan.files:
        path = Path(state.path)
        if path.name != datasets.FILE_NAME:
            continue
        try:
            hints[path.parent] = datasets.read_hint(path)
        except ReadError as error:
            refused.append(Refused(files=(state.path,), reason=error.reason, message=error.what))
    return hints, refused


def _role(path: Path, root: Path, hints: Mapping[Path, datasets.Hint]) -> Role:
    hint = _nearest(path, hints)
    listed = hint is not None and path in hint.labels
    return "label" if listed or datasets.is_label_path(path.relative_to(root)) else "image"


def _modality(found: Found, hints: Mapping[Path, datasets.Hint], rules: Rules) -> str:
    if found.modality != UNKNOWN:
        return found.modality
    if found.format == "nifti":
        hint = _nearest(Path(found.files[0]), hints)
        if hint is not None and hint.modality != UNKNOWN:
            return hint.modality
    return rules.modality or UNKNOWN


def _nearest(path: Path, hints: Mapping[Path, datasets.Hint]) -> datasets.Hint | None:
    return next((hints[parent] for parent in path.parents if parent in hints), None)
