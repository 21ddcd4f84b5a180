"""The one way to the bytes of a file, be it on disk or a member of a zip or tar archive.

A member has a virtual path: ``/archive/x.zip!/a/b.dcm``. It is never written under its own name:
small members are inflated in memory, large ones into files without a name (mode 0600) that vanish
with the process. Compressed tars are inflated once per process.
"""

from __future__ import annotations

import io
import lzma
import re
import tempfile
import threading
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from medssl.core.errors import ReadError
from medssl.readers._base import FileHeader
from medssl.readers._containers import Listing, Member, container_kind, list_tar, list_zip
from medssl.readers._inflate import UNPACK_ERRORS, inflate_tar
from medssl.readers._window import window

MARK = "!/"
# A member up to this size is inflated in memory, a larger one into a temporary file.
MEMORY_BYTES = 64 * 2**20
_CHUNK = 2**20
_OPEN_CONTAINERS = 4
_SAFE_SUFFIX = re.compile(r"(\.[A-Za-z0-9]{1,8}){0,2}$")
Stamp = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class _Container:
    stamp: Stamp
    listing: Listing
    by_name: dict[str, Member]
    content: BinaryIO
    """The archive itself, or the inflated tar."""
    opened: zipfile.ZipFile | None = None


_lock = threading.RLock()
_containers: OrderedDict[str, _Container] = OrderedDict()
_last_inflated: list[tuple[tuple[str, Stamp, str], bytes | BinaryIO]] = []


def open_source(path: Path) -> BinaryIO:
    """Open for reading; seekable.

    Raises:
        OSError: as ``open`` does.
        ReadError: a member that is refused, or whose data are damaged.
    """
    container = container_of(path)
    if container is None:
        return path.open("rb")
    member = _member(path, container)
    if member.refused:
        what = "the archive's member is not read"
        raise ReadError(member.refused, what, where=str(path))
    opened = _container(container)
    if opened.opened is None:
        return window(opened.content, member.key, member.size)
    content = _inflated(container, opened, member)
    return io.BytesIO(content) if isinstance(content, bytes) else window(content, 0, member.size)


def size_of(path: Path) -> int:
    """Bytes of the (unpacked) file.

    Raises:
        OSError: as ``stat`` does.
    """
    container = container_of(path)
    return path.stat().st_size if container is None else _member(path, container).size


def stamp_of(path: Path) -> Stamp:
    """Size, modification time in ns, inode: equal stamps mean an unchanged file.

    A member has its container's time, and instead of an inode a number that changes with the
    container and with the member's place and check sum.

    Raises:
        OSError: as ``stat`` does.
    """
    container = container_of(path)
    if container is None:
        return _disk_stamp(path)
    size, mtime_ns, inode = _disk_stamp(container)
    member = _member(path, container)
    mixed = f"{size} {inode} {member.key} {member.check}".encode()
    return member.size, mtime_ns, zlib.crc32(mixed)


def exists(path: Path) -> bool:
    """Whether this is a file, a folder, or a member of an archive."""
    container = container_of(path)
    if container is None:
        return path.exists()
    return _name_in(path, container) in _container(container).by_name


@contextmanager
def local_file(path: Path) -> Iterator[Path]:
    """A real file with this content, for libraries that only take file names.

    Raises:
        OSError, ReadError: as :func:`open_source`.
    """
    if container_of(path) is None:
        yield path
        return
    suffix = _SAFE_SUFFIX.search(path.name)
    with (
        open_source(path) as source,
        tempfile.NamedTemporaryFile(prefix="medssl-", suffix=suffix[0] if suffix else "") as copy,
    ):
        while chunk := source.read(_CHUNK):
            copy.write(chunk)
        copy.flush()
        yield Path(copy.name)


def is_container(path: Path) -> bool:
    """Whether a file is an archive by its name; nothing is opened."""
    return bool(container_kind(path.name))


def container_of(path: Path) -> Path | None:
    """The archive that a virtual path lies in; ``None`` for files on disk."""
    text = str(path)
    at = text.find(MARK)
    while at >= 0:
        prefix = Path(text[:at])
        if container_kind(prefix.name) and prefix.is_file():
            return prefix
        at = text.find(MARK, at + 1)
    return None


