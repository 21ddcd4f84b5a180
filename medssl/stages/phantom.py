"""``medssl phantom``: write a synthetic archive to try things on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from medssl.archive.phantom import write_archive
from medssl.archive.phantom_echo import write_hearts
from medssl.archive.phantom_surgery import write_operations
from medssl.core.config import Config
from medssl.core.runlog import Run


class PhantomConfig(Config):
    """Options of ``medssl phantom``."""

    out: Path
    kind: Literal["hospital", "echo", "surgery"] = "hospital"
    """``hospital``: CT and MR; ``echo``: beating hearts on video, with their ejection fractions;
    ``surgery``: operations on video, with their phases and tools."""
    patients: int = Field(default=12, ge=1)
    """Patients of the archive, each with one CT and one MR, or with one video."""
    seed: int = 0
    procedure: Literal["first", "second"] = "first"
    """Of ``surgery``: ``second`` has other phases, tools, colours and names."""
    labelled: Literal["MR", "CT"] = "MR"
    """What the labelled scans are."""
    overwrite: bool = False


def run(config: PhantomConfig) -> Run:
    """Write ``archive/`` (unlabelled, some files broken) and ``labelled/`` (MSD layout).

    Of hearts ``videos/`` and ``hearts.csv``; of operations ``videos/{train,val,test}`` (five, one
    and two eighths) and ``labels/`` in Cholec80's layout.

    Raises:
        UsageError: ``out`` holds something and ``overwrite`` is not given.
    """
    run = Run.open("phantom", config.out, overwrite=config.overwrite)
    run.save_config(config, {})
    if config.kind == "echo":
        write_hearts(config.out, hearts=config.patients, seed=config.seed)
        return run.finish(patients=config.patients)
    if config.kind == "surgery":
        val, test = (round(config.patients * share) for share in (1 / 8, 1 / 4))
        counts = (config.patients - val - test, val, test)
        write_operations(config.out, counts=counts, seed=config.seed, procedure=config.procedure)
        return run.finish(patients=config.patients)
    phantom = write_archive(
        config.out, patients=config.patients, seed=config.seed, labelled=config.labelled
    )
    return run.finish(patients=config.patients, broken=phantom.broken)
