"""Which records of a catalog a pretraining learns from, and how they get into the store."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medssl.archive._digest import LOSSY, pixel_hash
from medssl.archive._pool import map_items, usable_cpus
from medssl.archive.catalog import Catalog
from medssl.archive.clips import ClipStream, plan_clip
from medssl.archive.split import Member, leaders
from medssl.archive.store import STORE_CHUNK, Entry, Store
from medssl.core.errors import (
    BudgetExceededError,
    MedsslError,
    NothingUsableError,
    ReadError,
    ResourceError,
)
from medssl.core.geometry import Kind
from medssl.core.preprocess import prepare
from medssl.core.sample import UNKNOWN, Record
from medssl.stages._sources import StoredRecords

if TYPE_CHECKING:
    from medssl.stages.pretrain import PretrainConfig

# What a catalog knows of a record without anybody's labels.
FREE_LABELS = ("modality", "body_part", "view", "laterality", "sequence", "vendor", "site_id")
# As many records may fail whatever their share: a small archive may hold a few bad files.
_FEW = 10


def select(
    records: list[Record],
    config: PretrainConfig,
    *,
    channels: int,
    kind: Kind,
    splits: Collection[str],
) -> tuple[list[Record], Counter[str]]:
    """Records that may be learnt from; the others are counted by reason.

    Args:
        records: of the catalog.
        config: how pictures and clips are scaled and whether their channels are matched.
        channels: of the encoder's input.
        kind: of the encoder's input.
        splits: allowed ones.

    Raises:
        NothingUsableError: none is left.
    """
    excluded: Counter[str] = Counter()
    usable = []
    for record in records:
        against = _reason_against(record, config, channels, kind)
        if not against and record.split not in splits:
            against = f"split_{record.split}"
        if against:
            excluded[against] += 1
        else:
            usable.append(record)
    if not records:
        raise NothingUsableError("no record is selected", fix="look at --where")
    if not usable:
        what = f"no usable record; excluded by reason: {dict(excluded)}"
        raise NothingUsableError(what, fix=_advice(excluded))
    return usable, excluded


def _reason_against(record: Record, config: PretrainConfig, channels: int, kind: Kind) -> str:
    if record.role != "image":
        return f"role_{record.role}"
    if kind not in (record.kind, "image"):  # encoders of images see slices and frames
        return f"kind_{record.kind}"
    if record.kind == "volume" and record.affine is None:
        return "geometry_unknown"
    if record.kind == "clip" and record.duration_s is None and (config.fps or kind == "clip"):
        return "times_unknown"
    picture = record.kind != "volume"
    known = record.spacing_mm is not None or config.size_px
    if record.kind == "image" and config.spacing_mm and not known:
        return "spacing_unknown"
    matched = picture and config.match_channels and record.shape[0] in (1, 3)
    return "" if matched or record.shape[0] == channels else f"channels_{record.shape[0]}"


def _advice(excluded: Counter[str]) -> str:
    [(reason, _)] = excluded.most_common(1)
    if reason == "kind_image":
        return "pictures need an image encoder, e.g. encoder=timm/resnet18"
    if reason == "kind_clip":
        return "clips need an encoder of clips or images, e.g. encoder=video_vit-xs"
    if reason.startswith("channels_"):
        count = reason.removeprefix("channels_")
        return f"channels={count}, or match_channels=true for grey and colour pictures together"
    return ""


def fill_store(catalog: Catalog, records: list[Record], store: Store, budget: float) -> None:
    """Preprocess what is not stored yet; failures go to the catalog's ledger.

    Raises:
        NothingUsableError: if all records fail.
        BudgetExceededError: if more than a few and more than a share of ``budget`` of them fail.
    """
    missing = [record for record in records if store_key(store, record) not in store]
    prepare_one = Preparation(catalog.folder, store)
    hashes: dict[str, str] = {}
    failed = 0
    for record, result in map_items(
        prepare_one, missing, workers=min(usable_cpus(), 8), chunk=STORE_CHUNK
    ):
        if isinstance(result, MedsslError) and not isinstance(result, ReadError):
            raise result
        if isinstance(result, ReadError):
            failed += 1
            catalog.ledger.add(record.record_id, "store", result.reason, result.what)
        else:
            # The hash of a clip is of the frames that were kept, not of its file.
            hashes |= {} if record.kind == "clip" else {record.record_id: result}
    catalog.ledger.save()
    catalog.add_pixel_hashes(hashes)
    if failed == len(records):
        what = f"none of {failed} records can be used"
        raise NothingUsableError(what, fix="the catalog's quarantine.jsonl says why")
    if failed > max(_FEW, budget * len(records)):
        what = f"{failed} of {len(records)} records failed, budget {budget:.1%}"
        fix = "look at quarantine.jsonl, or raise failure_budget"
        raise BudgetExceededError(what, fix=fix)


@dataclass(frozen=True)
class Preparation:
    """Reads, preprocesses and stores one record; returns its pixel hash. Picklable."""

    catalog: Path
    store: Store

    def __call__(self, record: Record) -> str:
        sample = Catalog.open(self.catalog).sample(record)
        if record.kind == "clip":
            plan = plan_clip(sample, record.dtype, self.store.contract)
            return self.store.put_clip(store_key(self.store, record), ClipStream(sample, plan))
        try:
            array = sample.array
        except ResourceError as error:  # one file beyond the cap, not a machine without memory
            raise ReadError("too_large", error.what) from error
        prepared = prepare(array, sample.geometry, record.modality, self.store.contract)
        pixels = pixel_hash(array, sample.geometry, lossy=LOSSY in record.flags)
        self.store.put(store_key(self.store, record), prepared, pixels)
        return pixels


def store_key(store: Store, record: Record) -> str:
    """Name of a record in the store."""
    return store.key(record.record_id, record.fingerprint, record.modality)


def stored(records: list[Record], store: Store) -> StoredRecords:
    """Records that are in the store, each picture once, with numbers of their patient and study.

    The order, and with it the numbers, is free of the salt. Patients who share a picture are
    taken for one, as the split does.
    """
    entries: dict[str, Entry] = {}
    study: dict[str, str] = {}
    members = []
    for record in records:
        key = store_key(store, record)
        if key in store:
            entry = store.entry(key)
            entries[entry.pixel_hash] = entry
            study[entry.pixel_hash] = record.study_id
            members.append(Member(record.patient_id, (entry.pixel_hash,), record.split))
    leader = leaders(members)
    owner = {member.hashes[0]: leader[member.patient] for member in members}
    names = sorted(entries)
    patients, studies = (_numbered([of[name] for name in names]) for of in (owner, study))
    return StoredRecords(store, [entries[name] for name in names], patients, studies)


def free_labels(records: list[Record], kept: StoredRecords) -> dict[str, list[str]]:
    """What the catalog says of each stored record, by name of the label; empty = nothing."""
    record_of = {store_key(kept.store, record): record for record in records}
    found = [record_of[entry.key] for entry in kept.entries]
    return {
        name: ["" if (value := getattr(one, name)) == UNKNOWN else value for one in found]
        for name in FREE_LABELS
    }


def _numbered(names: list[str]) -> list[int]:
    """The number of each name, in the order in which they first come."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(name, len(numbers)) for name in names]


def digest(entries: list[Entry]) -> str:
    """One hash for a set of records."""
    return hashlib.sha256("".join(e.pixel_hash for e in entries).encode()).hexdigest()[:16]
