"""What pretrain and finetune share: device, run folder, resume, progress, final model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from lightning.fabric import Fabric
from pydantic import Field, field_validator
from torch.utils.data import Dataset

from medssl.archive._pool import usable_cpus
from medssl.core.config import Component
from medssl.core.errors import ConfigError, UsageError
from medssl.core.preprocess import Contract
from medssl.core.runlog import Run
from medssl.core.seeding import seed_everything
from medssl.core.task import Passes, no_passes
from medssl.core.taskmodule import TaskModule
from medssl.encoders._depth import by_depth
from medssl.encoders.card import Card
from medssl.objectives._parts.norm import across_ranks
from medssl.stages._progress import TrainingLine, logger, no_log
from medssl.stages._shown import parts_shown
from medssl.training.checkpoint import load_latest
from medssl.training.data import StepSampler, loader
from medssl.training.ema import Ema
from medssl.training.loop import Loop, Monitor
from medssl.training.optim import OptimConfig, build_optimizer, phases_of
from medssl.training.schedule import LoopConfig

# Fields that may differ between a run and its continuation.
_FREE_FIELDS = {
    "data", "labels", "unlabelled", "out", "store", "init", "continue_from", "workers", "devices",
    "accelerator", "strategy", "log_every", "resume", "overwrite", "quiet", "health",
    "stop_on_collapse",
}  # fmt: skip

# Of clips, unless told: hours of video would not fit as they are.
CLIP_FPS, SHORT_SIDE_PX = 15.0, 128


class TrainConfig(LoopConfig, OptimConfig):
    """Options of every training stage."""

    data: Path
    out: Path
    encoder: Component = Component(name="resenc-xs")
    seed: int = 0
    crop: tuple[int, ...] | None = None
    """Voxels (D, H, W), or pixels (H, W) for an image encoder; default: the median record, in
    steps the encoder can take, at most 96 voxels or 224 pixels."""
    spacing_mm: tuple[float, float, float] | None = None
    """Resample to this (D, H, W) spacing; default: each record's own."""
    size_px: int | None = Field(default=None, ge=1)
    """Scale pictures until the shorter side has so many pixels; default: as they are. Frames of
    clips: default 128."""
    match_channels: bool = False
    """Copy grey pictures to 3 channels, or turn colour to luminance, where an encoder of 3 or 1
    channels needs it."""
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    accelerator: Literal["auto", "cpu", "cuda", "gpu", "mps"] = "auto"
    devices: int = 1
    strategy: str = "auto"
    workers: int | None = None
    """Loader processes; default 0 on CPU, up to 8 beside a GPU."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Factor on the encoder's rate per layer towards the input (0.75 for transformers that start
    from other weights); 1 = all layers alike."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Train a moving average of the weights too, and keep that one."""
    failure_budget: float = 0.01
    """Largest share of records that may fail before the run stops."""
    store: Path | None = None
    """Folder of preprocessed volumes; default: in the catalog or run folder."""
    resume: bool = False
    overwrite: bool = False
    quiet: bool = False

    @field_validator("steps", "batch_size", "accumulate", "devices", "log_every", "check_every")
    @classmethod
    def _counts_something(cls, value: int) -> int:
        if value < 1:
            raise ValueError("has to be at least 1")
        return value

    @field_validator("lr", "weight_decay", "warmup")
    @classmethod
    def _is_not_negative(cls, value: float) -> float:
        if value < 0:
            raise ValueError("has to be at least 0")
        return value

    @field_validator("spacing_mm")
    @classmethod
    def _has_extent(
        cls, spacing_mm: tuple[float, float, float] | None
    ) -> tuple[float, float, float] | None:
        if spacing_mm and min(spacing_mm) <= 0:
            raise ValueError("has to be above 0 mm")
        return spacing_mm


def launch(config: TrainConfig) -> Fabric:
    """Start the devices; with several, the other processes start here."""
    share = config.accumulate * config.devices
    if config.batch_size % share:
        what = f"batch_size {config.batch_size} is no multiple of accumulate x devices"
        raise ConfigError(what, fix=f"batch_size={share * -(-config.batch_size // share)}")
    if config.schedule == "infinite":
        phases_of(config, config.steps)  # refuses phases that do not fit
    precision = config.precision
    if precision == "auto":
        gpu = config.accelerator != "cpu" and torch.cuda.is_available()
        precision = "bf16-mixed" if gpu and torch.cuda.is_bf16_supported() else "32-true"
    fabric = Fabric(
        accelerator=config.accelerator,
        devices=config.devices,
        strategy=config.strategy,
        precision=precision,
    )
    fabric.launch()
    return fabric


def open_run(stage: str, config: TrainConfig, fabric: Fabric) -> Run:
    """The run folder, made by rank 0.

    Raises:
        UsageError: if it is in use, or holds an input that ``--overwrite`` would delete.
    """
    if config.overwrite:
        for name in ("data", "init", "continue_from"):
            path = getattr(config, name, None)
            if path and path.resolve().is_relative_to(config.out.resolve()):
                what = f"--overwrite would delete --{name}"
                raise UsageError(what, where=str(path), fix="choose another --out")
    if fabric.is_global_zero:
        run = Run.open(stage, config.out, resume=config.resume, overwrite=config.overwrite)
        if not (run.out / "config.yaml").exists():
            run.save_config(_shown(config), {})  # marks the folder as a run's
    fabric.barrier()
    return Run.open(stage, config.out, resume=True)


