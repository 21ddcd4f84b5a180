"""Medians with intervals, and tables of measurements in docs/results."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Iterator, Sequence
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
    text = table(title, head, rows, note, by=by or name)
    write_text(folder / f"{name}.md", text)
    typer.echo(text)


def table(
    title: str, head: Sequence[str], rows: Sequence[Sequence[object]], note: str, by: str
) -> str:
    """A page of one table, by the pipeline of that name."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    origin = (
        f"Written by `python -m pipelines.{by}`; medssl {medssl.__version__}, "
        f"Python {platform.python_version()}, {os.cpu_count()} CPUs."
    )
    return "\n".join(
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


def peak_mb(command: list[str]) -> float:
    """Peak proportional set size of a command and its children, in MB, sampled every 10 ms."""
    return max(memory_mb_of(subprocess.Popen(command), 0.01), default=0.0)


def memory_mb_of(process: subprocess.Popen[bytes], every_s: float) -> Iterator[float]:
    """Proportional set size of a process and its children, in MB, time and again until it ends."""
    while process.poll() is None:
        yield sum(_pss_mb(pid) for pid in _family(process.pid))
        time.sleep(every_s)
    if process.returncode not in (0, 4):
        raise subprocess.CalledProcessError(process.returncode, process.args)


def own_processor_s() -> float:
    """Processor time of this process and all below it that live, in seconds."""
    ran_ns = 0
    for pid in _family(os.getpid()):
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            ran_ns += int(task.read_text(encoding="ascii").split()[0])
    return ran_ns / 1e9


def _family(pid: int) -> list[int]:
    """The process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text(encoding="ascii").split()
        except OSError:  # it ended meanwhile
            continue
        for child in children:
            found += _family(int(child))
    return found


def _pss_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:  # it ended meanwhile
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1e3
