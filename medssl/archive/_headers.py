"""Headers of many files: read in chunks by worker processes, kept in a private journal.

A chunk of files becomes one block: their paths, stamps and headers as compressed JSON. Blocks are
appended to the journal as they come, so that an indexing that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import secrets
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from isal import isal_zlib

from medssl import __version__
from medssl.archive import datasets
from medssl.archive._pool import restart_clock
from medssl.core.errors import ReadError
from medssl.core.runlog import disk_error
from medssl.readers._base import FileHeader
from medssl.readers._dispatch import Entry, read_header

# A file may take this long, plus what a video of its size needs to be scanned.
HEADER_LIMIT_S = 30.0
_SCAN_BYTES_PER_S = 4 * 2**20
_FRAME = struct.Struct("<4sII")
_MAGIC = b"MSH1"
_TOKEN_BYTES = 16
# Blocks that a process keeps unpacked while it assembles series.
_BLOCKS_IN_MEMORY = 6
_LEVEL = 1


class Row(NamedTuple):
    """One file of a block."""

    path: str
    size: int
    mtime_ns: int
    inode: int
    content: dict[str, Any]
    """``header`` (and ``hint`` of a data set), or ``refused``: reason and message."""

    @property
    def outcome(self) -> str:
        """``ignored:<kind>`` or ``refused:<reason>``; empty = grouping decides."""
        if "refused" in self.content:
            return f"refused:{self.content['refused'][0]}"
        kind = self.content["header"]["ignored"]
        return f"ignored:{kind}" if kind else ""

    @property
    def group(self) -> int:
        """Equal for files that are grouped together; 0 = not grouped."""
        if self.outcome:
            return 0
        header = self.content["header"]
        text = f"{header['format']}\0{header['key'] or self.path}"
        digest = blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest, "little") or 1

    def header(self) -> FileHeader:
        """As the reader gave it."""
        return FileHeader(path=self.path, **self.content["header"])


@dataclass(frozen=True)
class Block:
    """Headers of a chunk of files: what the index needs at once, and all of it packed."""

    outcomes: list[str]
    groups: list[int]
    packed: bytes


def read_block(entries: Sequence[Entry]) -> Block:
    """Runs in a worker: read the headers of a chunk of files, broken or not."""
    rows = []
    for entry in entries:
        restart_clock(HEADER_LIMIT_S + max(entry.size, 0) / _SCAN_BYTES_PER_S)
        rows.append(Row(*entry, _content(Path(entry.path))))
    return block_of(rows)


def block_of(rows: list[Row]) -> Block:
    """Pack rows."""
    packed = isal_zlib.compress(json.dumps(rows).encode(), _LEVEL)
    return Block([row.outcome for row in rows], [row.group for row in rows], packed)


def refused_row(entry: Entry, reason: str, message: str) -> Row:
    """A file that could not be looked at."""
    return Row(*entry, {"refused": [reason, message]})


class Journal:
    """The append-only file of blocks, readable by its owner only.

    It starts with a random token, so that places in another journal of this name are not believed.
    Blocks of another version of medssl, which may read headers differently, do not count.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def token(self) -> str:
        """Name of this journal's content; empty if there is none."""
        if self.size < _TOKEN_BYTES:
            return ""
        with self.path.open("rb") as file:
            return file.read(_TOKEN_BYTES).hex()

    def append(self, block: Block) -> int:
        """Add a block; returns its place.

        Raises:
            ResourceError: the disk is full.
        """
        frame = _FRAME.pack(_MAGIC, len(block.packed), _check(block.packed))
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(handle, "ab") as file:
                if file.seek(0, os.SEEK_END) == 0:
                    file.write(secrets.token_bytes(_TOKEN_BYTES))
                at = file.tell()
                file.write(frame + block.packed)
        except OSError as error:
            raise disk_error(error) from error
        return at

    def recover(self, start: int) -> Iterator[tuple[int, list[Row]]]:
        """Blocks from ``start`` on with their places; what a kill left half written is cut off."""
        if not self.path.exists():
            return
        at = max(start, _TOKEN_BYTES)
        while (packed := _packed(self.path, at)) is not None:
            yield at, _unpacked(packed)
            at += _FRAME.size + len(packed)
        if at <= _TOKEN_BYTES:
            self.path.unlink()
        else:
            os.truncate(self.path, at)

    def bytes_of(self, at: int) -> int:
        """Bytes that a block takes."""
        with self.path.open("rb") as file:
            file.seek(at)
            _, length, _ = _FRAME.unpack(file.read(_FRAME.size))
        return _FRAME.size + int(length)

    def copy_block(self, other: Journal, at: int) -> int:
        """Append a block of another journal as it is; returns its place here."""
        packed = _packed(other.path, at)
        if packed is None:
            raise _damaged()
        return self.append(Block([], [], packed))


@lru_cache(_BLOCKS_IN_MEMORY)
def read_rows(journal: str, at: int) -> list[Row]:
    """The files of a block.

    Raises:
        ReadError: ``changed`` if the journal was damaged.
    """
    packed = _packed(Path(journal), at)
    if packed is None:
        raise _damaged()
    return _unpacked(packed)


def _damaged() -> ReadError:
    fix = "delete headers.bin and headers.parquet in the catalog and index again"
    return ReadError("changed", "the catalog's header journal is damaged", fix=fix)


def _check(packed: bytes) -> int:
    return zlib.crc32(packed, zlib.crc32(__version__.encode()))


def _unpacked(packed: bytes) -> list[Row]:
    return [Row(*row) for row in json.loads(isal_zlib.decompress(packed))]


def _packed(journal: Path, at: int) -> bytes | None:
    with journal.open("rb") as file:
        file.seek(at)
        frame = file.read(_FRAME.size)
        if len(frame) < _FRAME.size:
            return None
        magic, length, check = _FRAME.unpack(frame)
        packed = file.read(length) if magic == _MAGIC else b""
    return packed if len(packed) == length and _check(packed) == check else None


def _content(path: Path) -> dict[str, Any]:
    try:
        header = read_header(path)
    except ReadError as error:
        return {"refused": [error.reason, error.what]}
    fields = {
        "format": header.format,
        "tags": header.tags,
        "ignored": header.ignored,
        "key": header.key,
    }
    if path.name != datasets.FILE_NAME:
        return {"header": fields}
    try:
        hint = datasets.read_hint(path)
    except ReadError as error:
        return {"header": fields, "bad_hint": [error.reason, error.what]}
    labels = sorted(map(str, hint.labels))
    return {"header": fields, "hint": {"modality": hint.modality, "labels": labels}}
