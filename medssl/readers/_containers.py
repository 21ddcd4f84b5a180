"""What lies in a zip or tar archive, listed under caps; nothing is unpacked by name.

Every entry that is no folder becomes a :class:`Member`, with a reason if it must not be read: a
listing loses nothing. Archives inside archives are one level too deep: ``nested_archive``.
"""

from __future__ import annotations

import io
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import BinaryIO

from medssl.core.errors import ReadError

# Below the floor no ratio is suspicious: a label map of zeros shrinks 1000 to 1.
BOMB_FLOOR_BYTES = 100 * 2**20
BOMB_RATIO = 200
MAX_MEMBERS = 2_000_000
MAX_MEMBER_BYTES = 32 * 2**30
MAX_TOTAL_FLOOR_BYTES = 10 * 2**30
MAX_DIRECTORY_BYTES = 64 * 2**20
# Longest single read that listing a tar needs: an extended header.
_MAX_TAR_READ = 2**20

_ZIP_SUFFIXES = (".zip",)
_TAR_SUFFIXES = (".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz")
_FOREIGN_SUFFIXES = (".7z", ".rar", ".tar.zst", ".tzst", ".tar.lz", ".tar.lz4", ".tar.z")
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
_DRIVE = re.compile(r"^[A-Za-z]:")
_TAR_ERRORS = (tarfile.TarError, ValueError, LookupError, EOFError, OverflowError, RecursionError)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One entry of an archive.

    Attributes:
        name: relative, with forward slashes, without ``.`` and ``..``; unique in the archive.
        key: number in a zip's directory, or offset of the content in a tar.
        check: CRC of a zip member, 0 in a tar.
        refused: reason code why it is not read; empty = it may be.
    """

    name: str
    size: int
    key: int
    check: int = 0
    refused: str = ""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Members in archive order, and why the archive as such is refused (if it is)."""

    kind: str
    members: tuple[Member, ...] = ()
    refused: ReadError | None = None


def container_kind(name: str) -> str:
    """``zip``, ``tar``, ``other`` for archives that are not read, or empty; by name alone.

    >>> container_kind("case.tar.gz"), container_kind("brain.nii.gz"), container_kind("a.RAR")
    ('tar', '', 'other')
    """
    lower = name.lower()
    if lower.endswith(_ZIP_SUFFIXES):
        return "zip"
    if lower.endswith(_TAR_SUFFIXES):
        return "tar"
    return "other" if lower.endswith(_FOREIGN_SUFFIXES) else ""


def list_zip(file: BinaryIO, size: int) -> tuple[Listing, zipfile.ZipFile | None]:
    """Members of a zip from its directory, and the open archive."""
    if directory_bytes(file, size) > MAX_DIRECTORY_BYTES:
        return _refused("zip", "archive_bomb", "its directory is larger than the cap"), None
    try:
        opened = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, LookupError, EOFError, NotImplementedError) as error:
        what = f"the zip directory cannot be read ({type(error).__name__})"
        return _refused("zip", "corrupt_archive", what), None
    entries = [
        (n, one) for n, one in enumerate(opened.infolist()) if one.file_size or not one.is_dir()
    ]
    total = sum(one.file_size for _, one in entries)
    if total > max(MAX_TOTAL_FLOOR_BYTES, BOMB_RATIO * size):
        return _refused("zip", "archive_bomb", "its members inflate to more than the cap"), None
    shared = _overlapping([one for _, one in entries])
    members = [
        Member(
            name=one.orig_filename,
            size=one.file_size,
            key=number,
            check=one.CRC,
            refused="archive_bomb" if one.header_offset in shared else _zip_reason(one, size),
        )
        for number, one in entries
    ]
    return Listing(kind="zip", members=_named(members)), opened


def list_tar(file: BinaryIO, size: int) -> Listing:
    """Members of an uncompressed tar from its headers; a broken tail refuses the archive too."""
    members: list[Member] = []
    try:
        with tarfile.open(fileobj=_ShortReads(file), mode="r:") as opened:
            position = -1
            while (one := opened.next()) is not None:
                if opened.offset <= position or len(members) >= MAX_MEMBERS:
                    what = "its headers run in a circle or are more than the cap"
                    return _refused("tar", "archive_bomb", what)
                position = opened.offset
                # The module would keep all of them.
                opened.members = []  # type: ignore[attr-defined]
                if not one.isdir():
                    members.append(_tar_member(one, size))
            file.seek(opened.offset)
            whole = not any(file.read(tarfile.BLOCKSIZE))
    except _TAR_ERRORS as error:
        what = f"the tar headers cannot be read ({type(error).__name__})"
        return replace(_refused("tar", "corrupt_archive", what), members=_named(members))
    if whole:
        return Listing(kind="tar", members=_named(members))
    broken = _refused(
        "tar", "corrupt_archive", "a header in the middle is damaged: the rest is lost"
    )
    return replace(broken, members=_named(members))