def members(container: Path) -> list[Path]:
    """Virtual paths of an archive's members, sorted; those of refused ones included.

    Empty for any other file, and if the archive itself cannot be read: :func:`container_header`
    then says why.
    """
    if not is_container(container):
        return []
    try:
        names = sorted(_container(container).by_name)
    except OSError:
        return []
    return [Path(f"{container}{MARK}{name}") for name in names]


def container_header(container: Path) -> FileHeader:
    """The archive itself is not imaging (``zip``, ``tar``), its members are files of their own.

    Raises:
        OSError: as ``open`` does.
        ReadError: ``corrupt_archive``, ``archive_bomb``, ``unsupported_archive``.
    """
    listing = _container(container).listing
    if listing.refused is not None:
        error = listing.refused
        raise ReadError(error.reason, error.what, where=str(container), fix=error.fix)
    return FileHeader(path=str(container), format="", tags={}, ignored=listing.kind)


def _member(path: Path, container: Path) -> Member:
    member = _container(container).by_name.get(_name_in(path, container))
    if member is None:
        raise FileNotFoundError(2, "no such member", str(path))
    return member


def _name_in(path: Path, container: Path) -> str:
    return str(path)[len(str(container)) + len(MARK) :]


def _container(path: Path) -> _Container:
    """The listing of an archive, kept while the file does not change."""
    stamp = _disk_stamp(path)
    with _lock:
        known = _containers.get(str(path))
        if known is None or known.stamp != stamp:
            known = _list(path, stamp)
            _containers[str(path)] = known
        _containers.move_to_end(str(path))
        while len(_containers) > _OPEN_CONTAINERS:
            _containers.popitem(last=False)  # its file closes with the last reader of it
        return known


def _list(path: Path, stamp: Stamp) -> _Container:
    size = stamp[0]
    content: BinaryIO = path.open("rb")
    kind, opened = container_kind(path.name), None
    if kind == "other":
        fix = "unpack it, or pack it as zip or tar"
        error = ReadError("unsupported_archive", "archives of this kind are not read", fix=fix)
        listing = Listing(kind=kind, refused=error)
    elif Path(f"{path}{MARK}").exists():
        error = ReadError("ambiguous_name", "a folder beside it is named like its content")
        listing = Listing(kind=kind, refused=error)
    elif kind == "zip":
        listing, opened = list_zip(window(content, 0, size), size)
    else:
        listing, content = _list_tar(content, size)
    by_name = {member.name: member for member in listing.members}
    return _Container(stamp=stamp, listing=listing, by_name=by_name, content=content, opened=opened)


def _list_tar(content: BinaryIO, size: int) -> tuple[Listing, BinaryIO]:
    try:
        content, size = inflate_tar(content, size)
    except ReadError as error:
        return Listing(kind="tar", refused=error), content
    except UNPACK_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk, not the stream
        what = f"the compressed tar does not unpack ({type(error).__name__})"
        return Listing(kind="tar", refused=ReadError("corrupt_archive", what)), content
    return list_tar(window(content, 0, size), size), content


def _inflated(path: Path, container: _Container, member: Member) -> bytes | BinaryIO:
    """Content of a zip member; the last one is kept, as header and voxels are read in turn."""
    key = (str(path), container.stamp, member.name)
    with _lock:
        for known, content in _last_inflated:
            if known == key:
                return content
        _last_inflated.clear()
        content = _unzipped(container, member, str(path))
        _last_inflated.append((key, content))
        return content


def _unzipped(container: _Container, member: Member, where: str) -> bytes | BinaryIO:
    assert container.opened is not None
    target: BinaryIO = io.BytesIO()
    if member.size > MEMORY_BYTES:
        target = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - kept by the caller
    try:
        with container.opened.open(container.opened.infolist()[member.key]) as source:
            while chunk := source.read(_CHUNK):
                target.write(chunk)
    except EOFError:
        raise ReadError("truncated", "the member ends early", where=where) from None
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, ValueError) as error:
        what = f"the member does not unpack ({type(error).__name__})"
        raise ReadError("corrupt", what, where=where) from None
    if target.tell() != member.size:
        raise ReadError("truncated", "the member is shorter than the archive says", where=where)
    target.flush()
    return target.getvalue() if isinstance(target, io.BytesIO) else target


def _disk_stamp(path: Path) -> Stamp:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
