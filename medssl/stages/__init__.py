"""Stages: typed config in, run folder out. The only place that wires data to models.

Each stage is a module ``medssl/stages/<stage>.py`` with ``<Stage>Config`` and ``run(config)``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medssl.core.config import Config, load_config
from medssl.core.errors import UsageError
from medssl.core.runlog import Run, remove_refused


def config_class(stage: str) -> type[Config]:
    """The config of a stage; imports the stage's module."""
    module = importlib.import_module(f"medssl.stages.{stage}")
    found: type[Config] = getattr(module, f"{stage.capitalize()}Config")
    return found


def run_stage(stage: str, config: str | Path | None, values: Mapping[str, Any]) -> Run:
    """Run a stage with a YAML file (name or path) and values that come before the file's.

    Where it refuses its options, its new folder goes again.

    Raises:
        ConfigError: unknown key or bad value.
        MedsslError: whatever the stage refuses.
    """
    built = load_config(config_class(stage), stage, config, values)
    out = getattr(built, "out", None)
    new = out if isinstance(out, Path) and not out.exists() else None
    try:
        run: Run = importlib.import_module(f"medssl.stages.{stage}").run(built)
    except UsageError:
        if new:
            remove_refused(new)
        raise
    return run
