"""A frozen image encoder as teacher, and what it says of every voxel of a volume.

B samples, S slices, N tokens of a slice, V voxels of a crop, C channels, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medssl.core.config import Component
from medssl.core.errors import ConfigError, UsageError
from medssl.core.preprocess import Contract
from medssl.encoders._base import Encoder, build_encoder
from medssl.encoders.card import build_from_card, load_card, part_of
from medssl.objectives._parts.regions import raster

# Steps that a slice may be padded by, to fit the teacher.
_LARGER = 8
_RUN = "objective.teacher=RUN, the folder of a pretraining of an image encoder"


class Frozen(nn.Module):
    """An encoder that stays as it is: evaluation mode, no gradient.

    Its weights are part of checkpoints, so that a run goes on with the teacher it began with, even
    if another run was written into that folder; they are no part of the model that is kept.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x_SCHW: Tensor) -> Tensor:
        """Tokens (S, N, D) of pictures."""
        return self.encoder.tokens(self.encoder(x_SCHW), tuple(x_SCHW.shape[2:]))


class Dense(NamedTuple):
    """Features of slices: of the cells of all samples, and the cell of each voxel."""

    cells_ND: Tensor
    cell_BV: Tensor


class SliceTeacher(nn.Module):
    """Features of all voxels of volumes from slices of one plane after the other.

    Pixels are square, and as large as those that the teacher was trained on where its run resampled
    to a spacing; else the finer edge of a slice's voxels is a pixel. What the teacher's sizes ask
    for is padded with the values at the edge. A grey volume is copied to the teacher's channels.

    Args:
        teacher: run of an image encoder, or a network of a library with its public weights.
        in_channels: of the volumes.
        every: one slice in so many is seen; voxels between take the nearest one.
        zoom: pixels per pixel that the teacher was trained on.

    Raises:
        ConfigError: there is no such teacher, or it cannot see these volumes.
    """

    def __init__(
        self, teacher: Component | None, in_channels: int, *, every: int, zoom: float
    ) -> None:
        super().__init__()
        encoder, self.pixel_mm = _load(teacher)
        if len(encoder.token_size) != 2:
            raise ConfigError("the teacher is no image encoder: it sees no slices", fix=_RUN)
        if in_channels not in (1, encoder.in_channels):
            what = f"volumes of {in_channels} channels, the teacher takes {encoder.in_channels}"
            raise ConfigError(what, fix="a teacher with the channels of the volumes")
        self.net = Frozen(encoder)
        self.width = encoder.token_width
        self.every, self.zoom = every, zoom

    def forward(self, x_BCDHW: Tensor, spacing_mm_B3: Tensor, axis: int) -> Dense:
        """Features of the slices across an axis of the crops (0, 1, 2)."""
        cells, index, first = [], [], 0
        for x_CDHW, spacing_mm in zip(x_BCDHW, spacing_mm_B3.tolist(), strict=True):
            first_slice = min(self.every // 2, x_CDHW.shape[1 + axis] - 1)
            x_SCHW = x_CDHW.moveaxis(1 + axis, 0)[first_slice :: self.every]
            plane_mm = [mm for a, mm in enumerate(spacing_mm) if a != axis]
            tokens_SND, sides = self._seen(x_SCHW, plane_mm)
            cell_V = self._cells(tuple(x_CDHW.shape[1:]), axis, len(x_SCHW), sides)
            cells.append(tokens_SND.flatten(0, 1))
            index.append(cell_V.to(x_CDHW.device) + first)
            first += len(cells[-1])
        return Dense(torch.cat(cells), torch.stack(index))

    def _seen(self, x_SCHW: Tensor, plane_mm: list[float]) -> tuple[Tensor, Sides]:
        encoder = self.net.encoder
        pixel_mm = (self.pixel_mm or min(plane_mm)) / self.zoom
        size = tuple(
            max(round(n * mm / pixel_mm), 1)
            for n, mm in zip(x_SCHW.shape[2:], plane_mm, strict=True)
        )
        x = x_SCHW.expand(-1, encoder.in_channels, -1, -1)
        if size != tuple(x.shape[2:]):
            x = F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)
        padded = fitting(encoder, size)
        h, w = (p - s for p, s in zip(padded, size, strict=True))
        x = F.pad(x, (0, w, 0, h), mode="replicate")
        return self.net(x), Sides(size, padded, encoder.grid(padded))

    def _cells(self, shape: tuple[int, ...], axis: int, slices: int, sides: Sides) -> Tensor:
        """Cell (V,) of each voxel of a crop, raster order, among slices x token grid."""
        number = (torch.arange(shape[axis]) // self.every).clamp(max=slices - 1)
        plane = [n for a, n in enumerate(shape) if a != axis]
        rows, columns = (
            ((torch.arange(n, dtype=torch.float64) + 0.5) * s / n * g / p).long()
            for n, s, p, g in zip(plane, sides.size, sides.padded, sides.grid, strict=True)
        )
        index = raster([number, rows, columns], (slices, *sides.grid))
        return index.view(shape[axis], *plane).moveaxis(0, axis).flatten()


class Sides(NamedTuple):
    """Pixels of a slice, padded to what the teacher takes, and the token grid of that."""

    size: tuple[int, ...]
    padded: tuple[int, ...]
    grid: tuple[int, ...]


def fitting(encoder: Encoder, size: tuple[int, ...]) -> tuple[int, ...]:
    """The smallest size that the encoder takes and that holds ``size``.

    Raises:
        ConfigError: there is none, as for networks that are built for one size.
    """
    multiple = encoder.size_multiple
    for more in range(_LARGER):
        padded = tuple((-(-s // m) + more) * m for s, m in zip(size, multiple, strict=True))
        try:
            encoder.check_size(padded)
        except ConfigError:
            continue
        return padded
    what = f"the teacher takes no slices of {list(size)} pixels"
    raise ConfigError(what, fix="another teacher, or a smaller crop")


def _load(teacher: Component | None) -> tuple[Encoder, float | None]:
    """The encoder, and the edge of the pixels it was trained on; ``None`` = any."""
    if teacher is None:
        raise ConfigError("no teacher is given: its features are what is learnt", fix=_RUN)
    if Path(teacher.name).is_dir():
        return _from_run(teacher)
    if "/" not in teacher.name or teacher.name.startswith((".", "/")):
        raise ConfigError("the teacher is no folder of a run", where=teacher.name, fix=_RUN)
    if not teacher.options.get("weights"):
        what = "a teacher with random weights teaches nothing"
        raise ConfigError(what, fix="objective.teacher.weights=FILE, or 'timm' to download them")
    options: dict[str, Any] = teacher.options
    return build_encoder(teacher.name, options, 3), None


def _from_run(teacher: Component) -> tuple[Encoder, float | None]:
    if teacher.options:
        what = f"the teacher's run says all of it; it takes no {', '.join(teacher.options)}"
        raise ConfigError(what, fix="leave the options out")
    try:
        card, weights = load_card(Path(teacher.name))
    except UsageError as error:
        raise ConfigError(f"the teacher: {error.what}", where=error.where, fix=_RUN) from None
    if card.contract.rules != Contract().rules:
        what = "the teacher was trained on grey values of other rules than this version's"
        raise ConfigError(what, fix="pretrain the teacher again")
    encoder = build_from_card(card)
    encoder.load_state_dict(part_of(weights, "encoder"), strict=True)
    spacing_mm = card.contract.spacing_mm
    return encoder, None if spacing_mm is None else min(spacing_mm)
