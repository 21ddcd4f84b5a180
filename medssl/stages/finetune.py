"""``medssl finetune``: a model from a few labelled patients: segments, classes, phases, tools."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from medssl.archive.labelled_frames import LabelledFrames
from medssl.archive.store import Store
from medssl.core.config import Component, validate
from medssl.core.errors import ConfigError, NothingUsableError
from medssl.core.registry import ENCODERS, HEADS
from medssl.core.runlog import Run
from medssl.encoders._base import Decoder
from medssl.encoders.card import Card, load_card
from medssl.heads._model import HeadConfig
from medssl.stages import _train
from medssl.stages._best import save_calibrated
from medssl.stages._classify import Classification
from medssl.stages._data import ViewDataset, auto_crop
from medssl.stages._finetune_video import TASKS, finetune_videos
from medssl.stages._init import load_init
from medssl.stages._kinds import Kind, Stored
from medssl.stages._labelled_store import case_key, fill_store
from medssl.stages._segment import Segmentation
from medssl.stages._shown import with_defaults
from medssl.stages._sources import StoredRecords
from medssl.stages._start import Start, begin_records
from medssl.views.guard import may_mirror

KINDS: dict[str, type[Kind]] = {"segmentation": Segmentation, "classification": Classification}


class FinetuneConfig(_train.TrainConfig):
    """Options of ``medssl finetune``."""

    task: Component = Component(name="segmentation")
    labels: Path | None = None
    """Of videos: a label file, a table or a folder of label files; default: what lies in ``data``.
    Classes of videos: a table ``video,label``. Masks of frames: a folder
    ``<video>/<frame>.png``, or a table ``video,frame,mask``."""
    unlabelled: Path | None = None
    """Phases: videos of another procedure, without labels, for the encoder to turn to (files of
    its ``val`` and ``test`` folders are not looked at)."""
    init: Path | None = None
    """Run of ``medssl pretrain`` (or finetune) to start from."""
    encoder: Component | None = None  # type: ignore[assignment]
    """Default: the encoder of ``init``, else ``resenc-xs``, or ``timm/resnet18`` for pictures."""
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


def run(config: FinetuneConfig) -> Run:
    """Fine-tune; writes ``model/`` (last) and, with validation patients, ``model_best/``.

    With them both are calibrated, see docs/calibration.md.

    Raises:
        ReadError: a labelled case cannot be used (all of them are named in ``where``).
        InterruptedRunError: on SIGINT or SIGTERM, after a checkpoint.
    """
    HEADS.module(config.task.name)  # names the nearest one if there is none
    if config.unlabelled and config.task.name != "phase":
        raise ConfigError("unlabelled videos are for task=phase", fix="leave unlabelled out")
    if config.task.name in TASKS:
        return finetune_videos(config)
    return _on_records(config)


def _on_records(config: FinetuneConfig) -> Run:
    fabric = _train.launch(config)
    run = _train.open_run("finetune", config, fabric)
    kind = KINDS[config.task.name]()
    module, _ = HEADS.module(config.task.name)
    options = validate(module.Config, config.task.options, where=f"head {config.task.name}")
    labelled = kind.load(config.data, config.labels)
    start, options = begin_records(config, labelled, options)
    labelled = start.labelled
    cases = kind.choose(labelled, config)
    store = Store(config.store or run.out / "store", start.contract)
    bad, flags = fill_store(labelled, [*cases.train, *cases.val], store, run, config)
    fabric.barrier()
    groups = (
        [case for case in group if case.name not in bad] for group in (cases.train, cases.val)
    )
    (train, val), more_flags = kind.check([
        [Stored(case, store.entry(case_key(store, labelled, case))) for case in group]
        for group in groups
    ])  # fmt: skip
    if not train:
        raise NothingUsableError("no labelled case is left to learn from")

    task, loaded = _task(config, start, train, kind, options)
    targets = kind.targets(train)
    provenance = {"labelled_cases": len(train), "cases_digest": cases_digest(train, targets)}
    card = _card(config, start, task, provenance)
    identity = {"contract": start.contract.digest, "crop": task.crop, **card.provenance}
    if fabric.is_global_zero:
        given = {
            "task": with_defaults(config.task, HEADS),
            "encoder": with_defaults(card.encoder, ENCODERS),
        }
        _train.save_config(config, run, identity, {"loaded_from_init": loaded, "options": given})
    records = StoredRecords(store, [one.entry for one in train])
    dataset = ViewDataset(records, task.views(), config.seed, targets=targets)
    training = _train.Training(config, fabric, run, task, dataset, identity)
    judge = kind.judge(store, val, _train.encoder_card(training, card), run.out) if val else None
    monitors = [judge.monitor] if judge and fabric.is_global_zero else []
    kept: Any = _train.train(training, monitors)
    if not fabric.is_global_zero:
        return run
    calibrated = save_calibrated(run.out, _train.encoder_card(training, card), kept.model, judge)
    run.exit_code = 4 if bad else 0
    return run.finish(
        train_cases=len(train),
        val_cases=len(val),
        quarantined=len(bad),
        label_flags=dict(sorted((flags + more_flags).items())),
        loaded_from_init=loaded,
        spacing_mm=start.contract.spacing_mm,  # often that of ``init``, and seldom noticed
        **calibrated,
        **kind.counts(labelled, train, val),
        **{f"best_{name}": value for name, value in (judge.best() if judge else {}).items()},
    )


def _task(
    config: FinetuneConfig, start: Start, train: list[Stored], kind: Kind, options: HeadConfig
) -> tuple[Any, dict[str, int]]:
    """The head on an encoder, with the weights of ``init``; also how many tensors came along."""
    module, _ = HEADS.module(config.task.name)
    encoder = start.encoder
    crop = config.crop or auto_crop([one.entry for one in train], encoder)
    part = kind.part(encoder, start.labelled, train, options)
    decoder = part if isinstance(part, Decoder) else None
    loaded = load_init(encoder, decoder, config.init) if config.init else {}
    return module.Head(encoder, part, options, crop), loaded


def _card(config: FinetuneConfig, start: Start, task: Any, provenance: dict[str, Any]) -> Card:
    labelled = start.labelled
    return Card(
        encoder=start.part,
        in_channels=len(labelled.channels),
        channels=labelled.channels,
        contract=start.contract,
        modality=labelled.modality,
        patch_size=task.crop,
        plane=task.views().plane,
        clip=task.views().clip,
        videos=isinstance(labelled, LabelledFrames),
        mirrored=may_mirror(task.config.flip, labelled.modality),
        head=config.task.name,
        decoder=getattr(task.config, "decoder", "auto"),
        labels=labelled.labels,
        provenance={
            **provenance,
            "init_weights_sha256": load_card(config.init)[0].weights_sha256 if config.init else "",
        },
    )


def cases_digest(train: list[Stored], targets: list[int] | None) -> str:
    """Hash of the pixels that were learned from, and of their classes."""
    order = [one.entry.pixel_hash for one in train] + list(map(str, targets or []))
    return hashlib.sha256("".join(order).encode()).hexdigest()[:16]
