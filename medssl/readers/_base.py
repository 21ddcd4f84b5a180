"""What every reader offers; :mod:`medssl.archive` and ``medssl.read`` know only this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy.typing as npt

from medssl.core.geometry import Geometry
from medssl.core.sample import UNKNOWN, Role


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What the user wants done where a header leaves a choice; the defaults invent nothing."""

    gaps: Literal["quarantine", "split", "resample"] = "quarantine"
    """Missing slices: refuse, cut into even stacks, or interpolate between the neighbours."""
    tilt: Literal["shear", "resample"] = "shear"
    """Tilted gantry: keep the sheared affine, or resample to right angles on loading."""
    folders: Literal["images", "clips"] = "images"
    """Numbered pictures of one size in a folder: single images, or the frames of one clip."""
    video: Literal["pyav", "decord", "torchcodec"] = "pyav"
    """Library that decodes videos; where it is known to be wrong, pyav does and a flag says so."""


DEFAULT_POLICY = Policy()


@dataclass(frozen=True, kw_only=True)
class FileHeader:
    """Header of one file, JSON-able: kept (0600) so that an unchanged file is never reopened."""

    path: str
    format: str
    """The reader that groups and loads it; not always the one that read the header."""
    tags: dict[str, Any]
    ignored: str = ""
    """Kind of content that is not imaging (``pdf``, ``dicom_sr``); never grouped, only counted."""
    key: str = ""
    """Files of one format are grouped only with files of the same key; empty = alone."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """One readable image, volume or clip: files in reading order and what their headers say.

    ``patient``, ``study``, ``series``, ``references``, ``objects`` and the values of ``labels``
    are raw: they never leave the archive room except as salted hashes or from a fixed list.
    """

    files: tuple[str, ...]
    format: str
    shape: tuple[int, ...]
    dtype: str
    geometry: Geometry
    part: str = ""
    """Which record of its files this is: splitting tags and values, e.g.
    ``EchoTime=4.92;ImageType=PHASE``. Unique among records that share a series or a file.
    Numbers and code words only, nothing that names a person."""
    modality: str = UNKNOWN
    units: str = ""
    """``HU``, ``BQML``, ... where the header says so; empty = arbitrary."""
    role: Role = "image"
    patient: str = ""
    study: str = ""
    series: str = ""
    series_number: int | None = None
    references: tuple[str, ...] = ()
    """Series that a label belongs to."""
    objects: str = ""
    """What tells a copy of the same scan: the SOP instance UIDs (and part), joined and hashed."""
    labels: dict[str, str] = field(default_factory=dict)
    """Free labels by name, see :data:`FREE_LABELS`; absent = unknown."""
    flags: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    """JSON-able; with ``files``, ``shape``, ``dtype`` and ``geometry`` all that ``load`` needs."""


# Raw values; archive.build hashes `site` and shifts `date` (YYYYMMDD) per patient.
FREE_LABELS = (
    "body_part",
    "view",
    "laterality",
    "vendor",
    "sequence",
    "contrast",
    "site",
    "date",
)


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
        """Read the header only. Files are opened by :func:`medssl.readers._source.open_source`.

        Raises:
            ReadError: if the file is broken.
        """

    def group(
        self, headers: list[FileHeader], policy: Policy = DEFAULT_POLICY
    ) -> tuple[list[Found], list[Refused]]:
        """Assemble headers of one format into records; every file ends in one of the two."""

    def load(self, found: Found, frames: Sequence[int] | None = None) -> npt.NDArray[Any]:
        """The voxels, channel first, rescaled to physical units where the header says so.

        Args:
            found: what :meth:`group` gave.
            frames: frame numbers of a clip, in any order; ``None`` = everything. Images and
                volumes are never asked for frames.

        Raises:
            ReadError: if the pixels cannot be decoded.
        """

    def trusted(self, found: Found) -> bool:
        """Whether :meth:`load` runs no foreign decoder, so that it may run in this process."""
