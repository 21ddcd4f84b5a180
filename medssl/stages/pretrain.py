"""``medssl pretrain``: an encoder from a catalog or a folder, without labels."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lightning.fabric import Fabric

from medssl.archive._digest import LOSSY, pixel_hash
from medssl.archive._pool import map_items, usable_cpus
from medssl.archive.catalog import Catalog, is_catalog
from medssl.archive.store import Entry, Store
from medssl.core.config import Component, validate
from medssl.core.errors import (
    BudgetExceededError,
    MedsslError,
    NothingUsableError,
    ReadError,
    ResourceError,
)
from medssl.core.preprocess import Contract, prepare
from medssl.core.registry import OBJECTIVES
from medssl.core.runlog import Run
from medssl.core.sample import Record
from medssl.core.seeding import seed_everything
from medssl.core.viewspec import Setting
from medssl.encoders._base import build_encoder
from medssl.encoders.card import Card, assert_reloads, save_model
from medssl.stages import _train, index
from medssl.stages._data import STORE_CHUNK, ViewDataset
from medssl.stages._health import watch

# As many records may fail whatever their share: a small archive may hold a few bad files.
_FEW = 10


class PretrainConfig(_train.TrainConfig):
    """Options of ``medssl pretrain``."""

    objective: Component = Component(name="mae")
    steps: int = 20_000
    batch_size: int = 8
    where: str | None = None
    """Records to use, e.g. ``modality == 'MR'``."""
    allow_test: bool = False
    """Use test patients' images too; results on them are then transductive."""
    channels: int = 1
    splits: tuple[Literal["train", "val"], ...] = ("train",)
    """Patient splits to learn from."""
    health: bool = True
    """Look for signs of collapse every ``check_every`` steps (``health.jsonl``)."""
    stop_on_collapse: bool = False
    """Stop when they say so."""


def run(config: PretrainConfig) -> Run:
    """Pretrain; writes ``model/`` with the encoder (and decoder) and its card.

    Raises:
        NothingUsableError: no volume is left to learn from.
        BudgetExceededError: more records failed than ``failure_budget``.
        InterruptedRunError: on SIGINT or SIGTERM, after a checkpoint.
    """
    fabric = _train.launch(config)
    run = _train.open_run("pretrain", config, fabric)
    catalog = _catalog(config, run, fabric)
    store = Store(config.store or catalog.folder / "store", Contract(spacing_mm=config.spacing_mm))
    if fabric.is_global_zero:
        fill_store(catalog, _selected(catalog, config), store, config)
    fabric.barrier()
    # Pixel hashes are known now: a picture of a held-out patient may have left the split.
    records = _selected(catalog, config, run)
    entries = stored(records, store)
    if not entries:
        raise NothingUsableError("no volume is left to learn from", fix="see quarantine.jsonl")

    task, card = _task_and_card(config, records, entries, store.contract)
    identity = {
        "records_digest": digest(entries),
        "contract": store.contract.digest,
        "crop": card.patch_size,
    }
    if fabric.is_global_zero:
        _train.save_config(config, run, identity, {"records": len(entries)})
    tensors = {f"encoder.{key}": value for key, value in task.encoder.state_dict().items()}
    assert_reloads(card, tensors)  # before step 1; ``model`` is written once it is trained
    dataset = ViewDataset(store, entries, task.views(), config.seed)
    passes = partial(dataset.whole_pass, config.batch_size)
    training = _train.Training(config, fabric, run, task, dataset, identity, passes)
    monitors = []
    if config.health:
        setting = Setting(crop=card.patch_size, records=len(entries))
        monitors = [watch(training, setting, stop=config.stop_on_collapse)]
    kept: Any = _train.train(training, monitors)
    if not fabric.is_global_zero:
        return run
    parts = {"encoder": kept.encoder, **({"decoder": kept.decoder} if kept.decoder else {})}
    save_model(run.out / "model", _train.encoder_card(training, card), parts)
    summary = catalog.summary
    run.exit_code = 4 if summary["quarantined"] else 0
    run.ledger = catalog.ledger.path
    return run.finish(
        records=len(entries),
        quarantined=summary["quarantined"],
        split_check=summary["split_check"],
        parameters=sum(p.numel() for p in kept.encoder.parameters()),
    )


