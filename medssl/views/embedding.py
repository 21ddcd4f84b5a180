"""Finds a landmark of one record in another by dense unit embeddings of both.

Algorithm:
    f, c = fine vector of the landmark's cell; coarse vectors, interpolated there, to length 1
    s(x) = (f . F(x) + c . C(x)) / 2     F, C of the other record, C interpolated likewise
    the place is the cell of the largest s, and s is the score: 1 = the same vectors

Source:
    Yan et al. 2022, "SAM: Self-supervised learning of pixel-wise anatomical embeddings in
    radiological images". Departure: where in its cell a landmark lies is carried over, so places
    are not rounded to cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from medssl.views.pairs import Match
from medssl.views.spatial import Vector

# Letters: d, h, w fine cells; i, j, k coarse cells; c components of a vector.
Array = npt.NDArray[Any]
# Opposite vectors of neighbouring cells cancel.
_TINY = 1e-6


class Grid(NamedTuple):
    """Cells of an embedding in voxels (d, h, w) of the record: cell n lies at start + step n."""

    start: Vector
    step: Vector

    @classmethod
    def of_step(cls, step: npt.ArrayLike) -> Grid:
        """Cells of so many voxels from the first voxel's edge on: a centre is half a cell in.

        >>> Grid.of_step((1, 2, 4)).start.tolist()
        [0.0, 0.5, 1.5]
        """
        step = np.asarray(step, dtype=float)
        return cls((step - 1) / 2, step)

    def voxel(self, cell: Vector) -> Vector:
        return np.asarray(self.start + self.step * cell)

    def cell(self, voxel: Vector) -> Vector:
        return np.asarray((voxel - self.start) / self.step)


@dataclass(frozen=True, eq=False)
class Embedding:
    """Unit vectors of one record; arrays may be memory maps, of any float type.

    Attributes:
        fine, coarse: (d, h, w, D) of the cells of their grids.
        coarse_norm: of :func:`coarse_norm`, which takes as long as many matches: it is kept.
        shape_DHW: voxels of the record.
    """

    fine: Array
    fine_grid: Grid
    coarse: Array
    coarse_grid: Grid
    coarse_norm: Array
    shape_DHW: tuple[int, ...]


class Embeddings(Protocol):
    """The embeddings of a run's records."""

    def embedding(self, record: int) -> Embedding:
        """Of the record with this number."""


@dataclass(frozen=True)
class EmbeddingMatcher:
    """A :class:`~medssl.views.pairs.Matcher`; its score is a cosine."""

    embeddings: Embeddings

    def match(self, record: int, voxel: Vector, other: int) -> Match:
        """The most similar place of ``other``."""
        here, there = (self.embeddings.embedding(number) for number in (record, other))
        cell = np.rint(here.fine_grid.cell(voxel)).astype(int)
        cell = np.clip(cell, 0, np.array(here.fine.shape[:3]) - 1)
        score_dhw = similarity(there, *vectors_at(here, cell))
        found = np.array(np.unravel_index(score_dhw.argmax(), score_dhw.shape))
        within = here.fine_grid.cell(voxel) - cell
        place = there.fine_grid.voxel(found + within)
        place = np.clip(place, 0, np.array(there.shape_DHW) - 1)
        return Match(place, float(score_dhw[tuple(found)]))


def vectors_at(embedding: Embedding, cell: npt.NDArray[np.int64]) -> tuple[Array, Array]:
    """Fine vector of a fine cell, and the coarse one interpolated there, of length 1."""
    rows = _weights(embedding.coarse, embedding.coarse_grid, embedding.fine, embedding.fine_grid)
    d, h, w = (row[n] for row, n in zip(rows, cell, strict=True))
    coarse = embedding.coarse.astype(np.float32)
    coarse_c = np.einsum("ijkc,i,j,k->c", coarse, d, h, w, optimize=True)
    fine_c = embedding.fine[tuple(cell)].astype(np.float32)
    return fine_c, coarse_c / max(float(np.linalg.norm(coarse_c)), _TINY)


def similarity(embedding: Embedding, fine_c: Array, coarse_c: Array) -> Array:
    """Mean of the fine and the coarse cosine at every fine cell, (d, h, w)."""
    rows = _weights(embedding.coarse, embedding.coarse_grid, embedding.fine, embedding.fine_grid)
    # Interpolation is linear: cosines with one vector are interpolated in place of vectors.
    coarse_dhw = np.einsum(
        "ijk,di,hj,wk->dhw", embedding.coarse.astype(np.float32) @ coarse_c, *rows, optimize=True
    )
    coarse_dhw /= embedding.coarse_norm
    fine_dhw = np.stack([slab.astype(np.float32) @ fine_c for slab in embedding.fine])
    return np.asarray((fine_dhw + coarse_dhw) / 2)


def coarse_norm(fine: Array, fine_grid: Grid, coarse: Array, coarse_grid: Grid) -> Array:
    """Lengths of the coarse vectors interpolated at the fine cells, (d, h, w) float32."""
    rows_d, *rows = _weights(coarse, coarse_grid, fine, fine_grid)
    vectors = coarse.astype(np.float32)
    slabs = []
    for row in rows_d:  # one slab at a time: all fine cells at once take much memory
        slab = np.einsum("ijkc,i,hj,wk->hwc", vectors, row, *rows, optimize=True)
        slabs.append(np.linalg.norm(slab, axis=2))
    return np.asarray(np.maximum(np.stack(slabs), _TINY))


def _weights(
    coarse: Array, coarse_grid: Grid, fine: Array, fine_grid: Grid
) -> list[npt.NDArray[np.float32]]:
    """Per axis, (fine cells, coarse cells): linear interpolation; the outermost cells go on."""
    rows = []
    for axis in range(3):
        cells = np.arange(fine.shape[axis])
        voxels = fine_grid.start[axis] + fine_grid.step[axis] * cells
        place = (voxels - coarse_grid.start[axis]) / coarse_grid.step[axis]
        place = np.clip(place, 0, coarse.shape[axis] - 1)
        apart = np.abs(place[:, None] - np.arange(coarse.shape[axis]))
        rows.append(np.maximum(1 - apart, 0).astype(np.float32))
    return rows
