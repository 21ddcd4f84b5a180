"""An embedding in which the same point of anatomy is near in every patient, learnt from crops.

Every place of a volume gets two unit vectors: a fine one that tells it from its surroundings, and
a coarse one that says in which part of the body it lies. Two crops of one record overlap; where
both show a point, their vectors there have to be alike, and unlike those of places that could be
taken for it. Bodies are built alike, so places of two patients that match have vectors that match:
that is how ``alice`` finds its pairs, and how a landmark is carried from one scan to others.

Algorithm:
    a, b = two overlapping views, scaled, turned, noisy; F = fine, C = coarse vectors of their cells
    anchors: cells of tissue of a that b shows too                    places follow from geometry
    fine:   positive F_b at the matched place
            negatives of both views farther than ignore_mm, the most similar by F + C, some of them
    coarse: positive C_b at a random place within near_mm
            negatives of both views farther than near_mm, the most similar ones, and random places
            of other patients of the batch
    loss = InfoNCE of both, both ways

Loss:
    L = -log( exp(p / t) / (exp(p / t) + sum_k exp(n_k / t)) ), mean over the anchors of a view,
    then over views and samples; p, n = cosines with the positive and the negatives

When to use:
    Before ``alice``, and to look up landmarks. Volumes that show bodies in a similar pose, all of
    one resolution (``spacing_mm``; 2 mm in the paper). Convolutional encoders: a transformer has
    one vector per token, so take tokens of 4 voxels or fewer. Image encoders embed slices.

Source:
    Yan et al. 2022, "SAM: Self-supervised learning of pixel-wise anatomical embeddings in
    radiological images". Departures: any encoder with maps in place of an inflated ResNet-18; the
    positive of a cell is interpolated at the exact place, not the nearest voxel; 2048 random
    cells per view are searched for hard negatives, and 200 of the hardest 500 count (paper: 500 of
    2000 of all voxels), which suits crops of 32 to 64 voxels; contrast changes beside noise and
    blur; other records of the same patient are no negatives. What is drawn within a step follows
    from record and place of the views, so that it is the same on any number of devices.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from medssl.core.config import Config as BaseConfig
from medssl.core.task import Batch, StepOutput
from medssl.core.taskmodule import TaskModule
from medssl.core.viewspec import Setting, ViewSpec
from medssl.encoders._base import Encoder
from medssl.encoders._tokens import take_tokens
from medssl.objectives._parts.clips import refuse_clips
from medssl.objectives._parts.correspondence import chosen, hashed, numbered, sample_keys
from medssl.objectives._parts.dense import DenseEmbedding, Embedded, EmbeddingConfig
from medssl.objectives._parts.dense_contrast import (
    Matches,
    Negatives,
    Side,
    cosines,
    hard_negatives,
    look,
    match,
    place_nce,
)
from medssl.objectives._parts.distributed import gather
from medssl.objectives._parts.pair import spread
from medssl.objectives._parts.patches import mean_over
from medssl.objectives._parts.views import ExactViews, pair_of_views

# B samples, M cells of the pools, P anchors, E places shown to other samples, R of all samples,
# K negatives, D width


class Config(BaseConfig):
    """Options of ``anatomy``."""

    embedding: EmbeddingConfig = EmbeddingConfig()
    """The network on the encoder's maps."""
    views: ExactViews = ExactViews()
    """How the two views differ."""
    anchors: int = Field(default=100, ge=1)
    """Places per view whose match is looked for."""
    pool: int = Field(default=2048, ge=1)
    """Random cells per view among which negatives are searched."""
    hard: int = Field(default=500, ge=1)
    """Most similar places kept of them."""
    negatives: int = Field(default=200, ge=1)
    """Of which so many count, at random."""
    others: int = Field(default=32, ge=0)
    """Random places of every other patient of the batch, which the coarse vectors also have to
    tell from an anchor."""
    ignore_mm: float = Field(default=3.0, ge=0)
    """Places nearer than this are no negatives of the fine vectors."""
    near_mm: float = Field(default=15.0, ge=0)
    """Places nearer than this are one place to the coarse vectors; paper: 25 in a whole body."""
    temperature: float = Field(default=0.5, gt=0)
    """t."""


class Found(NamedTuple):
    """Losses (B, P) of the anchors of one view, and which of them are some."""

    matches: Matches
    fine_BP: Tensor
    coarse_BP: Tensor


