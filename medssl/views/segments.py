"""Supervoxels of a crop: connected pieces of tissue of about equal size and even grey value (SLIC).

Source: Achanta et al. 2012; the computation is scikit-image's.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from skimage.segmentation import slic

from medssl.core.geometry import AnyArray

# Supervoxels below this share of the average size are no supervoxels: remains at the edge of air.
_SMALLEST = 0.25
# Fewest voxels of an average supervoxel: crops with little tissue have fewer of them.
_FEWEST = 32
# Average sizes from here on are found on cells of two voxels per edge: eight times faster, as good.
_COARSE = 512
# Weight of distance against grey values in [0, 1].
_COMPACTNESS = 0.3
_ITERATIONS = 5
_ENDS_PERCENT = (1, 99)


def supervoxels(
    x_CDHW: npt.NDArray[np.float32],
    tissue_DHW: npt.NDArray[np.bool_],
    spacing_mm: tuple[float, ...],
    count: int,
) -> npt.NDArray[np.int64]:
    """About ``count`` supervoxels of the tissue: 1 .. K, and 0 for air and for small remains.

    The same crop gives the same supervoxels. Grey values of a channel count between the 1st and the
    99th percentile of its tissue; distances count in mm.
    """
    out = np.zeros(x_CDHW.shape[1:], dtype=np.int64)
    voxels = int(tissue_DHW.sum())
    if voxels < _FEWEST:
        return out
    average = max(voxels / count, _FEWEST)
    grid = _even_grid(out.shape, spacing_mm, 2.0 if average >= _COARSE else 1.0)
    near = np.ix_(np.arange(len(x_CDHW)), *_places(out.shape, grid))
    seen = _grey(x_CDHW, tissue_DHW)[near]
    found = _slic(seen, out.size / average)[np.ix_(*_places(grid, out.shape))] * tissue_DHW
    size_K = np.bincount(found.ravel())
    kept_K = size_K >= _SMALLEST * average
    kept_K[0] = False
    number_K = np.where(kept_K, np.cumsum(kept_K), 0)
    return np.asarray(number_K[found], dtype=np.int64)


def _slic(x_CDHW: npt.NDArray[np.float32], count: float) -> AnyArray:
    """SLIC of cubes, or of squares (D = 1); labels from 1."""
    flat = x_CDHW.shape[1] == 1
    found = slic(
        x_CDHW[:, 0] if flat else x_CDHW,
        n_segments=max(round(count), 1),
        compactness=_COMPACTNESS,
        max_num_iter=_ITERATIONS,
        convert2lab=False,
        channel_axis=0,
    )
    return np.asarray(found[None] if flat else found)


def _even_grid(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...], coarser: float
) -> tuple[int, ...]:
    """Cells per axis of a grid of cubes with about as many cells as there are voxels.

    scikit-image puts its seeds at equal numbers of voxels, whatever the spacing.
    """
    long = [axis for axis, size in enumerate(shape) if size > 1]
    edge_mm = coarser * np.exp(np.mean([np.log(spacing_mm[axis]) for axis in long]))
    return tuple(max(round(n * mm / edge_mm), 1) for n, mm in zip(shape, spacing_mm, strict=True))


def _places(shape: tuple[int, ...], grid: tuple[int, ...]) -> list[npt.NDArray[np.int64]]:
    """Per axis, the voxel of ``shape`` nearest to each cell of ``grid`` over the same extent."""
    return [
        ((np.arange(cells) + 0.5) * voxels / cells).astype(np.int64)
        for voxels, cells in zip(shape, grid, strict=True)
    ]


def _grey(
    x_CDHW: npt.NDArray[np.float32], tissue_DHW: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """Grey values in [0, 1] per channel, air 0."""
    low, high = np.percentile(x_CDHW[:, tissue_DHW], _ENDS_PERCENT, axis=1)[..., None, None, None]
    scaled = (x_CDHW - low) / np.maximum(high - low, 1e-6)
    return np.asarray(np.clip(scaled, 0, 1) * tissue_DHW, dtype=np.float32)
