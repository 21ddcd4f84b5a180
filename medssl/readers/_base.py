"""What every reader offers; :mod:`medssl.archive` and ``medssl.read`` know only this."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from medssl.core.geometry import Geometry
from medssl.core.sample import UNKNOWN


@dataclass(frozen=True, kw_only=True)
class FileHeader:
    """Header of one file, JSON-able: kept (0600) so that an unchanged file is never reopened."""

    path: str
    format: str
    tags: dict[str, Any]
    ignored: str = ""
    """Kind of content that is not imaging (``pdf``, ``dicom_sr``); never grouped, only counted."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """One readable image, volume or clip: files in reading order and what their headers say.

    ``patient``, ``study`` and ``series`` are raw identifiers: they never leave the archive room
    except as salted hashes.
    """

    files: tuple[str, ...]
    format: str
    shape: tuple[int, ...]
    dtype: str
    geometry: Geometry
    modality: str = UNKNOWN
    patient: str = ""
    study: str = ""
    series: str = ""
    series_number: int | None = None
    flags: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    """What :meth:`Reader.load` needs beyond the files (time point, key of a split series)."""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """Files that hold imaging but cannot be used, with a stable reason code.

    ``message`` holds no path and no identifier.
    """

    files: tuple[str, ...]
    reason: str
    message: str


class Reader(Protocol):
    """A module in :mod:`medssl.readers` with these functions is a reader."""

    def matches(self, path: Path, head: bytes) -> bool:
        """Whether the file is of this format, from its name and first 4 KiB."""

    def header(self, path: Path) -> FileHeader:
        """Read the header only.

        Raises:
            ReadError: if the file is broken.
        """

    def group(self, headers: list[FileHeader]) -> tuple[list[Found], list[Refused]]:
        """Assemble headers of one format into records; every file ends in one of the two."""

    def load(self, found: Found) -> npt.NDArray[Any]:
        """The voxels, channel first, rescaled to physical units where the header says so.

        Raises:
            ReadError: if the pixels cannot be decoded.
        """
