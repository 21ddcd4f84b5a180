"""Part of an open file as a file of its own."""

from __future__ import annotations

import io
import os
from typing import Any, BinaryIO, cast


def window(file: Any, start: int, size: int) -> BinaryIO:
    """``size`` bytes of an open file (with a descriptor) from ``start`` on, as a file."""
    return cast(BinaryIO, io.BufferedReader(_Window(file, start, size)))


class _Window(io.RawIOBase):
    """Part of an open file with a position of its own, so that threads and forks do not meet."""

    # pydicom asks every buffered reader for one; a window has no path.
    name = ""

    def __init__(self, file: Any, start: int, size: int) -> None:
        self._file = file
        self._start = start
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        raise io.UnsupportedOperation("a window has no file descriptor of its own")

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("negative position")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: max(self._size - self._at, 0)]
        n = os.preadv(self._file.fileno(), [view], self._start + self._at) if len(view) else 0
        self._at += n
        return n
