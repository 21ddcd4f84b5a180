"""Values of text headers (NRRD, MetaImage), read strictly."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from medssl.core.errors import ReadError
from medssl.readers._source import exists, open_source

_MAX_DIGITS = 18
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_DATA_NAME = re.compile(r"\.z?raw(\.gz|\.bz2)?$", re.IGNORECASE)
_Value = TypeVar("_Value")


def start_of(path: Path, n_bytes: int) -> bytes:
    """The first bytes of a file.

    Raises:
        ReadError: ``empty_file``.
    """
    with open_source(path) as file:
        start = file.read(n_bytes)
    if not start:
        raise ReadError("empty_file", "the file has zero bytes", where=str(path))
    return start


def plain_lines(text: bytes) -> list[str] | None:
    """The lines of a header; ``None`` if it holds control characters: no writer puts them there."""
    if _CONTROL.search(text):
        return None
    return [line.rstrip("\r") for line in text.decode("utf-8", "replace").split("\n")]


def numbers(text: str, count: int) -> list[float] | None:
    """``count`` finite numbers between white space, else ``None``."""
    try:
        found = [float(one) for one in text.split()]
    except ValueError:
        return None
    return (
        found if text.isascii() and len(found) == count and all(map(math.isfinite, found)) else None
    )


def whole_numbers(
    text: str, count: int, where: str, error: Callable[[str, str], ReadError]
) -> list[int]:
    """``count`` whole numbers between white space.

    Raises:
        ReadError: as ``error`` makes it.
    """
    words = text.split() if text.isascii() else []
    if len(words) != count or not all(re.fullmatch(r"[+-]?\d+", one, re.ASCII) for one in words):
        raise error(f"{count} whole numbers are needed", where)
    if any(len(one) > _MAX_DIGITS for one in words):
        raise error("a number is too long", where)
    return [int(one) for one in words]


def one_of(text: str, values: Mapping[str, _Value]) -> _Value | None:
    """The value of a word, whatever its case."""
    return values.get(text.strip().lower())


def header_of_data(path: Path, ending: str) -> Path | None:
    """The header file that a detached data file belongs to by its name: ``x.raw`` to ``x.mhd``."""
    named = _DATA_NAME.search(path.name)
    if named is None:
        return None
    header = path.with_name(path.name[: named.start()] + ending)
    return header if exists(header) else None


def files_of(header: Path, data: Path, ending: str) -> tuple[str, ...]:
    """The files of a record: a data file counts if its name leads to its header."""
    if data == header or header_of_data(data, ending) != header:
        return (str(header),)
    return str(header), str(data)


def beside(header: Path, name: str) -> Path:
    """The data file that a header names, which must lie in its folder.

    Raises:
        ReadError: ``unsafe_path``, ``missing_file``.
    """
    where = str(header)
    if name != name.strip() or re.search(r"[/\\\0]", name.removeprefix("./")) or ":" in name:
        what = "the header names a data file outside its own folder"
        raise ReadError("unsafe_path", what, where=where)
    plain = name.removeprefix("./")
    if plain in {"", ".", ".."}:
        raise ReadError("unsafe_path", "the header names no data file", where=where)
    data = header.parent / plain
    if not exists(data) or data == header:
        raise ReadError("missing_file", "the data file of the header is missing", where=where)
    return data
