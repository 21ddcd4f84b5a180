"""A folder without a catalog: read every header here and now; every file ends in one outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from medssl.core.errors import ReadError, UsageError
from medssl.readers._base import DEFAULT_POLICY, FileHeader, Found, Policy, Refused
from medssl.readers._dispatch import group_headers, read_header, walk

_REPORT_EVERY = 500
Progress = Callable[[int, int], None]


@dataclass
class Scan:
    """What a folder holds.

    Attributes:
        found: readable images, volumes and clips.
        refused: imaging that cannot be used, with a reason.
        ignored: number of files that are not imaging, by kind.
    """

    root: Path
    found: list[Found] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)


def scan_folder(
    folder: Path, *, policy: Policy = DEFAULT_POLICY, progress: Progress | None = None
) -> Scan:
    """Headers of everything below a folder, for the few files of a prediction.

    Archives are indexed by :func:`medssl.archive.indexing.update_catalog` instead.

    Args:
        folder: where to look.
        policy: see :class:`~medssl.readers._base.Policy`.
        progress: called with (files done, files in all).

    Raises:
        UsageError: ``folder`` is no folder.
    """
    if not folder.is_dir():
        raise UsageError("the archive is not a folder", where=str(folder))
    scan = Scan(root=folder.absolute())
    headers: list[FileHeader] = []
    paths = list(walk(scan.root))
    for done, path in enumerate(paths, start=1):
        try:
            headers.append(read_header(path))
        except ReadError as error:
            refused = Refused(files=(str(path),), reason=error.reason, message=error.what)
            scan.refused.append(refused)
        if progress and (done % _REPORT_EVERY == 0 or done == len(paths)):
            progress(done, len(paths))
    scan.ignored.update(header.ignored for header in headers if header.ignored)
    scan.found, bad = group_headers(headers, policy)
    scan.refused += bad
    return scan
