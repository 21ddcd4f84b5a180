"""One patient, one split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from medssl.core.config import Config
from medssl.core.errors import ConfigError
from medssl.core.sample import Record, Split

# From learnt from to most held out.
_HELD_OUT: tuple[Split, ...] = ("train", "val", "test")


class Fractions(Config):
    """Share of patients in each split; they add up to 1."""

    train: float = 0.9
    val: float = 0.1
    test: float = 0.0

    def check(self) -> None:
        """Refuse negative shares and sums other than 1."""
        shares = (self.train, self.val, self.test)
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise ConfigError(f"split fractions {shares} do not add up to 1", fix="change split")


class Member(NamedTuple):
    """What a split needs to know of a record.

    Attributes:
        patient: patient id.
        hashes: of its objects, and of its pixels (of images only: two patients may well share a
            label map); patients with a hash in common are taken for one.
        split: where the record would go on its own.
    """

    patient: str
    hashes: tuple[str, ...]
    split: Split


def join(members: Iterable[Member]) -> dict[str, Split]:
    """Split of each patient: the most held-out one of all records of the patient.

    Patients who share an image (by a hash of its pixels or objects) are taken for one.
    """
    members = list(members)
    leader = leaders(members)
    splits: dict[str, Split] = {}
    for member in members:
        first = leader[member.patient]
        splits[first] = max(splits.get(first, "train"), member.split, key=_HELD_OUT.index)
    return {patient: splits[first] for patient, first in leader.items()}


def leaks(records: Iterable[Record]) -> set[str]:
    """Patient ids, object hashes, and pixel hashes of images, that occur in several splits."""
    splits: dict[str, set[str]] = defaultdict(set)
    for record in records:
        splits[record.patient_id].add(record.split)
        if record.pixel_hash and record.role == "image":
            splits[record.pixel_hash].add(record.split)
        if record.objects_hash:
            splits[record.objects_hash].add(record.split)
    return {key for key, names in splits.items() if len(names) > 1}


def leaders(members: Iterable[Member]) -> dict[str, str]:
    """Each patient -> one patient of those linked by equal images."""
    members = list(members)
    leader = {member.patient: member.patient for member in members}

    def find(patient: str) -> str:
        while leader[patient] != patient:
            leader[patient] = patient = leader[leader[patient]]
        return patient

    owner: dict[str, str] = {}
    for member in members:
        for mark in member.hashes:
            first = owner.setdefault(mark, member.patient)
            leader[find(member.patient)] = find(first)
    return {patient: find(patient) for patient in leader}
