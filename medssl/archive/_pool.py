"""Run a function over many items in worker processes that may die without taking the run along.

The workers are ``python -m medssl.archive._pool_worker``, not children of :mod:`multiprocessing`:
a user's script needs no ``if __name__ == "__main__"``. Requests and replies are pickles; of a
reply, only plain values and our own classes are unpickled (:func:`loads_reply`).
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import io
import itertools
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO, Self, TypeVar

from medssl.core.errors import MedsslError, ReadError

Item = TypeVar("Item")
Result = TypeVar("Result")

_LENGTH = struct.Struct("<Q")
# Chunks on their way per worker: one at work, one waiting.
_AHEAD = 2
_NUMPY_PARTS = {"ndarray", "dtype", "_reconstruct", "scalar", "_frombuffer"}
_SAFE = {
    ("builtins", "set"),
    ("builtins", "frozenset"),
    ("builtins", "bytearray"),
    ("collections", "Counter"),
    ("collections", "OrderedDict"),
    ("pathlib", "PosixPath"),
    ("medssl.core.errors", "_rebuild"),
}


def usable_cpus() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_items(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, chunk: int
) -> Iterator[tuple[Item, Result | MedsslError]]:
    """``(item, result or error)`` in order; 0 workers, or no more than a chunk = in this process.

    Only :class:`MedsslError` is caught. An item whose worker dies (a decoder that crashes) comes
    back as ``ReadError("decoder_crash")``.
    """
    waiting = iter(items)
    first = list(itertools.islice(waiting, chunk + 1))
    few = len(first) <= chunk
    with Pool(0 if few else workers) as pool:
        yield from pool.map(function, itertools.chain(first, waiting), chunk=chunk)


class Pool:
    """Worker processes, started when first needed.

    Args:
        workers: how many; 0 = everything runs in this process, without a time limit.
        limit_s: seconds an item may take before its worker is killed; ``None`` = any.
    """

    def __init__(self, workers: int, limit_s: float | None = None) -> None:
        self._threads = ThreadPoolExecutor(workers) if workers else None
        self._ahead = _AHEAD * workers
        self._limit_s = limit_s
        self._own = threading.local()
        self._remotes: set[_Remote] = set()
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        for remote in list(self._remotes):
            remote.close()
        if self._threads:
            self._threads.shutdown(cancel_futures=True)
        for remote in self._remotes:  # one that a thread started meanwhile
            if not remote.closed:
                remote.close()

    def start(self, *modules: str) -> None:
        """Start all workers now and have them import these modules, for work that comes soon."""
        if self._threads is None:
            return
        together = threading.Barrier(self._ahead // _AHEAD)
        for _ in range(together.parties):
            self._threads.submit(self._start_one, together, modules)

    def _start_one(self, together: threading.Barrier, modules: tuple[str, ...]) -> None:
        self._remote(modules)
        together.wait()  # so that each thread gets one of these tasks

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item], *, chunk: int
    ) -> Iterator[tuple[Item, Result | MedsslError]]:
        """See :func:`map_items`; an item over the time limit is ``decoder_timeout``."""
        if self._threads is None:
            for item in items:
                yield item, guarded(function, item)
            return
        code = pickle.dumps((function, self._limit_s))
        pending: deque[tuple[list[Item], Future[list[Result | MedsslError]]]] = deque()
        waiting = iter(items)
        while True:
            while len(pending) < self._ahead and (part := list(itertools.islice(waiting, chunk))):
                pending.append((part, self._threads.submit(self._run, code, part)))
            if not pending:
                return
            part, future = pending.popleft()
            yield from zip(part, future.result(), strict=True)

    def _run(self, code: bytes, items: list[Any]) -> list[Any]:
        """Runs in a thread that owns one worker."""
        try:
            return self._remote().run(code, items)
        except _Died as death:
            self._own.remote.close()
            self._remotes.discard(self._own.remote)
            if len(items) == 1 or self._ended:
                return [death.error(self._limit_s) for _ in items]
        return [result for item in items for result in self._run(code, [item])]

    def _remote(self, modules: tuple[str, ...] = ()) -> _Remote:
        remote: _Remote | None = getattr(self._own, "remote", None)
        if remote is None or remote.closed:
            remote = self._own.remote = _Remote(modules)
            self._remotes.add(remote)
        return remote


class _Died(Exception):  # noqa: N818
    def __init__(self, *, late: bool) -> None:
        self.late = late

    def error(self, limit_s: float | None) -> ReadError:
        if self.late:
            return ReadError("decoder_timeout", f"reading took longer than {limit_s:.0f} s")
        return ReadError("decoder_crash", "the worker process died on this item")


class _Remote:
    """One worker process, which imports some modules first."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), "1"),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "medssl.archive._pool_worker", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests: BinaryIO = self._process.stdin  # type: ignore[assignment]
        self._replies: BinaryIO = self._process.stdout  # type: ignore[assignment]
        self._code = b""
        self.closed = False

    def run(self, code: bytes, items: list[Any]) -> list[Any]:
        """Results of a chunk.

        Raises:
            _Died: the worker is gone.
        """
        try:
            if code != self._code:
                write_frame(self._requests, code)
                self._code = code
            else:
                write_frame(self._requests, b"")
            write_frame(self._requests, pickle.dumps(items))
            reply = read_frame(self._replies)
        except (BrokenPipeError, EOFError):
            code_number = self._process.wait()
            raise _Died(late=code_number == -signal.SIGALRM) from None
        results, error = loads_reply(reply)
        if error is not None:
            raise error
        return list(results)

    def close(self) -> None:
        """End the process; whatever it was asked for last has been answered or is not wanted."""
        self.closed = True
        self._process.kill()
        self._process.wait()
        self._replies.close()
        with contextlib.suppress(BrokenPipeError):  # a request that nobody reads any more
            self._requests.close()


