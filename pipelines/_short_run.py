"""Pretraining of a few minutes with an objective's shipped options."""

from __future__ import annotations

import shutil
from typing import Any

import medssl
from medssl.core.config import config_root, read_yaml
from medssl.core.registry import OBJECTIVES
from medssl.core.runlog import Run

# Teachers that are slow over tens of thousands of steps would not move in a hundred.
MOMENTUM = 0.97


def short_run(objective: str, *, steps: int, **options: Any) -> Run:
    """Pretrain in bfloat16, a tenth of the steps as warm-up, teachers' momentum 0.97.

    What lay in ``out`` is removed, and so are the checkpoints of the finished run: its model stays.
    """
    shutil.rmtree(options["out"], ignore_errors=True)  # what a killed run left
    shipped = (config_root() / "pretrain" / f"{objective}.yaml").is_file()
    name = objective if shipped else None
    values, _ = read_yaml("pretrain", name)
    module, _ = OBJECTIVES.module(objective)
    has_teacher = "momentum" in module.Config.model_fields
    run: Run = medssl.pretrain(
        config=name,
        **{
            "objective": values.get("objective", objective),
            "steps": steps,
            "warmup": steps // 10,
            "check_every": steps,
            "precision": "bf16-mixed",
            "quiet": True,
            **({"objective.momentum": MOMENTUM} if has_teacher else {}),
            **options,
        },
    )
    shutil.rmtree(run.out / "checkpoints")
    return run
