"""Say where a crop lies among base crops of its volume, by how much it overlaps with each (VoCo).

Organs lie in the same order in everybody. A block of base crops, side by side, is cut from a
record, and some random crops within it. The likeness of a random crop to each base crop has to be
the share of the crop that lies in that base crop; base crops have to differ from each other.

Algorithm:
    n x n base crops side by side in the plane (of the first slices of the block), c random crops
    z = head(encoder(base and random crops)); t = slow head on the same features, no gradient
    y[k] = share of the random crop's volume that lies in base crop k, from their places
    l[k] = max(cos(z of the random crop, t of base crop k), 0)
    loss = positive + negative + apart
    after the update: slow head <- m slow head + (1 - m) head

Loss:
    positive = sum_k y_k (-log(1 - |y_k - l_k|)) / sum_k y_k
    negative = mean over k with y_k = 0 of -log(1 - l_k)
    apart    = mean over pairs of base crops of one record of max(cos(z_i, z_j), 0)^2
    The first two are means over random crops, all are means over samples. 1e-6 is added inside the
    logarithms.

When to use:
    Volumes whose body position is comparable and which are much larger than the crop: a crop of a
    third of the record in the plane. Smaller records are padded, and base crops without tissue
    count nowhere: watch ``seen_tiles``. It needs no large batch.

Source:
    Wu et al. 2024, "VoCo: A Simple-yet-Effective Volume Contrastive Learning Framework for 3D
    Medical Image Analysis". The paper's equation and its code differ; this follows the code, in
    which overlapping base crops weigh with their share and the others have a mean of their own.
    As there, the teacher is an average of the head alone, on the student's features.
    Departures: base crops without tissue are left out; no dropout of features; no consistency
    across volumes, which takes base crops at one place of a block in two patients for the same
    anatomy (see alice for pairs of patients).
"""

from __future__ import annotations

import torch
from pydantic import Field, field_validator
from torch import Tensor

from medssl.core.config import Config as BaseConfig
from medssl.core.task import Batch, StepOutput
from medssl.core.taskmodule import TaskModule
from medssl.core.viewspec import Intensity, Setting, Spatial, View, ViewSpec
from medssl.encoders._base import Encoder
from medssl.objectives._parts.clips import refuse_clips
from medssl.objectives._parts.contrast import unit
from medssl.objectives._parts.heads import Norm, Projector
from medssl.objectives._parts.pair import spread, view_vectors
from medssl.objectives._parts.precision import no_autocast
from medssl.objectives._parts.teacher import Teacher
from medssl.objectives._parts.views import GENTLE, over_the_defaults

# B samples, T tiles (base crops), R random crops, V views, D width

_EPS = 1e-6
# Shares of volume are exact for crops on the grid of voxels.
_PLAIN = Spatial(flip=False)


class Config(BaseConfig):
    """Options of ``voco``."""

    tiles: int = Field(default=3, ge=2)
    """Base crops along each axis of the plane, n. Each has the size of the crop."""
    crops: int = Field(default=4, ge=1)
    """Random crops per sample, c."""
    intensity: Intensity = GENTLE
    """Grey values of all crops, each drawn anew."""
    hidden: int = Field(default=1024, ge=1)
    """Width of the head's hidden layers."""
    out: int = Field(default=1024, ge=2)
    """Width of the embedding."""
    norm: Norm = "batch"
    """Norm in the head: ``batch`` (over all devices), ``layer`` for batches of one sample."""
    momentum: float = Field(default=0.9, ge=0, le=1)
    """Of the slow head, m; it stays the same."""

    _partly = field_validator("intensity", mode="before")(over_the_defaults)


def overlap_shares(crop_BR34: Tensor, tile_BT34: Tensor, size: tuple[int, ...]) -> Tensor:
    """Share of each crop's volume in each tile (B, R, T); all have one size and lie on one grid.

    Args:
        crop_BR34: places of crops, as in :mod:`medssl.core.viewspec`.
        tile_BT34: places of tiles.
        size: voxels (D, H, W) of crops and tiles, D = 1 for pictures.

    Half a crop further along the last axis:

    >>> place = torch.eye(3, 4)[None, None].repeat(1, 3, 1, 1)
    >>> place[0, :, 2, 3] = torch.tensor([0.0, 8.0, 4.0])
    >>> overlap_shares(place[:, 2:], place[:, :2], (8, 8, 8)).tolist()
    [[[0.5, 0.5]]]
    """
    (low_BR1, high_BR1), (low_B1T, high_B1T) = (
        (low[:, :, None], high[:, :, None])
        for low, high in (_box(crop_BR34, size), _box(tile_BT34, size))
    )
    low_B1T, high_B1T = low_B1T.transpose(1, 2), high_B1T.transpose(1, 2)
    shared = torch.minimum(high_BR1, high_B1T) - torch.maximum(low_BR1, low_B1T)
    return (shared.clamp(min=0) / (high_BR1 - low_BR1)).prod(-1)


