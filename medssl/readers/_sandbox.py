"""Decoding of untrusted pixels in a process of its own, with caps on memory and time.

One worker (``python -m medssl.readers._worker``) serves this process and is started again after a
crash. Requests and replies are JSON lines, voxels are raw bytes behind the reply: nothing that the
worker says is unpickled, so a decoder that was taken over cannot take over the caller.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError
from medssl.core.sample import BYTE_CAP
from medssl.readers._base import Found
from medssl.readers._found_json import to_json
from medssl.readers._load import expected_shape

# Memory: interpreter, libraries and file content, plus some copies of what is decoded.
_BASE_BYTES = 3 * 2**30
_COPIES = 6
# Processor time: a slow decoder still manages 1 MB/s. Waiting for a slow disk is not hanging, so
# the clock on the wall has more patience.
_BASE_S = 4.0
_BYTES_PER_S = 2**20
_SCAN_BYTES_PER_S = 8 * 2**20
_PATIENCE = 8.0
# A large library (torch) takes this long to load.
_LIBRARY_S = 20.0
# A process whose pipe broke is gone within this time.
_EXIT_S = 1.0


class Worker:
    """One decoding process; not shared between threads or over a fork."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "medssl.readers._worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )

    def load(
        self, found: Found, frames: Sequence[int] | None, *, limit_bytes: int, limit_s: float
    ) -> npt.NDArray[Any]:
        """Decode one record in at most ``limit_s`` of processor time.

        Raises:
            ReadError: the reader's own, or ``decoder_crash``, ``decoder_timeout``.
        """
        request = {
            "found": {**to_json(found), "frame_times_s": None},  # hours of video have many
            "frames": frames,
            "limit_bytes": limit_bytes,
            "limit_s": limit_s,
            "library_bytes": found.options.get("library_bytes", 0),
        }
        with self._guarded(limit_s, found.files[0]):
            self._exchange(request)
            array = np.empty(expected_shape(found, frames), np.dtype(found.dtype))
            _read_into(self._process.stdout, array)
            return array

    def ask(
        self, question: str, path: str, *, library_bytes: int, limit_s: float
    ) -> dict[str, Any]:
        """What a foreign library says of a file before its pixels are wanted.

        ``question`` is a name in ``ANSWERS`` of :mod:`medssl.readers._worker`.

        Raises:
            ReadError: as :meth:`load`.
        """
        request = {
            "question": question,
            "path": path,
            "limit_bytes": _BASE_BYTES,
            "limit_s": limit_s,
            "library_bytes": library_bytes,
        }
        with self._guarded(limit_s, path):
            answer: dict[str, Any] = self._exchange(request)["answer"]
            return answer

    @contextmanager
    def _guarded(self, limit_s: float, where: str) -> Iterator[None]:
        expired = threading.Event()

        def kill() -> None:
            expired.set()
            self._process.kill()

        timer = threading.Timer(limit_s * _PATIENCE, kill)
        timer.start()
        try:
            yield
        except (BrokenPipeError, EOFError, json.JSONDecodeError, KeyError):
            late = expired.is_set() or self._ended_by(signal.SIGPROF)
            self.close()
            if late:
                what = f"decoding took longer than {limit_s:.0f} s of processor time"
                raise ReadError("decoder_timeout", what, where=where) from None
            what = "the decoding process died on this item"
            raise ReadError("decoder_crash", what, where=where) from None
        finally:
            timer.cancel()

    def _ended_by(self, number: int) -> bool:
        try:
            return self._process.wait(_EXIT_S) == -number
        except subprocess.TimeoutExpired:
            return False

    def _exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise EOFError
        reply: dict[str, Any] = json.loads(line)
        if "reason" in reply:
            raise ReadError(
                str(reply["reason"]),
                str(reply["what"]),
                where=str(reply["where"]),
                fix=str(reply["fix"]),
            )
        return reply

    def alive(self) -> bool:
        """Whether this process may still use the worker."""
        return self.owner == os.getpid() and self._process.poll() is None

    def close(self) -> None:
        """End the process."""
        if self.owner == os.getpid():
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    with suppress(BrokenPipeError):  # a request that it did not take
                        stream.close()


_lock = threading.Lock()
_worker: Worker | None = None
# In the decoding process itself: it answers its own questions.
_inside: dict[str, Callable[[str], dict[str, Any]]] = {}


def answer_here(answers: dict[str, Callable[[str], dict[str, Any]]]) -> None:
    """This process is the capped one: :func:`ask_capped` calls these functions."""
    _inside.update(answers)


def load_capped(found: Found, frames: Sequence[int] | None) -> npt.NDArray[Any]:
    """Decode a record in the worker of this process.

    Raises:
        ReadError: see :meth:`Worker.load`; ``too_large`` before anything is decoded.
    """
    size = math.prod(expected_shape(found, frames)) * np.dtype(found.dtype).itemsize
    if size > BYTE_CAP:
        what = f"the pixels take {size / 2**30:.1f} GiB, cap {BYTE_CAP / 2**30:.0f} GiB"
        raise ReadError("too_large", what, where=found.files[0])
    with _shared_worker() as worker:
        return worker.load(
            found,
            frames,
            limit_bytes=_BASE_BYTES + _COPIES * size,
            limit_s=_seconds(size / _BYTES_PER_S, found.options.get("library_bytes", 0)),
        )


def ask_capped(question: str, path: str, size: int = 0, library_bytes: int = 0) -> dict[str, Any]:
    """Answer of the worker of this process about a file of ``size`` bytes.

    ``library_bytes`` is address space that a large library takes, on top of the common cap.

    Raises:
        ReadError: see :meth:`Worker.ask`.
    """
    if _inside:
        return _inside[question](path)
    limit_s = _seconds(size / _SCAN_BYTES_PER_S, library_bytes)
    with _shared_worker() as worker:
        return worker.ask(question, path, library_bytes=library_bytes, limit_s=limit_s)


def _seconds(work_s: float, library_bytes: int) -> float:
    return _BASE_S + work_s + (_LIBRARY_S if library_bytes else 0.0)


@contextmanager
def _shared_worker() -> Iterator[Worker]:
    global _worker  # noqa: PLW0603 - one worker per process
    with _lock:
        if _worker is None or not _worker.alive():
            _worker = Worker()
            atexit.register(_worker.close)
        yield _worker


def _read_into(stream: Any, array: npt.NDArray[Any]) -> None:
    view = memoryview(array.reshape(-1).view(np.uint8).data)
    while view:
        n = stream.readinto(view)
        if not n:
            raise EOFError
        view = view[n:]
