"""From an exception to an exit code, one line on the terminal and a log without identifiers."""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import typer

from medssl.core.errors import InterruptedRunError, MedsslError, ResourceError, UsageError
from medssl.core.runlog import DISK_FULL_ERRNOS

LOG_NAME = "error.log"
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}


def exit_with(work: Callable[[], int], *, out: Path | None, debug: bool) -> NoReturn:
    """Do the work of a command and end the process; every error becomes an exit code."""
    try:
        code = work()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the border of the process
        write_log(error, out)
        if debug:
            traceback.print_exception(error)
        typer.echo(one_line(error), err=True)
        code = exit_code(error)
    raise typer.Exit(code)


def exit_code(error: BaseException) -> int:
    """The documented exit code of an error."""
    if isinstance(error, MedsslError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return InterruptedRunError.exit_code
    return ResourceError.exit_code if _out_of_resources(error) else 1


def one_line(error: BaseException) -> str:
    """What the terminal shows without ``--debug``."""
    if isinstance(error, MedsslError):
        return f"error: {error}"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, OSError) and error.errno in _NOT_ALLOWED:
        what, where = error.strerror, os.fsdecode(error.filename or "unknown")
        return f"error: {what}\n  where: {where}\n  fix: check who may read and write there"
    text = str(error).strip().split("\n")[0]
    kind = type(error).__name__
    if _out_of_resources(error):
        return f"error: out of memory or disk ({kind}: {text})"
    return f"error: {kind}: {text}\n  fix: run again with --debug for the traceback"


def write_log(error: BaseException, out: Path | None) -> None:
    """Write the stack to ``out/error.log``: types and places in code.

    Messages of foreign libraries may hold paths or names, so only our own are kept.
    """
    wrong_usage = isinstance(error, UsageError | KeyboardInterrupt)
    if wrong_usage or out is None or not out.is_dir():
        return  # the folder may be somebody else's
    blocks = []
    cause: BaseException | None = error
    while cause is not None:
        frames = traceback.extract_tb(cause.__traceback__)
        lines = [f"  {Path(f.filename).name}:{f.lineno} {f.name}" for f in frames]
        own = f": {cause.what}" if isinstance(cause, MedsslError) else ""
        blocks.append("\n".join([*lines, f"{type(cause).__name__}{own}"]))
        cause = cause.__cause__ or cause.__context__
    try:
        (out / LOG_NAME).write_text("\ncaused by:\n".join(blocks) + "\n", encoding="utf-8")
    except OSError:
        return  # a full disk: the terminal still has the line


def _out_of_resources(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in {*DISK_FULL_ERRNOS, errno.ENOMEM}
    # torch's errors by name and text: importing torch to compare types takes seconds.
    named = type(error).__name__ == "OutOfMemoryError"
    allocator = isinstance(error, RuntimeError) and "allocate memory" in str(error)
    return isinstance(error, MemoryError) or named or allocator