def check_inflation(inflated: int, packed: int) -> None:
    """Stop an archive that grows like a bomb while it is being unpacked.

    Raises:
        ReadError: ``archive_bomb``.
    """
    if inflated > BOMB_FLOOR_BYTES and inflated > BOMB_RATIO * packed:
        fix = "unpack it by hand if you trust it, and index the folder"
        raise ReadError("archive_bomb", f"it inflates more than {BOMB_RATIO} to 1", fix=fix)


def directory_bytes(file: BinaryIO, size: int) -> int:
    """Bytes of a zip's central directory as its end record states; 0 if there is none."""
    start = max(size - 2**16 - 22, 0)
    file.seek(start)
    tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0:
        return 0
    stated = int.from_bytes(tail[end + 12 : end + 16], "little")
    if stated < 0xFFFFFFFF or tail[end - 20 : end - 16] != b"PK\x06\x07":
        return stated
    file.seek(min(int.from_bytes(tail[end - 12 : end - 4], "little"), size))
    record = file.read(56)
    return int.from_bytes(record[40:48], "little")


class _ShortReads(io.RawIOBase):
    """A file that refuses reads longer than any honest tar header asks for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_TAR_READ:
            raise ValueError("a header asks for too many bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def _refused(kind: str, reason: str, what: str) -> Listing:
    fix = "unpack it by hand if you trust it, and index the folder"
    return Listing(kind=kind, refused=ReadError(reason, what, fix=fix))


def _zip_reason(one: zipfile.ZipInfo, archive_bytes: int) -> str:
    checks: tuple[tuple[str, Callable[[], bool]], ...] = (
        ("encrypted", lambda: bool(one.flag_bits & 0x41)),
        ("link_member", lambda: stat.S_ISLNK(one.external_attr >> 16)),
        ("unsupported_compression", lambda: one.compress_type not in _METHODS),
        ("truncated", lambda: one.header_offset + one.compress_size > archive_bytes),
        ("archive_bomb", lambda: _is_bomb(one.file_size, one.compress_size)),
        ("nested_archive", lambda: bool(container_kind(one.filename))),
    )
    return next((reason for reason, applies in checks if applies()), "")


def _tar_member(one: tarfile.TarInfo, archive_bytes: int) -> Member:
    checks = (
        ("link_member", one.issym() or one.islnk()),
        ("special_member", not one.isreg() or one.issparse()),
        ("corrupt", one.size < 0),
        ("truncated", one.offset_data + one.size > archive_bytes),
        ("archive_bomb", _is_bomb(one.size, archive_bytes)),
        ("nested_archive", bool(container_kind(one.name))),
    )
    reason = next((reason for reason, applies in checks if applies), "")
    return Member(name=one.name, size=max(one.size, 0), key=one.offset_data, refused=reason)


def _is_bomb(inflated: int, packed: int) -> bool:
    large = inflated > BOMB_FLOOR_BYTES
    return inflated > MAX_MEMBER_BYTES or (large and inflated > BOMB_RATIO * max(packed, 1))


def _overlapping(entries: Iterable[zipfile.ZipInfo]) -> set[int]:
    """Header offsets of members that share bytes with another one: how small bombs grow big."""
    shared: set[int] = set()
    end, last = 0, -1
    for one in sorted(entries, key=lambda e: e.header_offset):
        if one.header_offset < end or one.header_offset == last:
            shared |= {one.header_offset, last}
        last = one.header_offset
        end = max(end, one.header_offset + 30 + one.compress_size)
    return shared


def _named(members: list[Member]) -> tuple[Member, ...]:
    """Safe, unique names. An unsafe name is replaced; of equal ones the last counts, as in tar."""
    last = {_plain(one.name): number for number, one in enumerate(members)}
    named = []
    for number, one in enumerate(members):
        plain = _plain(one.name)
        if not _is_safe(one.name):
            named.append(replace(one, name=f"#{number}", refused="unsafe_path"))
        elif last[plain] != number:
            named.append(replace(one, name=f"#{number}", refused="duplicate_member"))
        else:
            named.append(replace(one, name=plain))
    return tuple(named)


def _plain(name: str) -> str:
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in {"", "."})


def _is_safe(name: str) -> bool:
    slashed = name.replace("\\", "/")
    parts = slashed.split("/")
    if slashed.startswith("/") or ".." in parts or _DRIVE.match(slashed):
        return False
    # `#7` is what replaced names look like.
    return bool(_plain(name)) and not parts[0].startswith("#") and min(map(ord, name)) >= 32