def _box(place_BV34: Tensor, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Corners (B, V, 3) of views, in voxels of the record."""
    last = place_BV34.new_tensor(size) - 0.5
    start = torch.full_like(last, -0.5)
    ends = [place_BV34[..., :3] @ corner + place_BV34[..., 3] for corner in (start, last)]
    return torch.minimum(*ends), torch.maximum(*ends)


def position_losses(
    cosine_BRT: Tensor, share_BRT: Tensor, seen_BT: Tensor
) -> tuple[Tensor, Tensor]:
    """``positive`` and ``negative`` of the module's docstring, means over crops and samples.

    Tiles that are not ``seen`` (no tissue) count nowhere; a crop that lies in none that is seen
    has a ``positive`` of 0, and one that lies in all of them a ``negative`` of 0.

    A crop inside the first tile that looks like both by half costs log 2 twice:

    >>> cosine, share = torch.tensor([[[0.5, 0.5]]]), torch.tensor([[[1.0, 0.0]]])
    >>> [round(v.item(), 4) for v in position_losses(cosine, share, torch.ones(1, 2) > 0)]
    [0.6931, 0.6931]
    """
    likeness = cosine_BRT.relu()
    share = share_BRT * seen_BT[:, None]
    gap = -torch.log(1 - (share - likeness).abs() + _EPS)
    positive_BR = (share * gap).sum(2) / share.sum(2).clamp(min=_EPS)
    apart = (share_BRT == 0) & seen_BT[:, None]
    negative_BR = (apart * gap).sum(2) / apart.sum(2).clamp(min=1)
    return positive_BR.mean(), negative_BR.mean()


def likeness_of_tiles(unit_BTD: Tensor, seen_BT: Tensor) -> Tensor:
    """Mean over pairs of seen tiles of max(cosine, 0)^2, mean over samples.

    >>> likeness_of_tiles(torch.eye(3)[None], torch.ones(1, 3) > 0).item()
    0.0
    """
    with no_autocast(unit_BTD):
        squared_BTT = (unit_BTD @ unit_BTD.transpose(1, 2)).relu().square()
    pairs_BTT = (seen_BT[:, None] & seen_BT[:, :, None]).triu(1)
    return ((squared_BTT * pairs_BTT).sum((1, 2)) / pairs_BTT.sum((1, 2)).clamp(min=1)).mean()


class Objective(TaskModule):
    """``voco`` wired to an encoder."""

    decoder = None

    def __init__(self, encoder: Encoder, config: Config, setting: Setting) -> None:
        super().__init__()
        refuse_clips("voco", encoder)
        encoder.check_size(setting.crop)
        self.encoder, self.config, self.crop = encoder, config, setting.crop
        self.grid = (*[1] * (len(setting.crop) - 2), config.tiles, config.tiles)
        self.head = Projector(encoder.width, config.hidden, config.out, layers=3, norm=config.norm)
        self.teacher = Teacher(self.head)

    def views(self) -> ViewSpec:
        """The base crops in raster order, then the random crops."""
        look = {"crop": self.crop, "spatial": _PLAIN, "intensity": self.config.intensity}
        tiles, crops = View(tiles=self.grid, **look), View(count=self.config.crops, **look)
        return ViewSpec(views=(tiles, crops), min_tissue=0.2)

    def step(self, batch: Batch) -> StepOutput:
        """The sum of :meth:`terms`."""
        terms, log = self._look(batch)
        return StepOutput(torch.stack(list(terms.values())).sum(), {**terms, **log})

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """The three terms of the loss."""
        return self._look(batch)[0]

    def _look(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        views, count = batch["views"], self.config.tiles**2
        features_VD = torch.cat(view_vectors(self.encoder, views))
        z_BVD = self._by_sample(unit(self.head(features_VD)), len(views))
        with torch.no_grad():
            tile_BTD = self._by_sample(unit(self.teacher(features_VD)), len(views))[:, :count]
        with no_autocast(z_BVD):
            cosine_BRT = z_BVD[:, count:] @ tile_BTD.transpose(1, 2)
        share_BRT = self._shares(batch).to(cosine_BRT.dtype)
        seen_BT = torch.stack([v["tissue"].flatten(1).any(1) for v in views[:count]], 1)
        positive, negative = position_losses(cosine_BRT, share_BRT, seen_BT)
        apart = likeness_of_tiles(z_BVD[:, :count], seen_BT)
        found = cosine_BRT.argmax(2) == share_BRT.argmax(2)
        log = {
            "embedding_std": spread(z_BVD[:, :count].flatten(0, 1)),
            "position_accuracy": found.to(cosine_BRT.dtype).mean(),
            "seen_tiles": seen_BT.to(cosine_BRT.dtype).mean(),
        }
        return {"positive": positive, "negative": negative, "apart": apart}, log

    def _shares(self, batch: Batch) -> Tensor:
        count = self.config.tiles**2
        place_BV34 = torch.stack([view["place"] for view in batch["views"]], 1)
        size = (*[1] * (3 - len(self.crop)), *self.crop)
        return overlap_shares(place_BV34[:, count:], place_BV34[:, :count], size)

    def _by_sample(self, rows_VD: Tensor, views: int) -> Tensor:
        """View by view -> (B, V, D)."""
        return rows_VD.view(views, -1, rows_VD.shape[1]).transpose(0, 1)

    def after_update(self, progress: float) -> None:  # noqa: ARG002
        """The slow head moves along."""
        self.teacher.follow(self.head, self.config.momentum)
