"""Run a function over many items in worker processes that may die without taking the run along."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from medssl.core.errors import MedsslError, ReadError

Item = TypeVar("Item")
Result = TypeVar("Result")


def usable_cpus() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_items(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int, chunk: int
) -> Iterator[tuple[Item, Result | MedsslError]]:
    """``(item, result or error)`` in order; 0 workers = in this process.

    Only :class:`MedsslError` is caught. An item whose worker dies (a decoder that crashes) comes
    back as ``ReadError("decoder_crash")``.
    """
    if workers == 0 or len(items) <= chunk:
        for item in items:
            yield item, _guarded(function, item)
        return
    chunks = [items[start : start + chunk] for start in range(0, len(items), chunk)]
    with _pool(workers) as pool:
        futures = [pool.submit(_run_chunk, function, one) for one in chunks]
        outcomes = zip(chunks, futures, strict=True)
        for one, future in outcomes:
            results = _result(future)
            if results is None:
                break
            yield from zip(one, results, strict=True)
        else:
            return
    # The pool is broken: what is left runs one item per process, to find the one that kills.
    yield from _one_by_one(function, one)
    for one, future in outcomes:
        results = _result(future)
        if results is None:
            yield from _one_by_one(function, one)
        else:
            yield from zip(one, results, strict=True)


def _one_by_one(
    function: Callable[[Item], Result], items: Sequence[Item]
) -> Iterator[tuple[Item, Result | MedsslError]]:
    pool = _pool(1)
    for item in items:
        results = _result(pool.submit(_run_chunk, function, [item]))
        if results is None:
            pool.shutdown()
            pool = _pool(1)
            what = "the worker process died on this item (a decoder crashed)"
            yield item, ReadError("decoder_crash", what)
        else:
            yield item, results[0]
    pool.shutdown()


def _run_chunk(
    function: Callable[[Item], Result], items: Sequence[Item]
) -> list[Result | MedsslError]:
    return [_guarded(function, item) for item in items]


def _guarded(function: Callable[[Item], Result], item: Item) -> Result | MedsslError:
    try:
        return function(item)
    except MedsslError as error:
        return error


def _result(future: Future[list[Result]]) -> list[Result] | None:
    try:
        return future.result()
    except BrokenProcessPool:
        return None


def _pool(workers: int) -> ProcessPoolExecutor:
    methods = multiprocessing.get_all_start_methods()
    # Never fork: the parent may hold threads (polars, torch) whose locks a fork would copy.
    method = "forkserver" if "forkserver" in methods else "spawn"
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context(method))
