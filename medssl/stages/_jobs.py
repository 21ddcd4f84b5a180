"""Jobs with one ledger row each: interrupted work goes on where it stopped."""

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
    """All rows; a missing file has none. A last row that a crash cut off is none."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def missing(path: Path, plan: Sequence[J]) -> list[J]:
    """Jobs of the plan without a row; a row holds its job's fields."""
    if not plan:
        return []
    done = {tuple(row[key] for key in plan[0]._fields) for row in read_rows(path)}
    return [job for job in plan if tuple(job) not in done]


def run_missing(
    path: Path, plan: Sequence[J], work: Callable[[J], dict[str, Any]], jobs: int
) -> None:
    """Run what is missing; a finished job adds its row.

    Args:
        path: the ledger.
        plan: all jobs, those with a row too.
        work: does a job and returns what its row holds beside the job's fields. Picklable.
        jobs: processes of one thread each; 0 = one after the other in this process, with all its
            threads. Of several, a job that fails does not stop the others; its error is raised at
            the end.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _drop_cut_off_row(path)
    if jobs == 0:
        for job in missing(path, plan):
            _add(path, job, work(job))
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_one_thread) as pool:
        futures = {pool.submit(work, job): job for job in missing(path, plan)}
        for future in as_completed(futures):
            if not future.exception():
                _add(path, futures[future], future.result())
    for future in futures:
        future.result()


def _add(path: Path, job: NamedTuple, row: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**job._asdict(), **row}) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _drop_cut_off_row(path: Path) -> None:
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if text and not text.endswith("\n"):
        path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
