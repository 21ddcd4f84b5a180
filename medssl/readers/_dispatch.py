"""From a path to the reader that knows its format; the one way in for archive and ``read``."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError, own_mistakes
from medssl.core.registry import READERS
from medssl.core.sample import Sample
from medssl.readers._base import DEFAULT_POLICY, FileHeader, Found, Policy, Refused
from medssl.readers._ignored import ignored_kind, is_hidden_archive
from medssl.readers._load import load_here, reader
from medssl.readers._sandbox import load_capped
from medssl.readers._source import (
    container_header,
    container_of,
    is_container,
    members,
    open_source,
)

HEAD_BYTES = 4096
_NAMELESS = Path("nameless")


class Entry(NamedTuple):
    """One file as the folder lists it: enough to know later that it did not change."""

    path: str
    size: int
    mtime_ns: int
    inode: int


def walk(folder: Path, skip: Path | None = None) -> Iterator[Path]:
    """Every file below a folder but not below ``skip``; linked folders once, loops never.

    After a zip or tar archive come its members, as virtual paths. A folder that may not be listed
    is yielded itself: reading it then fails by name.
    """
    for entry in walk_entries(folder, skip):
        path = Path(entry.path)
        yield path
        if is_container(path):
            yield from members(path)


def walk_entries(folder: Path, skip: Path | None = None) -> Iterator[Entry]:
    """:func:`walk` on the disk alone, with what tells a changed file; opens nothing.

    (-1, -1, 0) stands where the disk does not say.
    """
    seen: set[tuple[int, int]] = set()
    if skip is not None and skip.is_dir():
        status = skip.stat()
        seen.add((status.st_dev, status.st_ino))
    unlistable: list[str] = []
    pending = [str(folder)]
    while pending:
        base = pending.pop()
        try:
            status = Path(base).stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(base) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError:
            unlistable.append(base)
            continue
        folders = []
        for entry in entries:
            if _is_folder(entry):
                folders.append(entry.path)
            else:
                yield _entry(entry)
        pending += reversed(folders)
    for base in sorted(unlistable):
        yield Entry(base, -1, -1, 0)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _entry(entry: os.DirEntry[str]) -> Entry:
    try:
        status = entry.stat()
    except OSError:  # a broken link, or a file that may not be looked at
        return Entry(entry.path, -1, -1, 0)
    return Entry(entry.path, status.st_size, status.st_mtime_ns, status.st_ino)


def read_header(path: Path) -> FileHeader:
    """Header of one file; what is not imaging comes back with ``ignored`` set.

    Raises:
        ReadError: ``unreadable`` if it cannot be opened, else the reader's own reason.
    """
    with own_mistakes("reading its header", str(path)):
        return _header(path)


def _header(path: Path) -> FileHeader:
    try:
        if container_of(path) is None and not path.is_file() and not path.is_dir():
            if path.is_symlink() and any(reader(n).matches(path, b"") for n in READERS.names()):
                raise ReadError("unreadable", "a link to a scan leads nowhere", where=str(path))
            if not path.is_symlink():
                path.stat()  # raises if it vanished since it was listed
            kind = "broken_link" if path.is_symlink() else "special_file"
            return FileHeader(path=str(path), format="", tags={}, ignored=kind)
        with open_source(path) as file:
            head = file.read(HEAD_BYTES)
        if is_container(path) and container_of(path) is None:
            return _container_header(path, head)
        # The content counts before the name: a scan may be called anything.
        for shown in (_NAMELESS, path):
            for name in READERS.names():
                if reader(name).matches(shown, head):
                    return reader(name).header(path)
    except OSError as error:
        what = f"the file cannot be opened ({error.strerror or type(error).__name__})"
        raise ReadError("unreadable", what, where=str(path), fix="check its permissions") from None
    if is_hidden_archive(path, head):
        fix = "unpack it, or name it .zip or .tar"
        what = "an archive whose name does not say so"
        raise ReadError("unsupported_archive", what, where=str(path), fix=fix)
    return FileHeader(path=str(path), format="", tags={}, ignored=ignored_kind(path, head))


def _container_header(path: Path, head: bytes) -> FileHeader:
    """An archive's own outcome; its members have theirs."""
    claims = [name for name in READERS.names() if reader(name).matches(path, head)]
    try:
        header = container_header(path)
    except ReadError:
        if members(path) or not claims:
            raise
        return reader(claims[0]).header(path)  # a scan under a wrong name
    if claims:
        what = "the file is an archive and an image at once; its members are read"
        raise ReadError("polyglot", what, where=str(path))
    return header


def group_headers(
    headers: Iterable[FileHeader], policy: Policy = DEFAULT_POLICY
) -> tuple[list[Found], list[Refused]]:
    """Assemble headers of any formats into records, in the order of their first file."""
    groups: dict[tuple[str, str], list[FileHeader]] = defaultdict(list)
    for header in headers:
        if not header.ignored:
            groups[header.format, header.key or header.path].append(header)
    found: list[Found] = []
    refused: list[Refused] = []
    for (name, _), together in groups.items():
        try:
            with own_mistakes("assembling it"):
                good, bad = reader(name).group(together, policy)
        except ReadError as error:
            paths = tuple(header.path for header in together)
            good, bad = [], [Refused(files=paths, reason=error.reason, message=error.what)]
        found += good
        refused += bad
    return sorted(found, key=lambda f: min(f.files)), sorted(refused, key=lambda r: min(r.files))


def load(found: Found, frames: Sequence[int] | None = None) -> npt.NDArray[Any]:
    """The voxels of a record, channel first; foreign decoders run in a capped process.

    Args:
        found: the record.
        frames: frame numbers of a clip; ``None`` = everything.

    Raises:
        ReadError: if they cannot be decoded, or no longer have the shape of the header;
            ``decoder_crash``, ``decoder_timeout``, ``decoder_memory`` from the capped process.
    """
    if not reader(found.format).trusted(found):
        return load_capped(found, frames)
    with own_mistakes("decoding", found.files[0]):
        return load_here(found, frames)


def sample(found: Found) -> Sample:
    """A sample that loads on first access."""
    first = Path(found.files[0])
    return Sample(
        load=partial(load, found),
        geometry=found.geometry,
        shape=found.shape,
        itemsize=np.dtype(found.dtype).itemsize,
        modality=found.modality,
        name=first.name if len(found.files) == 1 else first.parent.name,
    )
