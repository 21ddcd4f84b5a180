"""Random token masks, raster order, True = hidden.

Counts are exact: ``hidden_count(tokens, ratio)`` for ``random`` and ``block``; that many columns
(times their length) for ``column`` and ``tube``; that many cells (times their volume) for
``blocks``. A fixed ratio therefore hides equally many tokens in every sample of a batch, which
encoders that leave hidden tokens out need. A range of ratios, or a probability below 1, does not:
that is for encoders that fill hidden tokens with a learnt vector (``fill_D``).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medssl.core.errors import ConfigError
from medssl.core.viewspec import MaskSpec, TargetSpec

# Largest ratio of two edges of a block: BEiT and iBOT draw aspects between 0.3 and 3.3.
BLOCK_ELONGATION = 3.3
# Smallest block (Zhou et al. 2022, iBOT).
_SMALLEST_BLOCK = 4

Mask = npt.NDArray[np.bool_]
Index = npt.NDArray[np.int64]


def hidden_count(tokens: int, ratio: float) -> int:
    """``int(ratio * tokens)``, at least one token hidden and one visible.

    >>> hidden_count(196, 0.75), hidden_count(196, 0.9)
    (147, 176)
    >>> hidden_count(100, 0.29)  # 0.29 * 100 is 28.999999999999996 in floating point
    29
    """
    return min(max(int(ratio * tokens + 1e-9), 1), tokens - 1)


def draw_mask(rng: np.random.Generator, spec: MaskSpec, grid: tuple[int, ...]) -> Mask:
    """A mask (N,) as the spec asks for; nothing is hidden where its probability misses.

    Raises:
        ConfigError: cells of ``blocks`` that do not fit the grid.
    """
    happens = rng.random() < spec.probability
    ratio = rng.uniform(*spec.ratio)
    if not happens:
        return np.zeros(math.prod(grid), dtype=bool)
    if spec.kind == "blocks":
        return cell_mask(rng, grid, ratio, spec.cell)
    if spec.kind in ("column", "tube"):
        return column_mask(rng, grid, ratio)
    return {"random": random_mask, "block": block_mask}[spec.kind](rng, grid, ratio)


def random_mask(rng: np.random.Generator, grid: tuple[int, ...], ratio: float) -> Mask:
    """Each set of ``hidden_count`` tokens is equally likely.

    >>> int(random_mask(np.random.default_rng(0), (14, 14), 0.75).sum())
    147
    """
    tokens = math.prod(grid)
    mask = np.zeros(tokens, dtype=bool)
    mask[rng.permutation(tokens)[: hidden_count(tokens, ratio)]] = True
    return mask


def block_mask(rng: np.random.Generator, grid: tuple[int, ...], ratio: float) -> Mask:
    """Boxes of random size and aspect until ``hidden_count`` tokens are hidden (Bao et al. 2022).

    Each box holds a token that was still visible; the last one is cut to the exact count.

    >>> int(block_mask(np.random.default_rng(0), (14, 14), 0.4).sum())
    78
    """
    left = hidden_count(math.prod(grid), ratio)
    mask = np.zeros(math.prod(grid), dtype=bool)
    while left:
        volume = int(rng.integers(min(_SMALLEST_BLOCK, left), left + 1))
        sides = _sides(rng, volume, grid, BLOCK_ELONGATION)
        seed = np.unravel_index(int(rng.choice(np.flatnonzero(~mask))), grid)
        low = [max(0, s - n + 1) for s, n in zip(seed, sides, strict=True)]
        high = [min(s, g - n) for s, n, g in zip(seed, sides, grid, strict=True)]
        box = _box(rng.integers(low, np.array(high) + 1), sides, grid)
        new = box[~mask[box]][:left]
        mask[new] = True
        left -= len(new)
    return mask


def column_mask(rng: np.random.Generator, grid: tuple[int, ...], ratio: float) -> Mask:
    """Whole columns along the first axis: through the slices of a volume, or tubes of a clip.

    >>> int(column_mask(np.random.default_rng(0), (8, 14, 14), 0.9).sum())  # 8 * 176
    1408
    """
    return np.tile(random_mask(rng, grid[1:], ratio), grid[0])


def cell_mask(rng: np.random.Generator, grid: tuple[int, ...], ratio: float, cell: int) -> Mask:
    """Whole cells of ``cell`` tokens per axis (one on an axis of one token).

    A coarser level of a pyramid, up to ``cell`` times the token, is then hidden in the same
    places: what is hidden on one level cannot be read on another.

    Raises:
        ConfigError: the grid is no multiple of the cell.
    """
    edges = [min(cell, tokens) for tokens in grid]
    if any(tokens % edge for tokens, edge in zip(grid, edges, strict=True)):
        what = f"masks in cells of {cell} tokens do not fit a grid of {grid} tokens"
        raise ConfigError(what, fix="a crop whose grid is a multiple of the cell, or a cell of 1")
    coarse = tuple(tokens // edge for tokens, edge in zip(grid, edges, strict=True))
    mask = random_mask(rng, coarse, ratio).reshape(coarse)
    for axis, edge in enumerate(edges):
        mask = mask.repeat(edge, axis)
    return mask.reshape(-1)


class JepaBlocks(NamedTuple):
    """Token ids of one sample: equally many in every sample of a batch.

    Attributes:
        context: sorted; never in a target.
        targets: (T, K), each row sorted; rows may share tokens.
    """

    context: Index
    targets: Index


def jepa_blocks(rng: np.random.Generator, grid: tuple[int, ...], spec: TargetSpec) -> JepaBlocks:
    """Target blocks, and a context block without them (Assran et al. 2023, section 3).

    Each target has K = ``int(share * N)`` tokens, at least one; the paper draws shares between
    0.15 and 0.2, one per batch. The context has as many tokens as are left when no two targets
    overlap: more are thinned out at random, missing ones are added from outside the block.

    With ``full_time`` the blocks of :func:`tube_blocks` take their place.

    Raises:
        ConfigError: the grid is too small for so many targets.
    """
    if spec.full_time:
        return tube_blocks(rng, grid, spec)
    tokens = math.prod(grid)
    size = max(int(spec.share * tokens + 1e-9), 1)
    count = tokens - spec.count * size
    if count < 1:
        what = f"{spec.count} targets of {size} tokens leave no context on a grid of {grid} tokens"
        raise ConfigError(what, fix="a larger crop, smaller patches, or fewer targets")
    targets = np.stack([_block(rng, size, grid, spec.elongation) for _ in range(spec.count)])
    inside = max(int(rng.uniform(*spec.context) * tokens), 1)
    order = 1.0 + 0.5 * rng.random(tokens)  # context block first, then outside, targets never
    order[_block(rng, inside, grid, spec.elongation)] -= 1.0
    order[targets] = 2.0
    return JepaBlocks(np.sort(np.argsort(order)[:count]), targets)


def tube_blocks(rng: np.random.Generator, grid: tuple[int, ...], spec: TargetSpec) -> JepaBlocks:
    """Context of a clip, outside of blocks that last through it, and all else as one target.

    Bardes et al. 2024 hide the union of ``count`` blocks. Its size differs from sample to sample,
    and their batches lose what is more than in the smallest one. Here the edge of the union moves
    instead: outwards, or inwards where the blocks left too little, until ``visible`` of the
    tokens lie outside.

    Raises:
        ConfigError: the grid has a single token per time step.
    """
    steps, plane = grid[0], grid[1:]
    tokens = math.prod(plane)
    if tokens < 2:
        what = f"a grid of {grid} tokens has nothing to hide through all time"
        raise ConfigError(what, fix="a larger crop, or smaller patches")
    size = max(int(spec.share * tokens + 1e-9), 1)
    hidden = np.zeros(tokens, dtype=bool)
    for _ in range(spec.count):
        hidden[_block(rng, size, plane, spec.elongation)] = True
    far = _outward(hidden.reshape(plane)) + 1e-3 * rng.random(tokens)
    count = min(max(int(spec.visible * tokens + 1e-9), 1), tokens - 1)
    hidden[:] = True
    hidden[np.argsort(-far)[:count]] = False
    tube = np.tile(hidden, steps)
    return JepaBlocks(np.flatnonzero(~tube), np.flatnonzero(tube)[None])


def _outward(hidden: Mask) -> npt.NDArray[np.float64]:
    """Distance of each token from the edge of what is hidden, below 0 inside of it."""
    if hidden.all():
        return np.zeros(hidden.size)
    outside = ndimage.distance_transform_edt(~hidden)
    inside = ndimage.distance_transform_edt(hidden)
    return np.asarray(outside - inside, dtype=np.float64).reshape(-1)


def _block(
    rng: np.random.Generator, volume: int, grid: tuple[int, ...], elongation: float
) -> Index:
    """Exactly ``volume`` tokens: a box at a random place, its last row cut where it is too big."""
    sides = _sides(rng, volume, grid, elongation)
    first = rng.integers(0, np.array(grid) - sides + 1)
    return _box(first, sides, grid)[:volume]


def _sides(
    rng: np.random.Generator, volume: int, grid: tuple[int, ...], elongation: float
) -> npt.NDArray[np.int64]:
    """Edges of a box of at least ``volume`` tokens whose wished edges differ at most so much."""
    log_edges = rng.uniform(-0.5, 0.5, len(grid)) * math.log(elongation)
    wished = volume ** (1 / len(grid)) * np.exp(log_edges - log_edges.mean())
    sides: Index = np.clip(np.rint(wished), 1, grid).astype(np.int64)
    while sides.prod() < volume:
        short = np.where(sides < grid, wished / sides, -1.0)
        sides[int(np.argmax(short))] += 1
    return sides


def _box(
    first: npt.NDArray[np.int64], sides: npt.NDArray[np.int64], grid: tuple[int, ...]
) -> Index:
    """Sorted raster ids of a box of tokens."""
    axes = [np.arange(a, a + n) for a, n in zip(first, sides, strict=True)]
    return np.ravel_multi_index(tuple(np.meshgrid(*axes, indexing="ij")), grid).reshape(-1)
