"""The worker process of :mod:`medssl.archive._pool`: chunks of items in, their results out."""

from __future__ import annotations

import builtins
import gc
import importlib
import os
import pickle
import signal
import sys
import traceback
from typing import Any

from medssl.archive._pool import guarded, limit_items, read_frame, restart_clock, write_frame


def main() -> None:
    """Serve until the caller closes its end."""
    # A library that writes to standard output would break the protocol.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller ends us
    for module in sys.argv[1:]:
        importlib.import_module(module)
    # Results are trees that die together: looking for cycles in them is wasted time.
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    function: Any = None
    while True:
        try:
            code = read_frame(sys.stdin.buffer)
            items = read_frame(sys.stdin.buffer)
        except EOFError:
            return
        if code:
            function, limit_s = pickle.loads(code)  # noqa: S301 - from our own parent
            limit_items(limit_s)
        reply = _answer(function, pickle.loads(items))  # noqa: S301
        try:
            write_frame(replies, pickle.dumps(reply))
        except BrokenPipeError:
            return


def _answer(function: Any, items: list[Any]) -> tuple[list[Any], Exception | None]:
    results = []
    try:
        for item in items:
            restart_clock()
            results.append(guarded(function, item))
    except Exception as error:  # noqa: BLE001 - raised again by the caller
        known = type(error).__module__ == builtins.__name__
        return [], error if known else RuntimeError(traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return results, None


if __name__ == "__main__":
    main()