def _task_and_card(
    config: PretrainConfig, records: list[Record], entries: list[Entry], contract: Contract
) -> tuple[Any, Card]:
    """The objective on a fresh encoder, and what its checkpoint will say of itself."""
    seed_everything(config.seed)
    encoder = build_encoder(config.encoder.name, config.encoder.options, config.channels)
    module, _ = OBJECTIVES.module(config.objective.name)
    where = f"objective {config.objective.name}"
    options = validate(module.Config, config.objective.options, where=where)
    crop = config.crop or _train.auto_crop([entry.shape[1:] for entry in entries], encoder)
    [(modality, _)] = Counter(record.modality for record in records).most_common(1)
    card = Card(
        encoder=config.encoder,
        in_channels=config.channels,
        channels=tuple(f"channel {i}" for i in range(config.channels)),
        contract=contract,
        modality=modality,
        patch_size=crop,
        objective=config.objective.name,
        provenance={"records": len(entries), "records_digest": digest(entries)},
    )
    setting = Setting(crop=crop, records=len(entries))
    return module.Objective(encoder, options, setting), card


def _selected(catalog: Catalog, config: PretrainConfig, run: Run | None = None) -> list[Record]:
    records, excluded = select(catalog.records(where=config.where), config)
    if run:
        run.result["excluded"] = dict(excluded)
    return records


def select(records: list[Record], config: PretrainConfig) -> tuple[list[Record], Counter[str]]:
    """Records that may be learnt from; the others are counted by reason."""
    excluded: Counter[str] = Counter()
    usable = []
    for record in records:
        reason = _reason_against(record, config)
        if reason:
            excluded[reason] += 1
        else:
            usable.append(record)
    if not records:
        raise NothingUsableError("no record is selected", fix="look at --where")
    if not usable:
        raise NothingUsableError(f"no usable volume; excluded by reason: {dict(excluded)}")
    return usable, excluded


def _reason_against(record: Record, config: PretrainConfig) -> str:
    if record.role != "image":
        return f"role_{record.role}"
    if record.kind != "volume":
        return f"kind_{record.kind}"
    if record.affine is None:
        return "geometry_unknown"
    if record.shape[0] != config.channels:
        return f"channels_{record.shape[0]}"
    wanted = {*config.splits, *(("test",) if config.allow_test else ())}
    return "" if record.split in wanted else f"split_{record.split}"


def fill_store(
    catalog: Catalog, records: list[Record], store: Store, config: PretrainConfig
) -> None:
    """Preprocess what is not stored yet; failures go to the catalog's ledger.

    Raises:
        NothingUsableError: if all records fail.
        BudgetExceededError: if more than a few and more than ``failure_budget`` of them fail.
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
            hashes[record.record_id] = result
    catalog.ledger.save()
    catalog.add_pixel_hashes(hashes)
    if failed == len(records):
        what = f"none of {failed} volumes can be used"
        raise NothingUsableError(what, fix="the catalog's quarantine.jsonl says why")
    if failed > max(_FEW, config.failure_budget * len(records)):
        what = f"{failed} of {len(records)} records failed, budget {config.failure_budget:.1%}"
        fix = "look at quarantine.jsonl, or raise failure_budget"
        raise BudgetExceededError(what, fix=fix)


@dataclass(frozen=True)
class Preparation:
    """Reads, preprocesses and stores one record; returns its pixel hash. Picklable."""

    catalog: Path
    store: Store

    def __call__(self, record: Record) -> str:
        sample = Catalog.open(self.catalog).sample(record)
        try:
            array = sample.array
        except ResourceError as error:  # one file beyond the cap, not a machine without memory
            raise ReadError("too_large", error.what) from error
        prepared = prepare(array, sample.geometry, record.modality, self.store.contract)
        pixels = pixel_hash(array, lossy=LOSSY in record.flags)
        self.store.put(store_key(self.store, record), prepared, pixels)
        return pixels


def store_key(store: Store, record: Record) -> str:
    """Name of a record's volume in the store."""
    return store.key(record.record_id, record.fingerprint)


def stored(records: list[Record], store: Store) -> list[Entry]:
    """Entries of the records in the store, each picture once, in an order free of the salt."""
    keys = [store_key(store, record) for record in records]
    entries = {e.pixel_hash: e for e in (store.entry(key) for key in keys if key in store)}
    return [entries[name] for name in sorted(entries)]


def digest(entries: list[Entry]) -> str:
    """One hash for a set of volumes."""
    return hashlib.sha256("".join(e.pixel_hash for e in entries).encode()).hexdigest()[:16]


def _catalog(config: PretrainConfig, run: Run, fabric: Fabric) -> Catalog:
    """The catalog given, or one made of the folder given (by rank 0)."""
    if is_catalog(config.data):
        return Catalog.open(config.data)
    made = run.out / "catalog"
    if fabric.is_global_zero:
        index.run(index.IndexConfig(archive=config.data, out=made, quiet=config.quiet))
    fabric.barrier()
    return Catalog.open(made)
