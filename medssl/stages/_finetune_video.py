"""Fine-tuning on frames of videos: phases in two stages, tools in one.

Videos go into the store at a fixed rate. The encoder learns on random labelled frames, of one video
as often as of another (not for phases with ``freeze_encoder``, where it has nothing to learn). For
phases its features of all frames are then computed, and the network over time learns on those.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from lightning.fabric import Fabric
from torch import nn

from medssl.archive.labelled_videos import LabelledVideos, VideoCase, load_videos
from medssl.archive.store import Store
from medssl.core.config import validate
from medssl.core.errors import ConfigError, NothingUsableError
from medssl.core.phases import NONE
from medssl.core.registry import ENCODERS, HEADS
from medssl.core.runlog import Run
from medssl.core.seeding import generator
from medssl.encoders._base import Encoder
from medssl.encoders.card import Card, load_card
from medssl.stages import _train
from medssl.stages._best import save_calibrated
from medssl.stages._curriculum import TwoProcedures, curriculum_of, other_procedure
from medssl.stages._init import load_init
from medssl.stages._kinds import VALIDATION_FROM, Judge, Stored, wanted_patients
from medssl.stages._labelled_store import case_key, fill_store
from medssl.stages._over_time import VideoFeatures, train_over_time
from medssl.stages._shown import with_defaults
from medssl.stages._start import FRAME_SIDE_PX, Start, begin_videos
from medssl.stages._tool_monitor import ToolMonitor
from medssl.stages._video_frames import (
    FrameDataset,
    FrameRecords,
    features,
    frame_crop,
    labels_of,
    stored_frames,
    tools_of,
)
from medssl.views.guard import may_mirror

if TYPE_CHECKING:
    from medssl.stages.finetune import FinetuneConfig

TASKS = ("phase", "tools")


def choose_videos(
    labelled: LabelledVideos, config: FinetuneConfig
) -> tuple[list[VideoCase], list[VideoCase]]:
    """Training and validation videos; a patient is never in both, and frames are never split.

    ``labelled=n`` takes the first n patients of an order that depends on the seed alone: the choice
    for a smaller n is part of that for a larger one. Without a named validation split, and from 10
    patients on, the last of them are set aside.

    Raises:
        UsageError: more patients asked for than there are.
    """
    usable = [case for case in labelled.cases if case.track is not None and case.split != "test"]
    named = any(case.split == "val" for case in usable)
    pool = [case for case in usable if not named or case.split != "val"]
    patients = sorted({case.patient for case in pool})
    order = [patients[i] for i in generator(config.seed, "labelled").permutation(len(patients))]
    chosen = order[: wanted_patients(config, len(order))]
    held = 0
    if not named and len(chosen) >= VALIDATION_FROM:
        held = round(config.val_fraction * len(chosen))
    kept = set(chosen[: len(chosen) - held])
    train = [case for case in pool if case.patient in kept]
    val = [case for case in usable if case.split == "val"] if named else []
    return train, val or [case for case in pool if case.patient in set(chosen) - kept]


@dataclass(frozen=True, eq=False)
class _Videos:
    """What both stages need.

    Attributes:
        labels: per video, phases (T,) or tools (T, K), and (T,) which frames are labelled.
    """

    store: Store
    train: list[Stored]
    val: list[Stored]
    labels: dict[str, tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]]

    def records(self, stored: Sequence[Stored]) -> tuple[FrameRecords, npt.NDArray[Any]]:
        """The labelled frames of some videos, and their labels."""
        places = [
            np.stack([np.full(there.sum(), v), np.flatnonzero(there)], axis=1)
            for v, (_, there) in enumerate(self.labels[one.case.name] for one in stored)
        ]
        targets = [label[there] for label, there in (self.labels[o.case.name] for o in stored)]
        entries = [one.entry for one in stored]
        return FrameRecords(self.store, entries, np.concatenate(places)), np.concatenate(targets)


def finetune_videos(config: FinetuneConfig) -> Run:
    """Fine-tune on videos; writes what ``medssl finetune`` writes, and ``temporal/`` for phases.

    Raises:
        ConfigError: several devices for phases; a curriculum without videos for it.
        ReadError: a labelled video cannot be used (all of them are named in ``where``).
        InterruptedRunError: on SIGINT or SIGTERM, after a checkpoint.
    """
    name = config.task.name
    module, _ = HEADS.module(name)
    options = validate(module.Config, config.task.options, where=f"head {name}")
    if name == "phase":
        if config.devices > 1:
            raise ConfigError("phases are trained on one device", fix="devices=1")
        options = curriculum_of(config, options)
    fabric = _train.launch(config)
    run = _train.open_run("finetune", config, fabric)
    names = options.phases if name == "phase" else options.tools
    labelled = load_videos(config.data, config.labels, tools=name == "tools", names=names)
    start = begin_videos(config, labelled, options.fps, FRAME_SIDE_PX)
    videos, bad, flags = _stored(config, start, run, fabric)
    crop = config.crop or frame_crop([one.entry for one in videos.train], start.encoder)
    records, targets = videos.records(videos.train)
    # Before the head is built: its teacher copies the encoder.
    loaded = load_init(start.encoder, None, config.init) if config.init else {}
    task = module.Head(start.encoder, _part(name, targets, start.labelled), options, crop)
    other = other_procedure(config, start, videos.store, run) if config.unlabelled else None
    card = _card(config, start, task, _digest(videos.train, targets, other))
    identity = {"contract": start.contract.digest, "crop": crop, **card.provenance}
    if fabric.is_global_zero:
        _save(config, run, identity, card, loaded)
    dataset = FrameDataset(records, task.views(), config.seed, targets)
    if other:
        dataset = TwoProcedures(dataset, other, task.unlabelled_views())
    training = _train.Training(config, fabric, run, task, dataset, identity)
    card = _train.encoder_card(training, card)
    if name == "phase":
        model, judge = _phases(training, options, videos, card)
    else:
        model, judge = _tools(training, videos, card)
    if not fabric.is_global_zero:
        return run
    calibrated = save_calibrated(run.out, card, model, judge)
    run.exit_code = 4 if bad else 0
    return run.finish(
        train_videos=len(videos.train),
        val_videos=len(videos.val),
        train_frames=len(records),
        unlabelled_videos=len(other.entries) if other else 0,
        skipped=dict(labelled.skipped),
        quarantined=len(bad),
        label_flags=flags,
        loaded_from_init=loaded,
        **calibrated,
        **{f"best_{key}": value for key, value in (judge.best() if judge else {}).items()},
    )


def _save(
    config: FinetuneConfig, run: Run, identity: dict[str, Any], card: Card, loaded: dict[str, int]
) -> None:
    parts = {
        "task": with_defaults(config.task, HEADS),
        "encoder": with_defaults(card.encoder, ENCODERS),
    }
    _train.save_config(config, run, identity, {"loaded_from_init": loaded, "options": parts})


def _stored(
    config: FinetuneConfig, start: Start, run: Run, fabric: Fabric
) -> tuple[_Videos, set[str], dict[str, int]]:
    """Videos in the store with the labels of their frames.

    Raises:
        NothingUsableError: no labelled frame is left to learn from.
    """
    labelled = start.labelled
    assert isinstance(labelled, LabelledVideos)
    train, val = choose_videos(labelled, config)
    store = Store(config.store or run.out / "store", start.contract)
    bad, flags = fill_store(labelled, [*train, *val], store, run, config)
    fabric.barrier()
    groups = [
        [
            Stored(case, store.entry(case_key(store, labelled, case)))
            for case in group
            if case.name not in bad
        ]
        for group in (train, val)
    ]
    labels = {one.case.name: _labels(one, start, config) for group in groups for one in group}
    unlabelled = {name for name, (_, there) in labels.items() if not there.any()}
    groups = [[one for one in group if one.case.name not in unlabelled] for group in groups]
    if not groups[0]:
        raise NothingUsableError("no labelled frame is left to learn from")
    counts = {**flags, "without_labelled_frame": len(unlabelled)}
    videos = _Videos(store, groups[0], groups[1], labels)
    return videos, bad, {k: n for k, n in sorted(counts.items()) if n}


def _labels(
    one: Stored, start: Start, config: FinetuneConfig
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    labelled = start.labelled
    assert isinstance(labelled, LabelledVideos)
    if config.task.name == "tools":
        return tools_of(one, labelled, start.contract)
    phase_T = labels_of(one, labelled, start.contract)
    return phase_T, phase_T != NONE


def _part(name: str, targets: npt.NDArray[Any], labelled: Any) -> Any:
    """What the head of the first stage is built from: counts of labelled frames."""
    if name == "tools":
        return targets.sum(0).tolist(), len(targets)
    return np.bincount(targets, minlength=len(labelled.labels)).tolist()


def _phases(
    training: _train.Training, options: Any, videos: _Videos, card: Card
) -> tuple[nn.Module, Judge | None]:
    """Both stages of a phase model, and its judge."""
    kept: Any = training.task
    if not options.freeze_encoder:
        kept = _train.train(training)
    kept.eval()
    encoder: Encoder = kept.encoder.to(training.fabric.device)
    seen = {
        use: [_seen(encoder, one, videos, training) for one in group]
        for use, group in (("train", videos.train), ("val", videos.val))
    }
    config: Any = training.config
    return train_over_time(config, options, training.fabric, encoder, seen, card)


def _tools(
    training: _train.Training, videos: _Videos, card: Card
) -> tuple[nn.Module, Judge | None]:
    """A tool model, and its judge."""
    monitor = ToolMonitor(videos.store, videos.val, videos.labels, card, training.run.out)
    judge = (
        Judge(monitor, lambda: monitor.best, monitor.calibrate, monitor.score)
        if videos.val
        else None
    )
    monitors = [monitor] if judge and training.fabric.is_global_zero else []
    kept: Any = _train.train(training, monitors)
    return kept.model, judge


def _seen(
    encoder: Encoder, one: Stored, videos: _Videos, training: _train.Training
) -> VideoFeatures:
    frames = stored_frames(videos.store, one.entry, training.identity["crop"])
    phase_T, _ = videos.labels[one.case.name]
    return VideoFeatures(features(encoder, frames, training.fabric.device), phase_T)


def _card(config: FinetuneConfig, start: Start, task: Any, digest: str) -> Card:
    over_time = getattr(task.config, "temporal", None)
    return Card(
        encoder=start.part,
        in_channels=len(start.labelled.channels),
        channels=start.labelled.channels,
        contract=start.contract,
        modality=start.labelled.modality,
        patch_size=task.crop,
        mirrored=may_mirror(task.config.flip, start.labelled.modality),
        head=config.task.name,
        labels=start.labelled.labels,
        temporal={} if over_time is None else over_time.model_dump(mode="json"),
        provenance={
            "frames_digest": digest,
            "init_weights_sha256": load_card(config.init)[0].weights_sha256 if config.init else "",
        },
    )


def _digest(stored: Sequence[Stored], targets: npt.NDArray[Any], other: FrameRecords | None) -> str:
    entries = [one.entry for one in stored] + list(other.entries if other else ())
    text = "".join(entry.pixel_hash for entry in entries)
    labels = np.ascontiguousarray(targets).tobytes()
    return hashlib.sha256(text.encode() + labels).hexdigest()[:16]
