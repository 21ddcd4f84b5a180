"""``medssl demo``: the whole way on synthetic data, small enough for a CPU.

Scans of a hospital first, to segmentations; then videos of operations, to their phases.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field
from rich import get_console

from medssl.archive.tracks import PHASE_ENDING
from medssl.core.config import Config
from medssl.core.runlog import Run

ENCODER = "resenc-xs"
# The whole phantom: organs are told apart by where they lie. A step takes about a second.
CROP = (48, 64, 64)
# Its image branch reads the frames that phases are told from.
CLIP_ENCODER = "video_vit-xs"
CLIP, FRAME, FRAME_SIDE_PX = (8, 64, 96), (64, 96), 72
VIDEO = "video"

Steps = list[tuple[str, Mapping[str, Any]]]


class DemoConfig(Config):
    """Options of ``medssl demo``."""

    out: Path
    patients: int = 12
    """Patients of the synthetic archive."""
    operations: int = Field(default=8, ge=4)
    """Synthetic operations on video."""
    pretrain_steps: int = 100
    finetune_steps: int = 300
    seed: int = 0
    overwrite: bool = False


def run(config: DemoConfig) -> Run:
    """Phantom, index, pretrain, finetune, predict, evaluate, report; a folder each below ``out``.

    Then phantom, pretrain, finetune, predict and evaluate for videos, below ``out/video``.

    Raises:
        UsageError: ``out`` holds something and ``overwrite`` is not given.
    """
    from medssl.stages import run_stage  # it looks this module up by name

    run = Run.open("demo", config.out, overwrite=config.overwrite)
    run.save_config(config, {})
    steps = [("", *step) for step in plan(config)]
    steps += [(f"{VIDEO} ", *step) for step in video_plan(config)]
    done: dict[str, Run] = {}
    for number, (part, stage, values) in enumerate(steps, start=1):
        get_console().print(f"{number}/{len(steps)} {part}{stage}")
        if part and stage == "evaluate":
            _take_references(config.out / VIDEO)
        done[part + stage] = run_stage(stage, None, values)
    dice = done["evaluate"].result["dice"]
    accuracy = done[f"{VIDEO} evaluate"].result["accuracy"]
    _show("mean Dice", dice, "patients")
    _show("phases, accuracy", accuracy, "operations")
    summary = {name: {"exit_code": one.exit_code} for name, one in done.items()}
    outputs = sorted(path.name for path in config.out.iterdir() if path.name != "config.yaml")
    outputs += sorted(f"{VIDEO}/{path.name}" for path in (config.out / VIDEO).iterdir())
    return run.finish(stages=summary, dice=dice, accuracy=accuracy, outputs=outputs)


def _show(name: str, found: Mapping[str, Any], of: str) -> None:
    interval = "no interval"  # of a single one
    if found["low"] is not None:
        interval = f"95 % interval {found['low']:.3f} to {found['high']:.3f}"
    get_console().print(f"{name} {found['mean']:.3f} ({interval}, n = {found['n']} {of})")


def _take_references(folder: Path) -> None:
    """The labels of the test videos alone: what is predicted is what is compared."""
    (folder / "references").mkdir()
    for video in sorted((folder / "phantom" / "videos" / "test").iterdir()):
        name = f"{video.stem}{PHASE_ENDING}"
        shutil.copyfile(folder / "phantom" / "labels" / name, folder / "references" / name)


def plan(config: DemoConfig) -> Steps:
    """The stages in order with their values, as the command line would give them."""
    out, seed = config.out, config.seed
    labelled = out / "phantom" / "labelled"
    training = {"encoder": ENCODER, "crop": CROP, "lr": 6e-3, "warmup": 20, "seed": seed}
    return [
        ("phantom", {"out": out / "phantom", "patients": config.patients, "seed": seed}),
        ("index", {"archive": out / "phantom" / "archive", "out": out / "catalog", "seed": seed}),
        (
            "pretrain",
            {
                "data": out / "catalog",
                "out": out / "pretrained",
                "objective": "mae",
                "where": "modality == 'MR'",
                "steps": config.pretrain_steps,
                "batch_size": 4,
                **training,
            },
        ),
        (
            "finetune",
            {
                "task": "segmentation",
                "data": labelled,
                "init": out / "pretrained",
                "out": out / "finetuned",
                "steps": config.finetune_steps,
                "batch_size": 2,
                **training,
            },
        ),
        (
            "predict",
            {
                "input": labelled / "imagesTs",
                "out": out / "predictions",
                "checkpoint": out / "finetuned",
            },
        ),
        (
            "evaluate",
            {
                "task": "segmentation",
                "pred": out / "predictions",
                "ref": labelled / "labelsTs",
                "out": out / "metrics.json",
            },
        ),
        (
            "report",
            {
                "run": out / "finetuned",
                "out": out / "report",
                "pred": out / "predictions",
                "metrics": [out / "metrics.json"],
            },
        ),
    ]


def video_plan(config: DemoConfig) -> Steps:
    """The same for videos: discovr on clips, phases from its encoder of frames."""
    out, steps = config.out / VIDEO, config.finetune_steps
    videos, seed = out / "phantom" / "videos", config.seed
    training = {"lr": 1e-3, "warmup": 10, "size_px": FRAME_SIDE_PX, "seed": seed}
    pretraining = {
        "data": videos / "train",
        "out": out / "pretrained",
        "objective": {"name": "discovr", "hidden": 256, "prototypes": 256, "clusters": 64},
        "encoder": CLIP_ENCODER,
        "crop": CLIP,
        "channels": 3,
        "splits": ("train", "val"),
        "steps": config.pretrain_steps,
        "batch_size": 4,
        **training,
    }
    finetuning = {
        "task": {"name": "phase", "fps": 2, "temporal_steps": steps},
        "data": videos,
        "labels": out / "phantom" / "labels",
        "init": out / "pretrained",
        "out": out / "finetuned",
        "crop": FRAME,
        "steps": steps,
        "batch_size": 8,
        **training,
    }
    drawn = {"out": out / "phantom", "kind": "surgery", "patients": config.operations, "seed": seed}
    predicted = out / "predictions"
    compared = {"pred": predicted, "ref": out / "references", "out": out / "metrics.json"}
    return [
        ("phantom", drawn),
        ("pretrain", pretraining),
        ("finetune", finetuning),
        (
            "predict",
            {"input": videos / "test", "out": predicted, "checkpoint": out / "finetuned"},
        ),
        ("evaluate", {"task": "phase", **compared}),
    ]
