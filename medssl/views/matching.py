"""Finds a landmark of one record in another by where it lies in the body."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medssl.core.viewspec import ViewSpec
from medssl.views.build import axis_of
from medssl.views.crops import size_of
from medssl.views.pairs import Match, Sources
from medssl.views.planes import in_record
from medssl.views.source import Source
from medssl.views.spatial import CropDraw, Vector, apply_crop

# Cells per axis that two crops are averaged to before they are compared: what is left is the
# layout of organs and air, not their texture and exact outline.
_CELLS = 8


@dataclass(frozen=True, eq=False)
class BodyMatcher:
    """Equal body coordinates: the fallback where nothing has been learnt yet.

    The distance in body coordinates is 0 for each of these matches, right or wrong, so it says
    nothing. The score is how alike the two crops look: the correlation of their grey values,
    averaged over an eighth of the crop per axis. It is low where fields of view or poses differ,
    and also between sequences of different contrast: there, an embedding is needed.
    """

    spec: ViewSpec
    sources: Sources

    def match(self, record: int, voxel: Vector, other: int) -> Match:
        """See :class:`medssl.views.pairs.Matcher`."""
        here, there = self.sources.source(record), self.sources.source(other)
        found = there.voxel(here.position(voxel))
        size = in_record(np.array(size_of(self.spec.views[0].crop)), axis_of(self.spec, here))
        alike = correlation(_coarse(here, voxel, size), _coarse(there, np.rint(found), size))
        return Match(found, alike)


def correlation(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Of two arrays (C, ...), each channel about its mean; 0 where one of them is constant.

    >>> ramp = np.arange(6.0)[None]
    >>> round(correlation(ramp, 3 * ramp + 1), 6), round(correlation(ramp, -ramp), 6)
    (1.0, -1.0)
    """
    a, b = (x.reshape(len(x), -1) for x in (a, b))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / norm if norm else 0.0


def _coarse(source: Source, voxel: Vector, size: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The crop about a voxel, averaged over cells."""
    d, h, w = map(int, size)
    draw = CropDraw((d, h, w), voxel - size // 2 + (size - 1) / 2, None)
    x = apply_crop(source.read, draw, source.shape_DHW, np.array(source.fill)).astype(float)
    for axis, edge in enumerate(size, start=1):
        starts = np.linspace(0, edge, min(_CELLS, edge), endpoint=False).astype(int)
        widths = np.diff([*starts, edge]).reshape([-1 if k == axis else 1 for k in range(4)])
        x = np.add.reduceat(x, starts, axis) / widths
    return np.asarray(x)
