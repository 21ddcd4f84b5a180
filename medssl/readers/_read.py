"""``medssl.read`` and ``medssl.read_folder``: scans without a catalog."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from medssl.core.errors import NothingUsableError, ReadError, UsageError
from medssl.core.sample import Sample
from medssl.readers._base import FileHeader, Found, Refused
from medssl.readers._dispatch import group_headers, read_header, sample, walk
from medssl.readers._source import exists, members
from medssl.readers.labels import CONTOURS

_log = logging.getLogger("medssl")


def read(path: str | Path, frames: Sequence[int] | None = None) -> Sample:
    """One image, volume or clip from a file, or from a folder that holds exactly one.

    Args:
        path: a file, or the folder or zip or tar archive of a DICOM series; a file inside an
            archive is ``x.zip!/a/b.dcm``.
        frames: read only these frames of a clip; images and volumes have none.

    Raises:
        ReadError: the file is broken, or the folder holds several volumes (it names them).
        UsageError: the path does not exist, or ``frames`` does not apply.
        NothingUsableError: the folder holds none.
    """
    whole = sample(record(path))
    return whole if frames is None else whole.select(frames)


def record(path: str | Path) -> Found:
    """The one record that :func:`read` loads; labels beside an image are left out.

    Raises:
        ReadError, UsageError, NothingUsableError: as :func:`read`.
    """
    target = Path(path)
    if not exists(target):
        raise UsageError("the path does not exist", where=str(target))
    found, refused = found_in(target)
    found = [one for one in found if one.role == "image"] or found
    if len(found) > 1:
        names = "\n".join(f"    {_describe(one)}" for one in found)
        fix = "read one of them, or use medssl.read_folder"
        what = f"the folder holds {len(found)} images or volumes, read needs one"
        raise ReadError("several_volumes", what, where=f"{target}\n{names}", fix=fix)
    if found:
        return found[0]
    if refused:
        raise ReadError(refused[0].reason, refused[0].message, where=refused[0].files[0])
    raise NothingUsableError("no image or volume here", where=str(target))


def read_folder(path: str | Path) -> Iterator[Sample]:
    """Every readable image and volume below a folder, one at a time.

    What cannot be read is counted by reason in one warning of the logger ``medssl``.

    Raises:
        UsageError: ``path`` is not a folder.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UsageError("the path is not a folder", where=str(folder))
    found, refused = found_in(folder)
    contours = [one for one in found if CONTOURS in one.flags]
    refused += [Refused(files=o.files, reason="needs_image_grid", message="") for o in contours]
    if refused:
        reasons = Counter(one.reason for one in refused)
        counts = ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items()))
        _log.warning("%d items cannot be read: %s", len(refused), counts)
    yield from (sample(one) for one in found if CONTOURS not in one.flags)


def found_in(target: Path) -> tuple[list[Found], list[Refused]]:
    """Records of a file or below a folder, and what cannot be read."""
    headers: list[FileHeader] = []
    refused: list[Refused] = []
    for file in walk(target) if target.is_dir() else [target, *members(target)]:
        try:
            headers.append(read_header(file))
        except ReadError as error:
            refused.append(Refused(files=(str(file),), reason=error.reason, message=error.what))
    found, bad = group_headers(headers)
    return found, refused + bad


def _describe(found: Found) -> str:
    shape = "x".join(map(str, found.shape))
    return f"{found.files[0]} ({len(found.files)} files, {found.modality}, {shape})"
