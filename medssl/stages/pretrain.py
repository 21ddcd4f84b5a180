"""``medssl pretrain``: an encoder from a catalog or a folder, without labels.

Volume encoders learn from volumes, clip encoders from clips; image encoders from pictures, slices
of volumes and frames of clips.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lightning.fabric import Fabric
from pydantic import BaseModel, Field
from torch import nn

from medssl.archive._digest import LOSSY
from medssl.archive.catalog import Catalog, is_catalog
from medssl.archive.store import Entry, Store
from medssl.core.config import Component, validate
from medssl.core.errors import ConfigError, NothingUsableError
from medssl.core.registry import ENCODERS, OBJECTIVES
from medssl.core.runlog import Run
from medssl.core.sample import Record
from medssl.core.seeding import seed_everything
from medssl.core.viewspec import ClipSpec, Setting, ViewSpec
from medssl.encoders._base import Encoder, build_encoder, in_mm
from medssl.encoders.card import Card, assert_reloads, load_card, save_model
from medssl.stages import _train, index
from medssl.stages._continue import go_on, recipe
from medssl.stages._crop import crop_of
from medssl.stages._health import watch
from medssl.stages._init import IMAGE_BRANCH, encoder_of, load_init, load_objective
from medssl.stages._matcher import matcher_of
from medssl.stages._records import digest, fill_store, free_labels, select, stored
from medssl.stages._seen import learns_from, seen_before, write_seen
from medssl.stages._shown import with_defaults
from medssl.stages._sources import StoredRecords
from medssl.stages._style import views_of
from medssl.training.meter import peak_memory_mb
from medssl.views.guard import check_views
from medssl.views.pairs import check_partners


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
    """Of the encoder's input; records with another number are left out and counted."""
    fps: float | None = Field(default=_train.CLIP_FPS, gt=0)
    """Frames of clips that are kept per second, at most; null = all of them."""
    clip: ClipSpec = ClipSpec()
    """Which frames a view of a clip shows; for clip encoders."""
    splits: tuple[Literal["train", "val"], ...] = ("train",)
    """Patient splits to learn from."""
    health: bool = True
    """Look for signs of collapse every ``check_every`` steps (``health.jsonl``)."""
    stop_on_collapse: bool = False
    """Stop when they say so."""
    init: Path | None = None
    """Run to start from: its weights alone. The encoder is that run's; ``encoder.adapter`` may be
    added."""
    continue_from: Path | None = None
    """Run to go on from, with these data: weights, optimiser, averages and step count. Its rate has
    to be constant still (``schedule=infinite``, not annealed). Its options hold where none are
    given; ``steps`` counts its steps too."""


def run(config: PretrainConfig) -> Run:
    """Pretrain; writes ``model/`` with the encoder (and decoder) and its card.

    Raises:
        NothingUsableError: no record is left to learn from.
        BudgetExceededError: more records failed than ``failure_budget``.
        InterruptedRunError: on SIGINT or SIGTERM, after a checkpoint.
    """
    config, source = go_on(config)
    config = config.model_copy(update={"encoder": _encoder_part(config)})
    fabric = _train.launch(config)
    run = _train.open_run("pretrain", config, fabric)
    seed_everything(config.seed)
    encoder = build_encoder(config.encoder.name, config.encoder.options, config.channels)
    catalog = _catalog(config, run, fabric)
    records, kept_records = _stored(catalog, config, encoder, run, fabric)
    entries = list(kept_records.entries)
    task, card, origin = _task_and_card(config, encoder, records, entries)
    spec = _fitting_views(config, task, encoder)
    check_views(spec, {entry.modality for entry in entries}, config.channels)
    check_partners(spec, kept_records)
    identity = {
        "records_digest": digest(entries),
        "contract": kept_records.store.contract.digest,
        "crop": card.patch_size,
        **origin,
        **learns_from(config.objective),
        **({"continued_from": source.digest} if source else {}),
    }
    if fabric.is_global_zero:
        _train.save_config(config, run, identity, _derived(config, entries))
    tensors = {f"encoder.{key}": value for key, value in task.encoder.state_dict().items()}
    assert_reloads(card, tensors)  # before step 1; ``model`` is written once it is trained
    matcher = matcher_of(spec, kept_records, fabric)
    dataset = views_of(kept_records, spec, config.seed, config.batch_size, matcher)
    passes = partial(dataset.whole_pass, config.batch_size)
    training = _train.Training(
        config, fabric, run, task, dataset, identity, passes,
        recipe=recipe(config, card.patch_size), start=source.start if source else None,
    )  # fmt: skip
    monitors = []
    if config.health:
        setting = _setting(config, encoder, card.patch_size, len(entries))
        labels = free_labels(records, kept_records)
        monitors = [watch(training, setting, labels, stop=config.stop_on_collapse)]
    kept: Any = _train.train(training, monitors)
    if not fabric.is_global_zero:
        return run
    save_model(run.out / "model", _train.encoder_card(training, card), _parts(kept))
    _note_seen(config, entries, run, lossy=any(LOSSY in record.flags for record in records))
    summary = catalog.summary
    run.exit_code = 4 if summary["quarantined"] else 0
    run.ledger = catalog.ledger.path
    return run.finish(
        records=len(entries),
        quarantined=summary["quarantined"],
        split_check=summary["split_check"],
        parameters=sum(p.numel() for p in kept.encoder.parameters()),
        peak_memory_mb=round(peak_memory_mb(), 1),
    )


def _note_seen(config: PretrainConfig, entries: list[Entry], run: Run, *, lossy: bool) -> None:
    runs = (config.init, config.continue_from)
    before = seen_before(runs, config.encoder, config.objective)
    pixels = (entry.pixel_hash for entry in entries)
    write_seen(run.out / "model", pixels, before, lossy=lossy)