class Objective(TaskModule):
    """``anatomy`` wired to an encoder with maps. ``embedding`` is kept beside the encoder."""

    decoder = None

    def __init__(self, encoder: Encoder, config: Config, setting: Setting) -> None:
        super().__init__()
        refuse_clips("anatomy", encoder)
        encoder.check_size(setting.crop)
        self.encoder, self.config = encoder, config
        self.embedding = DenseEmbedding(encoder, config.embedding, setting.crop)
        self._negatives = Negatives(config.hard, config.negatives)
        self._spec = pair_of_views(config.views, setting)

    def views(self) -> ViewSpec:
        """Two overlapping views."""
        return self._spec

    def step(self, batch: Batch) -> StepOutput:
        """Sum of both terms; logs them, the share of anchors found, and the spread of vectors."""
        found = self._compare(batch)
        terms = _terms(found)
        kept = torch.stack([f.matches.kept_BP for f in found])
        vectors = torch.stack([f.matches.fine.query_BPD for f in found])[kept]
        log = {
            **terms,
            "anchor_share": kept.to(vectors.dtype).mean(),
            "embedding_std": spread(vectors) if len(vectors) else vectors.new_zeros(()),
        }
        return StepOutput(terms["fine"] + terms["coarse"], log)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Both terms of the loss."""
        return _terms(self._compare(batch))

    def _compare(self, batch: Batch) -> list[Found]:
        views, config = batch["views"], self.config
        key_B = sample_keys([view["place"] for view in views], batch["record"])
        maps = self.embedding(self.encoder(torch.cat([view["x"] for view in views])))
        halves = zip(maps.fine.chunk(2), maps.coarse.chunk(2), strict=True)
        a, b = (
            look(view, Embedded(*half), batch["spacing_mm"], hashed(key_B, number), config.pool)
            for number, (view, half) in enumerate(zip(views, halves, strict=True))
        )
        others = self._others(a, batch["patient"], hashed(key_B, 2))
        return [
            self._find(*sides, hashed(key_B, 3 + n), others)
            for n, sides in enumerate([(a, b), (b, a)])
        ]

    def _others(self, side: Side, patient_B: Tensor, key_B: Tensor) -> tuple[Tensor, Tensor]:
        """Coarse vectors (R, D) of some places of all samples, and for whom they count (B, R)."""
        keys = numbered(key_B, side.tissue_BM.shape[1])
        index_BE, tissue_BE = chosen(keys, side.tissue_BM, self.config.others)
        rows_BED = gather(take_tokens(side.pool[1], index_BE))
        owner_BE = gather(patient_B[:, None].masked_fill(~tissue_BE, -1))
        counts_BR = (owner_BE.flatten() != patient_B[:, None]) & (owner_BE.flatten() >= 0)
        return rows_BED.flatten(0, 1), counts_BR

    def _find(
        self, source: Side, target: Side, key_B: Tensor, others: tuple[Tensor, Tensor]
    ) -> Found:
        matches = match(source, target, key_B, self.config.anchors)
        fine_BP = self._fine(matches, hashed(key_B, 1))
        return Found(matches, fine_BP, self._coarse(matches, hashed(key_B, 2), others))

    def _fine(self, found: Matches, key_B: Tensor) -> Tensor:
        far = found.apart_BPM > self.config.ignore_mm
        index, some = hard_negatives(found.likeness_BPM, far, key_B, self._negatives)
        negative_BPK = found.fine.pool_BPM.gather(2, index)
        return place_nce(found.fine.match_BP, negative_BPK, some, self.config.temperature)

    def _coarse(self, found: Matches, key_B: Tensor, others: tuple[Tensor, Tensor]) -> Tensor:
        rows_RD, counts_BR = others
        cosines_of = found.coarse
        near = found.apart_BPM <= self.config.near_mm
        index, some = hard_negatives(found.likeness_BPM, ~near, key_B, self._negatives)
        strange_BPR = cosines(cosines_of.query_BPD, rows_RD[None])
        return place_nce(
            nearby(found, near, hashed(key_B, 1)),
            torch.cat([cosines_of.pool_BPM.gather(2, index), strange_BPR], 2),
            torch.cat([some, counts_BR[:, None].expand_as(strange_BPR)], 2),
            self.config.temperature,
        )


def nearby(found: Matches, near_BPM: Tensor, key_B: Tensor) -> Tensor:
    """Coarse cosine (B, P) with a random cell of the other view that is near, or the match."""
    other = near_BPM.shape[2] // 2  # the second half of the pool is the other view's
    near, alike = near_BPM[:, :, other:], found.coarse.pool_BPM[:, :, other:]
    keys = numbered(key_B, near.shape[1] * near.shape[2]).view(near.shape)
    index, some = chosen(keys.flatten(0, 1), near.flatten(0, 1), 1)
    taken = alike.flatten(0, 1).gather(1, index)
    return torch.where(some, taken, found.coarse.match_BP.view(-1, 1)).view(near.shape[:2])


def _terms(found: list[Found]) -> dict[str, Tensor]:
    """Means over anchors, then samples, then directions."""
    fine = [mean_over(f.fine_BP, f.matches.kept_BP) for f in found]
    coarse = [mean_over(f.coarse_BP, f.matches.kept_BP) for f in found]
    return {"fine": torch.stack(fine).mean(), "coarse": torch.stack(coarse).mean()}
