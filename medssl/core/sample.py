"""Record (a row of the catalog) and Sample (its array in memory)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ResourceError, UsageError
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
        part: tags that split the series into records, with their values; empty = not split.
        units: ``HU``, ``BQML`` ...; empty = arbitrary.
        body_part, view, laterality, vendor, sequence, contrast: free labels from the header,
            from fixed lists, else ``unknown``.
        site_id: salted hash of institution and station.
        study_day: study date in days, shifted by a constant of the patient; ``None`` = unknown.
        references: series ids that a label belongs to.
        objects_hash: equal for copies of the same DICOM objects.
        pixel_hash: SHA-256 of the decoded pixels, with ``index --pixels``.
        perceptual_hash: 16 hex digits, close for pictures that look alike.
        duplicate_of: record of the same objects or pixels that came first; empty = none.
        near_duplicate_of: record that looks the same; empty = none.
        duration_s: of a clip with known frame times.
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
    part: str = ""
    units: str = ""
    body_part: str = UNKNOWN
    view: str = UNKNOWN
    laterality: str = UNKNOWN
    vendor: str = UNKNOWN
    sequence: str = UNKNOWN
    contrast: str = UNKNOWN
    site_id: str = ""
    study_day: int | None = None
    references: tuple[str, ...] = ()
    objects_hash: str = ""
    fingerprint: str = ""
    pixel_hash: str | None = None
    perceptual_hash: str | None = None
    duplicate_of: str = ""
    near_duplicate_of: str = ""
    duration_s: float | None = None


@dataclass(eq=False)
class Sample:
    """The array of one record, loaded on first access, with its geometry.

    Args:
        load: returns the array, channel first; with ``frames=[...]`` those of a clip only.
        shape: the array's shape as the header states it.
        itemsize: bytes per element, to refuse before allocating.
    """

    load: Callable[..., npt.NDArray[Any]]
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
            self._check_size(self.shape)
            self._array = np.asarray(self.load())
        return self._array

    def frames(self, numbers: Sequence[int]) -> npt.NDArray[Any]:
        """Frames of a clip (C, len(numbers), H, W), in the order asked for; decodes only those.

        Raises:
            UsageError: the sample is no clip, or a number is out of range.
            ResourceError: more than ``byte_cap`` bytes.
            ReadError: if they cannot be decoded.
        """
        self._check_frames(numbers)
        if self._array is not None:
            return self._array[:, list(numbers)]
        self._check_size((self.shape[0], len(numbers), *self.shape[2:]))
        return np.asarray(self.load(frames=list(numbers)))

    def select(self, numbers: Sequence[int]) -> Sample:
        """A sample of these frames of a clip only; nothing is decoded yet.

        Raises:
            UsageError: as :meth:`frames`.
        """
        self._check_frames(numbers)
        times_s = self.frame_times_s
        picked_s = None if times_s is None else tuple(times_s[n] for n in numbers)
        return replace(
            self,
            load=partial(self.load, frames=list(numbers)),
            geometry=replace(self.geometry, frame_times_s=picked_s),
            shape=(self.shape[0], len(numbers), *self.shape[2:]),
            _array=None,
        )

    def assumed(self, modality: str) -> Sample:
        """The same, of this modality where the file states none."""
        return self if self.modality != UNKNOWN else replace(self, modality=modality)

    def _check_frames(self, numbers: Sequence[int]) -> None:
        if self.kind != "clip":
            raise UsageError(f"frames are selected from a clip, this is a {self.kind}")
        total = self.shape[1]
        wrong = [n for n in numbers if not 0 <= n < total]
        if wrong:
            raise UsageError(
                f"frame {wrong[0]} of a clip with {total} frames", fix="0 is the first"
            )

    def _check_size(self, shape: tuple[int, ...]) -> None:
        size = math.prod(shape) * self.itemsize
        if size > self.byte_cap:
            raise ResourceError(
                f"array {shape} takes {size / 2**30:.1f} GiB, cap {self.byte_cap / 2**30:.1f} GiB",
                fix="raise Sample.byte_cap or read fewer frames",
            )

    @property
    def kind(self) -> Kind:
        return self.geometry.kind

    @property
    def frame_times_s(self) -> tuple[float, ...] | None:
        """Presentation times of a clip's frames in seconds; ``None`` if unknown."""
        return self.geometry.frame_times_s