def _setting(
    config: PretrainConfig, encoder: Encoder, crop: tuple[int, ...], records: int
) -> Setting:
    return Setting(crop=crop, records=records, kind=encoder.kind, clip=config.clip)


def _fitting_views(config: PretrainConfig, task: Any, encoder: Encoder) -> ViewSpec:
    """What the objective sees.

    Raises:
        ConfigError: it would take a clip for a volume, or the other way round; or it trains in
            stages along the progress, which stands still while the rate is constant.
    """
    spec: ViewSpec = task.views()
    if (encoder.kind == "clip") != (spec.clip is not None):
        what = f"the objective asks for no views of the kind that the encoder takes: {encoder.kind}"
        raise ConfigError(what, fix="choose another objective or encoder")
    if config.schedule == "infinite" and task.in_stages():
        what = f"{config.objective.name} trains in stages, and schedule=infinite stays in one"
        raise ConfigError(what, fix="schedule=cosine, or give one stage all the steps")
    return spec


def _options_of(options: BaseModel, part: str) -> dict[str, Any]:
    """Options of a module that is trained; a path of that name is where another run's lies."""
    value = getattr(options, part, None)
    return value.model_dump() if isinstance(value, BaseModel) else {}


def _parts(task: Any) -> dict[str, nn.Module]:
    """Modules of a trained objective that later runs can use."""
    names = ("encoder", "decoder", "embedding", IMAGE_BRANCH)
    found = {name: getattr(task, name, None) for name in names}
    return {name: module for name, module in found.items() if module is not None}


def _encoder_part(config: PretrainConfig) -> Component:
    """The encoder asked for; with ``init`` that run's."""
    if config.init is None:
        return in_mm(config.encoder, config.spacing_mm)
    if config.continue_from:
        raise ConfigError("init and continue_from are both given", fix="leave one of them out")
    card, _ = load_card(config.init)
    asked = config.encoder if "encoder" in config.model_fields_set else None
    return encoder_of(asked, card, config.spacing_mm)


def _derived(config: PretrainConfig, entries: list[Entry]) -> dict[str, Any]:
    return {
        "records": len(entries),
        "options": {
            "objective": with_defaults(config.objective, OBJECTIVES),
            "encoder": with_defaults(config.encoder, ENCODERS),
        },
    }


def _stored(
    catalog: Catalog, config: PretrainConfig, encoder: Encoder, run: Run, fabric: Fabric
) -> tuple[list[Record], StoredRecords]:
    """Records to learn from, and those of them that are in the store, filled by rank 0."""
    contract = _train.contract_of(config, config.channels, config.fps)
    store = Store(config.store or catalog.folder / "store", contract)
    usable = partial(_usable, catalog, config, encoder)
    if fabric.is_global_zero:
        fill_store(catalog, usable(), store, config.failure_budget)
    fabric.barrier()
    # Pixel hashes are known now: a picture of a held-out patient may have left the split.
    records = usable(run)
    kept = stored(records, store)
    if not kept.entries:
        raise NothingUsableError("no record is left to learn from", fix="see quarantine.jsonl")
    return records, kept


def _usable(
    catalog: Catalog, config: PretrainConfig, encoder: Encoder, run: Run | None = None
) -> list[Record]:
    """Records to learn from; why others are none of them goes into ``run``."""
    wanted = (*config.splits, *(("test",) if config.allow_test else ()))
    records, excluded = select(
        catalog.records(where=config.where),
        config,
        channels=config.channels,
        kind=encoder.kind,
        splits=wanted,
    )
    if run:
        run.result["excluded"] = dict(excluded)
    return records


def _task_and_card(
    config: PretrainConfig, encoder: Encoder, records: list[Record], entries: list[Entry]
) -> tuple[Any, Card, dict[str, Any]]:
    """The objective on the encoder, what its checkpoint will say of itself, and where it began."""
    module, _ = OBJECTIVES.module(config.objective.name)
    where = f"objective {config.objective.name}"
    options = validate(module.Config, config.objective.options, where=where)
    crop = config.crop or crop_of(config, encoder, entries)
    encoder.check_size(crop)
    [(modality, _)] = Counter(record.modality for record in records).most_common(1)
    card = Card(
        encoder=config.encoder,
        in_channels=config.channels,
        channels=tuple(f"channel {i}" for i in range(config.channels)),
        contract=_train.contract_of(config, config.channels, config.fps),
        modality=modality,
        patch_size=crop,
        clip=config.clip if encoder.kind == "clip" else None,
        objective=config.objective.name,
        embedding=_options_of(options, "embedding"),
        provenance={"records": len(entries), "records_digest": digest(entries)},
    )
    setting = _setting(config, encoder, crop, len(entries))
    if config.init is None:
        return module.Objective(encoder, options, setting), card, {}
    loaded = load_init(encoder, None, config.init)  # before teachers copy the encoder
    task = module.Objective(encoder, options, setting)
    loaded["objective_tensors"] = load_objective(task, config.objective.name, config.init)
    weights = load_card(config.init)[0].weights_sha256
    return task, card, {"loaded_from_init": loaded, "init_weights_sha256": weights}


def _catalog(config: PretrainConfig, run: Run, fabric: Fabric) -> Catalog:
    """The catalog given, or one made of the folder given (by rank 0)."""
    if is_catalog(config.data):
        return Catalog.open(config.data)
    made = run.out / "catalog"
    if fabric.is_global_zero:
        index.run(index.IndexConfig(archive=config.data, out=made, quiet=config.quiet))
    fabric.barrier()
    return Catalog.open(made)
