"""``medssl phantom``: write a synthetic archive to try things on."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from medssl.archive.phantom import write_archive
from medssl.core.config import Config
from medssl.core.runlog import Run


class PhantomConfig(Config):
    """Options of ``medssl phantom``."""

    out: Path
    patients: int = Field(default=12, ge=1)
    """Patients of the archive, each with one CT and one MR."""
    seed: int = 0
    overwrite: bool = False


def run(config: PhantomConfig) -> Run:
    """Write ``archive/`` (unlabelled, some files broken) and ``labelled/`` (MSD layout).

    Raises:
        UsageError: ``out`` holds something and ``overwrite`` is not given.
    """
    run = Run.open("phantom", config.out, overwrite=config.overwrite)
    run.save_config(config, {})
    phantom = write_archive(config.out, patients=config.patients, seed=config.seed)
    return run.finish(patients=config.patients, broken=phantom.broken)
