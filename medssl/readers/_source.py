"""The one way to the bytes of a file, be it on disk or a member of a zip or tar archive."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def open_source(path: Path) -> BinaryIO:
    """Open for reading; seekable.

    Raises:
        OSError: as ``open`` does.
    """
    return path.open("rb")


def size_of(path: Path) -> int:
    """Bytes of the (unpacked) file."""
    return path.stat().st_size


@contextmanager
def local_file(path: Path) -> Iterator[Path]:
    """A real file with this content, for libraries that only take file names."""
    yield path
