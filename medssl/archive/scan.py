"""Walk a folder, read headers in parallel, assemble records; every file ends in one outcome."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medssl.archive._pool import map_items
from medssl.core.errors import ReadError, UsageError
from medssl.readers._base import FileHeader, Found, Refused
from medssl.readers._dispatch import group_headers, read_header, walk

CHUNK_FILES = 500
# Reasons that may pass without the file changing (a permission, a network share).
_TRANSIENT = {"unreadable", "decoder_crash"}
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class FileState:
    """One file as it was seen: enough to know that it did not change, and what it held."""

    path: str
    size: int
    mtime_ns: int
    inode: int
    header_json: str
    outcome: str = ""

    @property
    def stamp(self) -> tuple[int, int, int]:
        return self.size, self.mtime_ns, self.inode


@dataclass
class Scan:
    """What a folder holds.

    Attributes:
        found: readable images and volumes.
        refused: imaging that cannot be used, with a reason.
        ignored: number of files that are not imaging, by kind.
        files: every file with its outcome: ``record``, ``refused:<reason>`` or ``ignored:<kind>``.
        opened: how many files had to be opened (the others were known and unchanged).
    """

    root: Path
    found: list[Found] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    files: list[FileState] = field(default_factory=list)
    opened: int = 0


def scan_folder(
    folder: Path,
    *,
    workers: int = 0,
    cache: Mapping[str, FileState] | None = None,
    skip: Path | None = None,
    progress: Progress | None = None,
) -> Scan:
    """Headers of everything below a folder.

    Args:
        folder: the archive.
        workers: processes that read headers; 0 = this process.
        cache: states of an earlier scan by path; unchanged files are not opened.
        skip: a folder inside the archive that is none of it (the catalog).
        progress: called with (files done, files in all).

    Raises:
        UsageError: ``folder`` is no folder.
    """
    if not folder.is_dir():
        raise UsageError("the archive is not a folder", where=str(folder))
    known, fresh = _by_cache(walk(folder.absolute(), skip), cache or {})
    total = len(known) + len(fresh)
    states = {state.path: state for state in known}
    pairs = map_items(_read_state, fresh, workers=workers, chunk=CHUNK_FILES)
    for done, (path, outcome) in enumerate(pairs, start=len(known) + 1):
        if isinstance(outcome, FileState):
            states[path] = outcome
        else:
            states[path] = _state(path, _refusal_json("decoder_crash", outcome.what))
        if progress and (done % CHUNK_FILES == 0 or done == total):
            progress(done, total)
    return _assemble(folder.absolute(), states, opened=len(fresh))


def header_of(state: FileState) -> FileHeader:
    """The cached header of a file."""
    return FileHeader(path=state.path, **json.loads(state.header_json)["header"])


def _assemble(root: Path, states: Mapping[str, FileState], *, opened: int) -> Scan:
    scan = Scan(root=root, opened=opened)
    outcomes: dict[str, str] = {}
    headers: list[FileHeader] = []
    for path in sorted(states):
        content: dict[str, Any] = json.loads(states[path].header_json)
        if "refused" in content:
            reason, message = content["refused"]
            scan.refused.append(Refused(files=(path,), reason=reason, message=message))
            continue
        header = FileHeader(path=path, **content["header"])
        if header.ignored:
            scan.ignored[header.ignored] += 1
            outcomes[path] = f"ignored:{header.ignored}"
        else:
            headers.append(header)
    scan.found, refused = group_headers(headers)
    scan.refused += refused
    outcomes.update({path: "record" for one in scan.found for path in one.files})
    outcomes.update({p: f"refused:{one.reason}" for one in scan.refused for p in one.files})
    for path in sorted(states):
        scan.files.append(FileState(**{**states[path].__dict__, "outcome": outcomes[path]}))
    return scan


def _by_cache(paths: Any, cache: Mapping[str, FileState]) -> tuple[list[FileState], Sequence[str]]:
    known: list[FileState] = []
    fresh: list[str] = []
    for path in paths:
        old = cache.get(str(path))
        if old is not None and old.stamp == _stamp(path) and not _is_transient(old):
            known.append(old)
        else:
            fresh.append(str(path))
    return known, fresh


def _is_transient(state: FileState) -> bool:
    return state.outcome.removeprefix("refused:") in _TRANSIENT


def _read_state(path: str) -> FileState:
    """Runs in a worker: the state of one file, broken or not."""
    try:
        header = read_header(Path(path))
    except ReadError as error:
        return _state(path, _refusal_json(error.reason, error.what))
    content = {
        "format": header.format,
        "tags": header.tags,
        "ignored": header.ignored,
        "key": header.key,
    }
    return _state(path, json.dumps({"header": content}))


def _state(path: str, header_json: str) -> FileState:
    size, mtime_ns, inode = _stamp(Path(path))
    return FileState(path=path, size=size, mtime_ns=mtime_ns, inode=inode, header_json=header_json)


def _refusal_json(reason: str, message: str) -> str:
    return json.dumps({"refused": [reason, message]})


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return -1, -1, 0  # a broken link or a file that may not be looked at
    return status.st_size, status.st_mtime_ns, status.st_ino
