"""Pictures of an embedding: principal components, nearest neighbours, dense features in colour.

N records, D width, P positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medssl.archive.catalog import Catalog
from medssl.archive.store import Entry
from medssl.core.sample import Record
from medssl.evaluation.knn import nearest_cosines
from medssl.pages.sheet import Tile
from medssl.stages._doctor_samples import look_at
from medssl.stages._features import Frozen, evenly
from medssl.stages._sources import StoredRecords

Array = npt.NDArray[Any]
# Rows of the two sheets, and neighbours in one.
_QUERIES, _NEAREST, _DENSE = 8, 5, 8
# Colours reach from the one to the other percentile.
_ENDS_PERCENT = (2.0, 98.0)


def principal(x_ND: Array, count: int) -> tuple[npt.NDArray[np.float64], list[float]]:
    """(N, count) coordinates along the directions of the largest spread, and its shares.

    The sign of each is such that the largest coordinate is positive.

    >>> points, shares = principal(np.array([[0.0, 1], [4, 1], [2, 1]]), 2)
    >>> points[:, 0].round(6).tolist(), np.round(shares, 6).tolist()
    ([-2.0, 2.0, 0.0], [1.0, 0.0])
    """
    x = np.asarray(x_ND, dtype=np.float64)
    u, size, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    points = np.zeros((len(x), count))
    there = min(count, len(size))
    points[:, :there] = (u * size)[:, :there]
    top = points[np.abs(points).argmax(0), np.arange(count)]
    points *= np.where(top < 0, -1.0, 1.0)
    shares = np.zeros(count)
    shares[:there] = size[:there] ** 2 / max(float((size**2).sum()), 1e-12)
    return points, shares.tolist()


def neighbour_rows(
    catalog: Catalog, records: Sequence[Record], kept: StoredRecords, z_ND: Array
) -> list[list[Tile]]:
    """Some records, each before its nearest ones of other patients, with their cosines."""
    patients_N = kept.patients
    queries = evenly(len(records), _QUERIES)
    own = patients_N[queries][:, None] == patients_N
    if own.all(1).any():
        return [[_tile(catalog, records[k], records[k].record_id[:8])] for k in queries]
    near, cosine = nearest_cosines(z_ND, z_ND[queries], _NEAREST, own)
    rows = []
    for query, places, close in zip(queries, near, cosine, strict=True):
        row = [_tile(catalog, records[query], records[query].record_id[:8])]
        for k, value in zip(places, close, strict=True):
            if np.isfinite(value):
                text = f"{records[k].record_id[:8]} {value:.2f}"
                row.append(_tile(catalog, records[k], text))
        rows.append(row)
    return rows


def dense_rows(
    catalog: Catalog, records: Sequence[Record], kept: StoredRecords, frozen: Frozen
) -> list[list[Tile]]:
    """Records and their tokens: three principal components of all of them as red, green, blue."""
    shown, grids, tokens = [], [], []
    for k in evenly(len(records), _DENSE):
        grey, grid_HWD = _middle(frozen, kept, kept.entries[k])
        hidden = look_at(catalog, records[k]).picture_CHW is None
        shown.append((records[k].record_id[:8], None if hidden else grey))
        grids.append(grid_HWD.shape[:2])
        tokens.append(grid_HWD.reshape(-1, grid_HWD.shape[2]))
    points, _ = principal(np.concatenate(tokens), 3)
    low, high = np.percentile(points, _ENDS_PERCENT, axis=0)
    colours = np.clip((points - low) / np.maximum(high - low, 1e-12), 0, 1)
    ends = np.cumsum([len(one) for one in tokens])[:-1]
    rows = []
    for (name, picture), grid, rgb in zip(shown, grids, np.split(colours, ends), strict=True):
        features = None if picture is None else np.moveaxis(rgb.reshape(*grid, 3), 2, 0)
        rows.append([Tile(picture, name), Tile(features)])
    return rows


@torch.no_grad()
def _middle(frozen: Frozen, kept: StoredRecords, entry: Entry) -> tuple[Array, Array]:
    """The middle slice of the middle window of a record in 0..1, and its tokens (h, w, D)."""
    windows = torch.cat(list(frozen.windows(kept.store, entry)))
    x = windows[len(windows) // 2][None]
    tokens_BND = frozen.encoder.tokens(frozen.encoder(x.to(frozen.device)), frozen.crop)
    grid = frozen.encoder.grid(frozen.crop)
    map_D = tokens_BND[0].float().cpu().numpy().reshape(*grid, -1)
    picture = x[0].numpy()
    if len(grid) == 3:
        map_D, picture = map_D[grid[0] // 2], picture[:, picture.shape[1] // 2]
    if len(picture) not in (1, 3):
        picture = picture[:1]
    low, high = picture.min(), picture.max()
    return (picture - low) / max(float(high - low), 1e-12), map_D


def _tile(catalog: Catalog, record: Record, text: str) -> Tile:
    return Tile(look_at(catalog, record).picture_CHW, text)
