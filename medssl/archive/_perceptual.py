"""Perceptual hash: 64 bits that stay nearly the same when a picture is coded or sized anew.

One grey picture of a record (:func:`projection`) is shrunk to 32 x 32 by averaging; of its discrete
cosine transform the 64 coefficients of lowest frequency (without the mean) give one bit each:
above their median or not. The scheme is pHash's (Zauner 2010, "Implementation and benchmarking of
perceptual image hash functions"), on our own projection of volumes and clips.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy  # its parts load when they are used

from medssl.archive._grey import grey_image
from medssl.core.geometry import Kind

NEAR_BITS = 2
"""Hashes that differ in at most this many bits show one picture: docs/results/quality.md."""
_SIDE_PX = 32
_BITS = 64


def projection(array: npt.NDArray[Any], kind: Kind) -> npt.NDArray[Any]:
    """(C, H, W): an image itself, the mean of a volume's middle third, of a clip's frames.

    Args:
        array: (C, H, W), (C, D, H, W), or (C, T, H, W) of evenly spread frames.
        kind: of the record.
    """
    if kind == "image":
        return array
    depth = array.shape[1]
    third = depth // 3 if kind == "volume" else 0
    middle = array[:, third : max(depth - third, third + 1)]
    return np.asarray(middle.mean(axis=1, dtype=np.float64))


def perceptual_hash(x_CHW: npt.NDArray[Any]) -> str | None:
    """16 hex digits; ``None`` for a picture without content.

    >>> import numpy as np
    >>> x_CHW = np.random.default_rng(0).uniform(0, 1, (1, 64, 64))
    >>> perceptual_hash(x_CHW) == perceptual_hash(3 * x_CHW + 7)
    True
    """
    grey_HW = grey_image(x_CHW)
    if grey_HW.max() == grey_HW.min():
        return None
    waves = scipy.fft.dctn(_shrunk(grey_HW), norm="ortho")
    values = waves.ravel()[_low_frequencies()]
    bits = values > np.median(values)
    return f"{int(''.join('1' if bit else '0' for bit in bits), 2):016x}"


def distance_bits(first: str, second: str) -> int:
    """Bits in which two hashes differ.

    >>> distance_bits("00000000000000ff", "0000000000000000")
    8
    """
    return (int(first, 16) ^ int(second, 16)).bit_count()


def near_pairs(hashes: Sequence[str], most_bits: int = NEAR_BITS) -> dict[int, int]:
    """Position of a hash -> position of the earliest other one that is near it and before it.

    Two hashes within k bits agree wholly on one of k + 1 parts, so only hashes that share a part
    are compared: no comparison of all with all.
    """
    first_of: dict[str, int] = {}
    for position, one in enumerate(hashes):
        first_of.setdefault(one, position)
    places = np.array(list(first_of.values()), dtype=np.int64)
    codes = np.array([int(one, 16) for one in first_of], dtype=np.uint64)
    earliest = np.arange(len(codes))
    for members in _buckets(codes, most_bits + 1):
        for rank in range(1, len(members)):
            mine = members[rank]
            apart = np.bitwise_count(codes[members[:rank]] ^ codes[mine])
            close = np.flatnonzero(apart <= most_bits)
            if close.size:
                earliest[mine] = min(earliest[mine], members[close[0]])
    target = dict(zip(first_of, places[earliest].tolist(), strict=True))
    return {position: target[one] for position, one in enumerate(hashes) if target[one] < position}


def _buckets(codes: npt.NDArray[np.uint64], parts: int) -> list[npt.NDArray[np.int64]]:
    """Positions of codes that share one part, ascending."""
    edges = np.linspace(0, _BITS, parts + 1).astype(int)
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for part, (low, high) in enumerate(pairwise(edges.tolist())):
        values = (codes >> np.uint64(low)) & np.uint64(2 ** (high - low) - 1)
        for position, value in enumerate(values.tolist()):
            groups[part, value].append(position)
    return [np.array(group) for group in groups.values() if len(group) > 1]


def _low_frequencies() -> npt.NDArray[np.int64]:
    """Raster positions of the 64 lowest frequencies but the mean, a fixed order."""
    row, column = np.indices((_SIDE_PX, _SIDE_PX))
    order = np.lexsort((column.ravel(), row.ravel(), (row**2 + column**2).ravel()))
    return order[1 : _BITS + 1]


def _shrunk(grey_HW: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """32 x 32 by averaging over the area that each new pixel covers."""
    height, width = grey_HW.shape
    rows_SH, columns_SW = _area_weights(height), _area_weights(width)
    return np.asarray(rows_SH @ grey_HW @ columns_SW.T)


def _area_weights(length: int) -> npt.NDArray[np.float64]:
    """(32, length): share of each old pixel in each new one; rows sum to 1."""
    edges = np.linspace(0, length, _SIDE_PX + 1)
    old = np.arange(length)
    low = np.maximum(edges[:-1, None], old[None])
    high = np.minimum(edges[1:, None], old[None] + 1)
    overlap = np.clip(high - low, 0, None)
    return np.asarray(overlap / overlap.sum(axis=1, keepdims=True))