_item_limit_s: float | None = None


def limit_items(limit_s: float | None) -> None:
    """In a worker: seconds that an item, or a part of it, may take from now on."""
    global _item_limit_s  # noqa: PLW0603 - one clock per process
    _item_limit_s = limit_s


def restart_clock(limit_s: float | None = None) -> None:
    """Give a part of an item a time of its own; does nothing outside a worker with limits."""
    if _item_limit_s is not None:
        # The default action of this signal ends the process, whatever it is doing.
        signal.setitimer(signal.ITIMER_REAL, limit_s or _item_limit_s)


def guarded(function: Callable[[Item], Result], item: Item) -> Result | MedsslError:
    """The result, or the :class:`MedsslError` that came instead."""
    try:
        return function(item)
    except MedsslError as error:
        return error


def write_frame(stream: BinaryIO, content: bytes) -> None:
    """One message with its length before it."""
    stream.write(_LENGTH.pack(len(content)))
    stream.write(content)
    stream.flush()


def read_frame(stream: BinaryIO) -> bytes:
    """The next message.

    Raises:
        EOFError: the other side is gone.
    """
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    content = stream.read(length)
    if len(content) < length:
        raise EOFError
    return content


def loads_reply(content: bytes) -> Any:
    """Unpickle what a worker says: numbers, text, arrays, exceptions and classes of medssl.

    A worker that a hostile file took over can make this call nothing else.

    Raises:
        pickle.UnpicklingError: it names anything else.
    """
    return _ReplyUnpickler(io.BytesIO(content)).load()


class _ReplyUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _SAFE:
            return super().find_class(module, name)
        if module == "builtins":
            found = getattr(builtins, name, None)
            if isinstance(found, type) and issubclass(found, Exception):
                return found
        if module.partition(".")[0] == "numpy" and name in _NUMPY_PARTS:
            return super().find_class(module, name)
        if module.startswith("medssl.") and "." not in name:
            found = getattr(importlib.import_module(module), name)
            if isinstance(found, type):
                return found
        raise pickle.UnpicklingError(f"a worker's reply names {module}.{name}")
