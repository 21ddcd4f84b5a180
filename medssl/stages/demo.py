"""``medssl demo``: the whole way on a synthetic archive, small enough for a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import get_console

from medssl.core.config import Config
from medssl.core.runlog import Run

ENCODER = "resenc-xs"
# The whole phantom: organs are told apart by where they lie. A step takes about a second.
CROP = (48, 64, 64)


class DemoConfig(Config):
    """Options of ``medssl demo``."""

    out: Path
    patients: int = 12
    """Patients of the synthetic archive."""
    pretrain_steps: int = 100
    finetune_steps: int = 300
    seed: int = 0
    overwrite: bool = False


def run(config: DemoConfig) -> Run:
    """Phantom, index, pretrain, finetune, predict, evaluate; one folder each below ``out``.

    Raises:
        UsageError: ``out`` holds something and ``overwrite`` is not given.
    """
    from medssl.stages import run_stage  # it looks this module up by name

    run = Run.open("demo", config.out, overwrite=config.overwrite)
    run.save_config(config, {})
    summary: dict[str, Any] = {}
    for number, (stage, values) in enumerate(plan(config), start=1):
        get_console().print(f"{number}/6 {stage}")
        done = run_stage(stage, None, values)
        summary[stage] = {"exit_code": done.exit_code}
    dice = done.result["dice"]
    interval = f"95 % interval {dice['low']:.3f} to {dice['high']:.3f}, n = {dice['n']} patients"
    get_console().print(f"mean Dice {dice['mean']:.3f} ({interval})")
    outputs = sorted(path.name for path in config.out.iterdir() if path.name != "config.yaml")
    return run.finish(stages=summary, dice=dice, outputs=outputs)


def plan(config: DemoConfig) -> list[tuple[str, Mapping[str, Any]]]:
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
    ]
