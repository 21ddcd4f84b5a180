"""A stored record that views are cut from, and where in the body its voxels lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medssl.core.geometry import Kind
from medssl.core.sample import UNKNOWN
from medssl.views.guard import Levels, levels_of
from medssl.views.spatial import Read, Vector


@dataclass(frozen=True, eq=False)
class Source:
    """A stored record that views are cut from.

    Attributes:
        read: voxels (C, d, h, w) of a box; a picture has d = 1.
        air, fill: per channel, level below which a voxel is air, and value outside the record.
        modality: of the record; changes that make no sense for it are not applied.
        window_hu: HU that were stored as 0 and 1; ``None`` = the values are no HU.
        read_labels: labels (1, d, h, w) of a box.
        foreground: (P, 3) labelled voxels.
        tissue: (2, 3) first voxel of the box of tissue, and the one after its last; ``None`` = the
            whole record.
        kind: of the record; the first axis of a clip is time.
        times_s: (T,) of the frames of a clip; ``None`` = unknown.
        shots: (S, 2) first frame between cuts, and the one behind the last; of a clip.
    """

    read: Read
    shape_DHW: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    air: tuple[float, ...]
    fill: tuple[float, ...]
    modality: str = UNKNOWN
    window_hu: tuple[float, float] | None = None
    read_labels: Read | None = None
    foreground: npt.NDArray[np.int64] | None = None
    tissue: npt.NDArray[np.int64] | None = None
    kind: Kind = "volume"
    times_s: npt.NDArray[np.float64] | None = None
    shots: npt.NDArray[np.int64] | None = None

    @property
    def levels(self) -> Levels:
        """What the stored values mean."""
        picture = self.kind == "clip" or self.shape_DHW[0] == 1
        return levels_of(self.modality, self.fill, self.window_hu, picture=picture)

    @property
    def body(self) -> Vector:
        """(2, 3) edges of the tissue in voxels: 0 and 1 in body coordinates."""
        box = np.array([[0, 0, 0], self.shape_DHW]) if self.tissue is None else self.tissue
        return np.asarray(box - 0.5)

    def position(self, voxel: Vector) -> Vector:
        """Body coordinates of a voxel; 0.5 along an axis of one voxel."""
        low, high = self.body
        position = (voxel - low) / (high - low)
        return np.where(np.array(self.shape_DHW) == 1, 0.5, position)

    def voxel(self, position: Vector) -> Vector:
        """Where body coordinates lie, in voxels; those outside are moved into the record."""
        low, high = self.body
        voxel = low + position * (high - low)
        return np.asarray(np.clip(voxel, 0, np.array(self.shape_DHW) - 1))
