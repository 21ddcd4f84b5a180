"""Medians with intervals, and tables of measurements in docs/results."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import typer

import medssl
from medssl.core.runlog import write_text
from medssl.core.seeding import generator

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def median_with_interval(values: npt.ArrayLike, digits: int = 3) -> tuple[str, str]:
    """Median and its 95 % bootstrap interval, as text."""
    x = np.asarray(values, dtype=float)
    draws = generator(0, "bench").integers(len(x), size=(10_000, len(x)))
    low, high = np.percentile(np.median(x[draws], axis=1), [2.5, 97.5])
    return f"{np.median(x):.{digits}f}", f"{low:.{digits}f} to {high:.{digits}f}"


def write_table(
    name: str,
    title: str,
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    note: str,
    folder: Path = RESULTS,
    by: str = "",
) -> None:
    """Write ``<folder>/<name>.md`` and show it; ``by`` is the pipeline, if not of that name."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    origin = (
        f"Written by `python -m pipelines.{by or name}`; medssl {medssl.__version__}, "
        f"Python {platform.python_version()}, {os.cpu_count()} CPUs."
    )
    text = "\n".join(
        [
            f"# {title}",
            "",
            f"{origin} {note}",
            "",
            f"| {' | '.join(head)} |",
            "|" + "---|" * len(head),
            *lines,
            "",
        ]
    )
    write_text(folder / f"{name}.md", text)
    typer.echo(text)
