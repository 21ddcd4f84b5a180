"""``medssl finetune``: a segmentation model from a few labelled patients."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rich

from medssl.archive._digest import pixel_hash
from medssl.archive._pool import map_items, usable_cpus
from medssl.archive.cases import Case, refuse_leaks
from medssl.archive.identity import hash_id, load_salt
from medssl.archive.labelled import Labelled, load_labelled, read_case
from medssl.archive.quarantine import Ledger
from medssl.archive.store import Entry, Store
from medssl.core.config import Component, validate
from medssl.core.errors import (
    MedsslError,
    NothingUsableError,
    ReadError,
    ResourceError,
    UsageError,
)
from medssl.core.preprocess import Contract, prepare, prepare_labels
from medssl.core.registry import HEADS
from medssl.core.runlog import Run
from medssl.core.seeding import generator, seed_everything
from medssl.encoders._base import build_encoder
from medssl.encoders.card import Card, load_card, save_model
from medssl.stages import _train
from medssl.stages._data import STORE_CHUNK, ViewDataset, auto_crop
from medssl.stages._init import load_init
from medssl.stages._validation import DiceMonitor

# With fewer labelled patients than this none is set aside: the last checkpoint counts.
_VALIDATION_FROM = 10


class FinetuneConfig(_train.TrainConfig):
    """Options of ``medssl finetune``."""

    task: Component = Component(name="segmentation")
    init: Path | None = None
    """Run of ``medssl pretrain`` (or finetune) to start from."""
    encoder: Component | None = None  # type: ignore[assignment]
    """Default: the encoder of ``init``, else ``resenc-xs``."""
    labelled: int | None = None
    """Use this many labelled patients, drawn by ``seed``; default: all."""
    val_fraction: float = 0.2
    """Share of patients set aside for validation where the data names no split; none below 10
    patients."""
    steps: int = 2_000
    batch_size: int = 4
    check_every: int = 200
    skip_bad_cases: bool = False
    """Go on without labelled cases that cannot be used; otherwise they stop the run."""


@dataclass(frozen=True)
class Cases:
    """Labelled cases by use."""

    train: list[Case]
    val: list[Case]


def run(config: FinetuneConfig) -> Run:
    """Fine-tune; writes ``model/`` (last) and, with validation patients, ``model_best/``.

    Raises:
        ReadError: a labelled case cannot be used (all of them are named in ``where``).
        InterruptedRunError: on SIGINT or SIGTERM, after a checkpoint.
    """
    fabric = _train.launch(config)
    run = _train.open_run("finetune", config, fabric)
    labelled = load_labelled(config.data)
    cases = choose_cases(labelled, config)
    contract, encoder_part = _inherited(config)
    store = Store(config.store or run.out / "store", contract)
    bad, label_flags = fill_store(labelled, [*cases.train, *cases.val], store, run, config)
    fabric.barrier()
    entries, val_entries = (
        [store.entry(case_key(store, case)) for case in group if case.name not in bad]
        for group in (cases.train, cases.val)
    )
    if not entries:
        raise NothingUsableError("no labelled case is left to learn from")

    task, loaded = _task(config, labelled, encoder_part, entries)
    card = _card(config, labelled, encoder_part, contract, task.crop, entries)
    identity = {"contract": contract.digest, "crop": task.crop, **card.provenance}
    if fabric.is_global_zero:
        _train.save_config(config, run, identity, {"loaded_from_init": loaded})
    dataset = ViewDataset(store, entries, task.views(), config.seed)
    training = _train.Training(config, fabric, run, task, dataset, identity)
    monitor = DiceMonitor(store, val_entries, _train.encoder_card(training, card), run.out)
    kept: Any = _train.train(training, [monitor] if val_entries and fabric.is_global_zero else [])
    if not fabric.is_global_zero:
        return run
    parts = {"encoder": kept.model.encoder, "decoder": kept.model.decoder}
    save_model(run.out / "model", _train.encoder_card(training, card), parts)
    run.exit_code = 4 if bad else 0
    return run.finish(
        train_cases=len(entries),
        val_cases=len(val_entries),
        quarantined=len(bad),
        label_flags=dict(sorted(label_flags.items())),
        loaded_from_init=loaded,
        best_val_dice=monitor.best if val_entries else None,
    )


def _task(
    config: FinetuneConfig, labelled: Labelled, encoder_part: Component, entries: list[Entry]
) -> tuple[Any, dict[str, int]]:
    """The head on an encoder, with the weights of ``init``; also how many tensors came along."""
    seed_everything(config.seed)
    encoder = build_encoder(encoder_part.name, encoder_part.options, len(labelled.channels))
    decoder = encoder.make_decoder(len(labelled.labels))
    loaded = load_init(encoder, decoder, config.init) if config.init else {}
    module, _ = HEADS.module(config.task.name)
    options = validate(module.Config, config.task.options, where=f"head {config.task.name}")
    crop = config.crop or auto_crop(entries, encoder)
    return module.Head(encoder, decoder, options, crop), loaded


def _card(
    config: FinetuneConfig,
    labelled: Labelled,
    encoder_part: Component,
    contract: Contract,
    crop: tuple[int, ...],
    entries: list[Entry],
) -> Card:
    return Card(
        encoder=encoder_part,
        in_channels=len(labelled.channels),
        channels=labelled.channels,
        contract=contract,
        modality=labelled.modality,
        patch_size=crop,
        head=config.task.name,
        labels=labelled.labels,
        provenance={
            "labelled_cases": len(entries),
            "cases_digest": _digest(entries),
            "init_weights_sha256": load_card(config.init)[0].weights_sha256 if config.init else "",
        },
    )


def choose_cases(labelled: Labelled, config: FinetuneConfig) -> Cases:
    """Training and validation cases; a patient is never in both.

    Raises:
        UsageError: fewer labelled patients than ``labelled`` asks for, or a patient in two splits.
    """
    with_label = [case for case in labelled.cases if case.label is not None]
    usable = [case for case in with_label if case.split != "test"]
    named = any(case.split == "val" for case in usable)
    refuse_leaks(usable)
    pool = sorted({case.patient for case in usable if case.split != "val" or not named})
    order = [pool[i] for i in generator(config.seed, "labelled").permutation(len(pool))]
    wanted = len(order) if config.labelled is None else config.labelled
    if wanted > len(order) or wanted < 1:
        what = f"labelled={wanted}, but {len(order)} labelled patients are there"
        raise UsageError(what, fix=f"labelled={len(order)}")
    chosen = order[:wanted]
    if named:
        val = [case for case in usable if case.split == "val"]
    else:
        held = round(config.val_fraction * wanted) if wanted >= _VALIDATION_FROM else 0
        val = [case for case in usable if case.patient in chosen[wanted - held :]]
        chosen = chosen[: wanted - held]
    train = [c for c in usable if c.patient in chosen and (c.split != "val" or not named)]
    return Cases(train, val)


def fill_store(
    labelled: Labelled, cases: list[Case], store: Store, run: Run, config: FinetuneConfig
) -> tuple[set[str], Counter[str]]:
    """Check and preprocess every case.

    Returns:
        The names of the bad ones, and remarks on labels, such as ``label_moved_mm``, with the
        number of cases that got them.

    Raises:
        ReadError: naming all bad files, unless ``skip_bad_cases``.
    """
    missing = [case for case in cases if case_key(store, case) not in store]
    ledger = Ledger(run.out / "quarantine.jsonl")
    bad: dict[str, ReadError] = {}
    flags: Counter[str] = Counter()
    for case, result in map_items(
        Preparation(labelled, store), missing, workers=min(usable_cpus(), 8), chunk=STORE_CHUNK
    ):
        if isinstance(result, ReadError):
            bad[case.name] = result
            ledger.add(case_id(store, case), "finetune", result.reason, result.what)
        elif isinstance(result, MedsslError):
            raise result
        else:
            flags.update({flag.partition("=")[0] for flag in result})
    if not bad:
        return set(), flags
    ledger.save()
    where = "\n         ".join(f"{error.where}: {error.what}" for error in bad.values())
    if config.skip_bad_cases:
        rich.get_console().print(f"left out:\n         {where}", markup=False)
        return set(bad), flags
    first = next(iter(bad.values()))
    fix = first.fix or "mend or remove these cases, or give skip_bad_cases=true"
    raise ReadError(first.reason, f"{len(bad)} labelled cases cannot be used", where=where, fix=fix)


@dataclass(frozen=True)
class Preparation:
    """Reads, checks, preprocesses and stores one case; returns remarks on its labels. Picklable."""

    labelled: Labelled
    store: Store

    def __call__(self, case: Case) -> tuple[str, ...]:
        try:
            array, geometry, labels = read_case(case, self.labelled)
        except ResourceError as error:  # one file beyond the cap, not a machine without memory
            where = error.where or str(case.images[0])
            raise ReadError("too_large", error.what, where=where) from error
        assert labels is not None  # only labelled cases are chosen
        contract = self.store.contract
        try:
            prepared = prepare(array, geometry, self.labelled.modality, contract)
        except ReadError as error:
            error.where = str(case.images[0])
            raise
        classes = np.searchsorted(sorted(self.labelled.labels), labels.labels_DHW)
        on_grid = prepare_labels(classes, geometry, contract)
        self.store.put(case_key(self.store, case), prepared, pixel_hash(array), on_grid)
        return labels.flags


def case_key(store: Store, case: Case) -> str:
    """Name of a case's volume in the store: its files, their sizes and times."""
    assert case.label is not None
    stats = [path.stat() for path in (*case.images, case.label)]
    return store.key(case_id(store, case), *(f"{s.st_size}:{s.st_mtime_ns}" for s in stats))


