"""Jobs with one ledger row each: an interrupted pipeline goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

J = TypeVar("J", bound=NamedTuple)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows; a missing file has none."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def missing(path: Path, plan: Sequence[J]) -> list[J]:
    """Jobs of the plan without a row; a row holds its job's fields."""
    if not plan:
        return []
    done = {tuple(row[key] for key in plan[0]._fields) for row in read_rows(path)}
    return [job for job in plan if tuple(job) not in done]


def run_missing(
    path: Path, plan: Sequence[J], work: Callable[[J], dict[str, Any]], jobs: int
) -> None:
    """Run what is missing, ``jobs`` processes of one thread each; a finished job adds its row.

    A job that fails does not stop the others; its error is raised at the end.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_one_thread) as pool:
        futures = {pool.submit(work, job): job for job in missing(path, plan)}
        for future in as_completed(futures):
            if future.exception():
                continue
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**futures[future]._asdict(), **future.result()}) + "\n")
                file.flush()
                os.fsync(file.fileno())
    for future in futures:
        future.result()


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
