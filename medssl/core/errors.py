"""One error family: every message says what, where and how to fix it.

``what`` and ``fix`` are written to ledgers and logs, so they never hold a path or a patient
identifier. ``where`` may hold a path: it is shown on the terminal only.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

_PACKAGE = Path(__file__).resolve().parents[1]


class MedsslError(Exception):
    """Base of all errors that a user can act on; the CLI turns it into ``exit_code``."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what, where, fix)
        self.what = what
        self.where = where
        self.fix = fix

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders; the default reduce drops keyword arguments.
        return (_rebuild, (type(self), self.__dict__.copy()))

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


def _rebuild(cls: type[MedsslError], state: dict[str, object]) -> MedsslError:
    error = cls.__new__(cls)
    Exception.__init__(error, state["what"], state["where"], state["fix"])
    error.__dict__.update(state)
    return error


class UsageError(MedsslError):
    """Wrong call: a missing or contradictory argument, an output folder in use."""

    exit_code = 2


class ConfigError(UsageError):
    """A config key or value that the schema refuses."""


class NothingUsableError(MedsslError):
    """The input holds nothing the stage can work on."""

    exit_code = 3


class BudgetExceededError(MedsslError):
    """More items failed than ``failure_budget`` allows."""

    exit_code = 5


class ResourceError(MedsslError):
    """Out of memory or disk; what was finished before stays valid."""

    exit_code = 6


class InterruptedRunError(MedsslError):
    """SIGINT or SIGTERM arrived; a checkpoint was written."""

    exit_code = 130


class ReadError(MedsslError):
    """A file or record that cannot be used. ``reason`` is a stable code for the ledger."""

    def __init__(self, reason: str, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what, where=where, fix=fix)
        self.reason = reason


@contextmanager
def own_mistakes(doing: str, where: str = "") -> Iterator[None]:
    """A mistake of ours costs one item of an archive, not the run, and is never blamed on the file.

    Raises:
        ReadError: ``internal_error``, which names the place in our code. The text of the error
            stays out: it may repeat a header.
    """
    try:
        yield
    except (MedsslError, OSError, MemoryError):
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [one for one in frames if Path(one.filename).is_relative_to(_PACKAGE)]
        place = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
        what = f"{doing} raised {type(error).__name__} at {place}"
        raise ReadError("internal_error", what, where=where, fix="report this message") from error