def case_id(store: Store, case: Case) -> str:
    """Salted hash of the case's files: what a ledger and file names may hold."""
    files = (*case.images, *([case.label] if case.label else ()))
    return hash_id(load_salt(store.root), *(str(path.resolve()) for path in files))


def _inherited(config: FinetuneConfig) -> tuple[Contract, Component]:
    """Contract and encoder: the config's where it says so, else those of ``init``."""
    if config.init is None:
        encoder = config.encoder or Component(name="resenc-xs")
        return Contract(spacing_mm=config.spacing_mm), encoder
    card, _ = load_card(config.init)
    asked = config.encoder
    if asked and asked.name != card.encoder.name:
        what = f"--encoder {asked.name}, but --init holds {card.encoder.name}"
        raise UsageError(what, fix=f"--encoder {card.encoder.name}")
    if asked and asked.options and asked.options != card.encoder.options:
        what = f"encoder options {asked.options}, but --init has {card.encoder.options}"
        raise UsageError(what, fix="leave them out: --init brings its own")
    contract = card.contract
    if config.spacing_mm:
        contract = contract.model_copy(update={"spacing_mm": config.spacing_mm})
    return contract, card.encoder


def _digest(entries: list[Entry]) -> str:
    order = [entry.pixel_hash for entry in entries]
    return hashlib.sha256("".join(order).encode()).hexdigest()[:16]