def contract_of(config: TrainConfig, channels: int, fps: float | None = None) -> Contract:
    """How records are prepared for an encoder of so many channels; clips at most at ``fps``.

    Raises:
        ConfigError: ``match_channels`` with a number that is neither grey nor colour.
    """
    if config.match_channels and channels not in (1, 3):
        what = f"match_channels with {channels} channels"
        raise ConfigError(what, fix="channels=1 (luminance) or channels=3 (colour)")
    return Contract(
        spacing_mm=config.spacing_mm,
        size_px=config.size_px,
        fps=fps,
        short_side_px=config.size_px or SHORT_SIDE_PX,
        picture_channels=channels if config.match_channels else None,
    )


@dataclass(frozen=True)
class Training:
    """A task, its data and its place; :func:`train` runs it."""

    config: TrainConfig
    fabric: Fabric
    run: Run
    task: TaskModule
    dataset: Dataset[dict[str, Any]]
    identity: dict[str, Any]
    """What, beside the config, makes two runs the same: records, contract, crop."""
    passes: Passes = no_passes
    recipe: str = ""
    """What a later run needs to know to go on from this one's checkpoints."""
    start: Callable[[Loop], None] | None = None
    """Brings in the state that the first step finds; default: new weights."""


def train(training: Training, monitors: Iterable[Monitor] = ()) -> TaskModule:
    """Train, or continue, to the last step; returns the module to keep (EMA if asked for)."""
    config, fabric, run = training.config, training.fabric, training.run
    seed_everything(config.seed + 1)  # dropout and the like; the weights were drawn before
    if fabric.world_size > 1:
        across_ranks(training.task)  # a run on several devices is the run on one
    ema = Ema(training.task, config.ema_decay) if config.ema_decay else None
    if ema:
        ema.module.to(fabric.device)
    task: Any = training.task
    groups = task.param_groups()
    if config.layer_decay < 1:
        groups = by_depth(groups, task.encoder, config.layer_decay)
    optimizer = build_optimizer(groups, config, fused=fabric.device.type == "cpu")
    loop = Loop(fabric, training.task, optimizer, config, config, ema=ema)
    config_hash = config_digest(config, training.identity)
    checkpoints = run.out / "checkpoints"
    state = load_latest(checkpoints, config_hash) if config.resume else None
    if state:
        loop.restore(state)
        if fabric.is_global_zero:
            drop_later_metrics(run.out / "metrics.jsonl", loop.step)
    elif training.start:
        training.start(loop)
    workers = config.workers
    if workers is None:
        workers = min(8, usable_cpus() - 1) if fabric.device.type == "cuda" else 0
    sampler = StepSampler(
        loop.step, config.steps, config.batch_size, config.accumulate,
        fabric.global_rank, fabric.world_size,
    )  # fmt: skip
    batches = loader(training.dataset, sampler, workers=workers, pin=fabric.device.type == "cuda")
    with TrainingLine(run.stage, config.steps, loop.step, config.quiet) as line:
        log = logger(run, line, config.failure_budget) if fabric.is_global_zero else no_log
        loop.fit(
            batches,
            checkpoints=checkpoints,
            stamp={"config_hash": config_hash, "recipe": training.recipe},
            log=log,
            monitors=monitors,
            passes=training.passes,
        )
    run.result["skipped_steps"] = loop.skipped
    kept = ema.module if ema else training.task
    assert isinstance(kept, TaskModule)
    return kept


def save_config(
    config: TrainConfig, run: Run, identity: Mapping[str, Any], derived: Mapping[str, Any]
) -> None:
    """Write the configuration; a run that was started with other options is left alone.

    Raises:
        UsageError: if ``resolved.yaml`` was written by another configuration.
    """
    digest = config_digest(config, identity)
    path = run.out / "resolved.yaml"
    if config.resume and path.is_file():
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        # Without a hash: the run ended before its data were known.
        if values.get("config_hash", digest) != digest:
            given = json.loads(json.dumps(_decisive(config, identity), default=str))
            others = sorted(key for key in given if key in values and values[key] != given[key])
            named = f" ({', '.join(others)})" if others else ""
            fix = "resume with the options the run was started with, or start a new --out"
            raise UsageError(f"the run was started with another configuration{named}", fix=fix)
    crop = {"crop": list(identity["crop"])}
    run.save_config(_shown(config), {**derived, **identity, **crop, "config_hash": digest})


def _shown(config: TrainConfig) -> TrainConfig:
    """The config without paths in the options of its parts."""
    return config.model_copy(update=parts_shown(dict(config)))


def config_digest(config: TrainConfig, identity: Mapping[str, Any]) -> str:
    """Hash of everything that decides the result of a run."""
    text = json.dumps(_decisive(config, identity), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _decisive(config: TrainConfig, identity: Mapping[str, Any]) -> dict[str, Any]:
    return {**config.model_dump(mode="json", exclude=_FREE_FIELDS), **identity}


def drop_later_metrics(path: Path, step: int) -> None:
    """Remove the lines of steps that are about to be repeated."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    path.write_text("".join(kept), encoding="utf-8")


def encoder_card(training: Training, card: Card) -> Card:
    """Stamp the card with how it was made."""
    provenance = {
        **card.provenance,
        "stage": training.run.stage,
        "steps": training.config.steps,
        "batch_size": training.config.batch_size,
        "seed": training.config.seed,
        "config": config_digest(training.config, training.identity),
    }
    return card.model_copy(update={"provenance": provenance})
