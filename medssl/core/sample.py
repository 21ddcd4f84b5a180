"""Record (a row of the catalog) and Sample (its array in memory)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ResourceError
from medssl.core.geometry import Geometry, Kind

Role = Literal["image", "label", "derived"]
Split = Literal["train", "val", "test"]
UNKNOWN = "unknown"
BYTE_CAP = 8 * 2**30


@dataclass(frozen=True, kw_only=True)
class Record:
    """One readable image, volume or clip of the catalog. Holds ids and hashes, never a path.

    Attributes:
        record_id: salted hash of the record's files and key.
        shape: array shape, channel first: (C, D, H, W) for volumes.
        spacing_mm: (D, H, W) or (H, W); ``None`` = the file does not say.
        affine: 16 values, row major, voxel (W, H, D) -> RAS+ mm; ``None`` = unknown.
        flags: quality remarks, stable codes such as ``sform_qform_differ``.
        fingerprint: hash of size and modification time of the files: changes when they change.
    """

    record_id: str
    kind: Kind
    role: Role
    format: str
    modality: str = UNKNOWN
    patient_id: str
    study_id: str
    series_id: str
    shape: tuple[int, ...]
    dtype: str
    spacing_mm: tuple[float, ...] | None = None
    affine: tuple[float, ...] | None = None
    split: Split = "train"
    n_files: int = 1
    size_bytes: int = 0
    flags: tuple[str, ...] = ()
    fingerprint: str = ""
    pixel_hash: str | None = None


@dataclass(eq=False)
class Sample:
    """The array of one record, loaded on first access, with its geometry.

    Args:
        load: returns the array, channel first.
        shape: the array's shape as the header states it.
        itemsize: bytes per element, to refuse before allocating.
    """

    load: Callable[[], npt.NDArray[Any]]
    geometry: Geometry
    shape: tuple[int, ...]
    itemsize: int = 4
    modality: str = UNKNOWN
    name: str = ""
    byte_cap: int = BYTE_CAP
    _array: npt.NDArray[Any] | None = field(default=None, repr=False)

    @property
    def array(self) -> npt.NDArray[Any]:
        """The voxels, channel first.

        Raises:
            ResourceError: if they would take more than ``byte_cap`` bytes.
            ReadError: if the pixels cannot be decoded.
        """
        if self._array is None:
            size = math.prod(self.shape) * self.itemsize
            if size > self.byte_cap:
                raise ResourceError(
                    f"array {self.shape} takes {size / 2**30:.1f} GiB, "
                    f"cap {self.byte_cap / 2**30:.1f} GiB",
                    fix="raise Sample.byte_cap or read fewer frames",
                )
            self._array = np.asarray(self.load())
        return self._array

    @property
    def kind(self) -> Kind:
        return self.geometry.kind

    @property
    def frame_times_s(self) -> tuple[float, ...] | None:
        """Presentation times of a clip's frames in seconds; ``None`` if unknown."""
        return self.geometry.frame_times_s
