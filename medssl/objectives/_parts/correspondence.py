"""Which places of two views show the same point of a record, from their ``place`` in it.

B samples, N points; points are (d, h, w), d = 0 in views of two axes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl.objectives._parts.contrast import unit
from medssl.objectives._parts.precision import upcast

# Keys are below 2^31, so that products stay within 63 bits.
_LOW = 2**31 - 1


def cell_centres(grid: tuple[int, ...], size: tuple[int, ...], device: torch.device) -> Tensor:
    """Centres (N, 3) of the cells of a view, in its voxels, raster order.

    >>> cell_centres((2, 1), (4, 2), torch.device("cpu")).tolist()
    [[0.0, 0.5, 0.5], [0.0, 2.5, 0.5]]
    """
    axes = [
        (torch.arange(cells, dtype=torch.float64, device=device) + 0.5) * (side / cells) - 0.5
        for cells, side in zip(grid, size, strict=True)
    ]
    centres = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)
    return F.pad(centres, (3 - len(grid), 0))


def to_record(voxels_BN3: Tensor, place_B34: Tensor) -> Tensor:
    """Voxels of a view -> voxels of the stored record."""
    turned = voxels_BN3.to(place_B34) @ place_B34[:, :, :3].transpose(1, 2)
    return turned + place_B34[:, None, :, 3]


def to_view(record_BN3: Tensor, place_B34: Tensor) -> Tensor:
    """Voxels of the stored record -> voxels of a view: the inverse of :func:`to_record`."""
    shifted = record_BN3 - place_B34[:, None, :, 3]
    back_B33: Tensor = torch.linalg.inv(place_B34[:, :, :3])
    return shifted @ back_B33.transpose(1, 2)


def inside(voxels_BN3: Tensor, size: tuple[int, ...]) -> Tensor:
    """Which points lie within the view, from the centre of its first voxel to that of its last."""
    axes = voxels_BN3[..., 3 - len(size) :]
    last = axes.new_tensor(size) - 1
    return ((axes >= 0) & (axes <= last)).all(-1)


def vectors_at(map_BDX: Tensor, voxels_BN3: Tensor, size: tuple[int, ...]) -> Tensor:
    """Unit vectors (B, N, D) of a map at points of the view, between cells interpolated.

    >>> cells = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]).view(1, 2, 1, 2)  # two cells of 2 pixels
    >>> points = torch.tensor([[[0.0, 0.0, 0.5], [0.0, 0.0, 1.5]]])  # centre of one; between both
    >>> [[round(x, 4) for x in point] for point in vectors_at(cells, points, (1, 4))[0].tolist()]
    [[1.0, 0.0], [0.7071, 0.7071]]
    """
    axes = voxels_BN3[..., 3 - len(size) :]
    # grid_sample counts from -1 to 1 over the voxels' edges, the last axis first.
    places = ((2 * axes + 1) / axes.new_tensor(size) - 1).flip(-1)
    map_BDX = upcast(map_BDX)
    places = places.to(map_BDX).view(len(places), *(1,) * (len(size) - 1), -1, len(size))
    found = F.grid_sample(map_BDX, places, padding_mode="border", align_corners=False)
    return unit(found.flatten(2)).transpose(1, 2)


def sample_keys(places: list[Tensor], record_B: Tensor) -> Tensor:
    """A number (B,) below 2^31 for each sample, from its record and where its views lie.

    What is drawn from it does not depend on rank, order or device, and differs from step to step.
    """
    words = torch.cat([place.float().flatten(1).view(torch.int32) for place in places], 1)
    words = words.long() & 0xFFFFFFFF
    odd = 2 * torch.arange(words.shape[1], device=words.device) * 40_503 + 1
    return hashed((words * odd).sum(1) & _LOW, record_B.long() & _LOW)


def hashed(key: Tensor, number: Tensor | int) -> Tensor:
    """Mix two integers below 2^31 into one: even, and unlike for neighbouring numbers.

    The mixing steps are those of integer hashes by C. Wellons ("Hash Prospector"), on 31 bits.
    """
    x = (key * 0x2C1B3C6D + number) & _LOW
    for shift, factor in ((16, 0x7FEB352D), (15, 0x5E46CA6B), (16, 1)):
        x = ((x ^ (x >> shift)) * factor) & _LOW
    return x


def numbered(key_B: Tensor, count: int) -> Tensor:
    """Keys (B, count) of so many things of each sample."""
    return hashed(key_B[:, None], torch.arange(count, device=key_B.device))


def chosen(keys_BN: Tensor, allowed_BN: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices (B, K) of ``count`` allowed elements with the lowest keys, and which are allowed."""
    keys = keys_BN.masked_fill(~allowed_BN, _LOW + 1)
    index = keys.topk(min(count, keys.shape[1]), dim=1, largest=False).indices
    return index, allowed_BN.gather(1, index)
