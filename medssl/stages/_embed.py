"""The dense embedding of one record, in windows as large as the training crops.

C channels, D width of vectors, K windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medssl.archive.store import Entry
from medssl.core.geometry import cut_axis
from medssl.encoders._base import Encoder
from medssl.encoders.card import Card
from medssl.inference.sliding import window_places
from medssl.objectives._parts.dense import DenseEmbedding
from medssl.views.planes import axes_of

Array = npt.NDArray[Any]
Steps = tuple[tuple[int, ...], tuple[int, ...]]

# Windows per pass of the network, and the share that neighbouring ones have in common.
_WINDOWS, _OVERLAP = 4, 0.5


@dataclass(frozen=True, eq=False)
class Network:
    """An encoder and its embedding, as they were trained.

    Attributes:
        steps: voxels per fine and per coarse cell along the axes of a window.
    """

    card: Card
    encoder: Encoder
    embedding: DenseEmbedding
    steps: Steps


def embed(
    network: Network, entry: Entry, x_CDHW: npt.NDArray[np.float32], device: torch.device
) -> tuple[Array, Array]:
    """Fine and coarse unit vectors (d, h, w, D) of a record, float32.

    Windows as large as the training crops overlap by half and are blended, the middle of each
    weighing most. What is smaller than a window is filled up behind its end, as are records that
    are no multiple of a coarse cell.
    """
    card = network.card
    order = axes_of(axis_of(card, entry))
    window, *steps = (in_depth(sides) for sides in (card.patch_size, *network.steps))
    shape = tuple(entry.shape[1 + k] for k in order)
    x = _filled_up(np.transpose(x_CDHW, (0, *(1 + k for k in order))), entry.fill, window, steps[1])
    sums = [_Blend(x.shape[1:], step, window) for step in steps]
    modules = network.encoder.to(device), network.embedding.to(device)
    for places in _batches(x.shape[1:], window, steps[1]):
        windows = torch.from_numpy(np.stack([x[(slice(None), *place)] for place in places]))
        for blend, vectors in zip(sums, _run(*modules, windows.to(device), card), strict=True):
            blend.add(places, vectors)
    back = (*np.argsort(order), 3)
    fine, coarse = (np.transpose(blend.unit(shape), back) for blend in sums)
    return fine, coarse


@torch.inference_mode()
def _run(
    encoder: Encoder, embedding: DenseEmbedding, windows: Tensor, card: Card
) -> list[npt.NDArray[np.float32]]:
    """Vectors (K, d, h, w, D) of windows (K, C, D, H, W), D = 1 for an image encoder."""
    flat = len(card.patch_size) == 2
    maps = embedding(encoder(windows[:, :, 0] if flat else windows))
    found = (m[:, :, None] if flat else m for m in maps)
    return [m.float().movedim(1, -1).cpu().numpy() for m in found]


class _Blend:
    """Weighted sum of windows' vectors on the grid of a whole record."""

    def __init__(
        self, shape: tuple[int, ...], step: tuple[int, ...], window: tuple[int, ...]
    ) -> None:
        self.step = step
        self.grid = tuple(n // s for n, s in zip(shape, step, strict=True))
        self.sum: npt.NDArray[np.float32] | None = None
        weight = np.ones((1, 1, 1), dtype=np.float32)
        for axis, (side, size) in enumerate(zip(window, step, strict=True)):
            cells = np.arange(side // size) + 0.5
            rise = np.minimum(cells, side // size - cells)
            weight = weight * np.expand_dims(rise, [k for k in range(3) if k != axis])
        self.weight = weight[..., None].astype(np.float32)

    def add(self, places: list[tuple[slice, ...]], vectors: npt.NDArray[np.float32]) -> None:
        if self.sum is None:
            self.sum = np.zeros((*self.grid, vectors.shape[-1]), dtype=np.float32)
        for place, found in zip(places, vectors, strict=True):
            cells = (
                slice(p.start // s, p.stop // s) for p, s in zip(place, self.step, strict=True)
            )
            self.sum[tuple(cells)] += self.weight * found

    def unit(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Vectors of length 1 of the cells that lie in the record, wholly or in part."""
        assert self.sum is not None
        kept = tuple(slice(-(-n // s)) for n, s in zip(shape, self.step, strict=True))
        vectors = self.sum[kept]
        length = np.linalg.norm(vectors, axis=-1, keepdims=True)
        return np.asarray(vectors / np.maximum(length, 1e-6), dtype=np.float32)


def _batches(
    shape: tuple[int, ...], window: tuple[int, ...], step: tuple[int, ...]
) -> Iterator[list[tuple[slice, ...]]]:
    """Windows whose coarse cells are those of the record."""
    cells = tuple(n // s for n, s in zip(shape, step, strict=True))
    size = tuple(n // s for n, s in zip(window, step, strict=True))
    places = [
        tuple(slice(p.start * s, p.stop * s) for p, s in zip(place, step, strict=True))
        for place in window_places(cells, size, _OVERLAP)
    ]
    for first in range(0, len(places), _WINDOWS):
        yield places[first : first + _WINDOWS]


def _filled_up(
    x_CDHW: npt.NDArray[np.float32],
    fill: tuple[float, ...],
    window: tuple[int, ...],
    step: tuple[int, ...],
) -> npt.NDArray[np.float32]:
    shape = x_CDHW.shape[1:]
    size = [max(w, -(-n // s) * s) for n, w, s in zip(shape, window, step, strict=True)]
    out = np.empty((len(x_CDHW), *size), dtype=np.float32)
    out[:] = np.array(fill, dtype=np.float32)[:, None, None, None]
    out[(slice(None), *(slice(n) for n in shape))] = x_CDHW
    return out


def axis_of(card: Card, entry: Entry) -> int:
    """Axis of a record that comes first in its windows: the cut, for an image encoder."""
    if len(card.patch_size) == 3:
        return 0
    return cut_axis(card.plane, entry.shape[1:], entry.spacing_mm)


def in_depth(sides: tuple[int, ...]) -> tuple[int, ...]:
    """Sides along three axes: a slice is one voxel thick.

    >>> in_depth((32, 48))
    (1, 32, 48)
    """
    return (1,) * (3 - len(sides)) + sides
