"""Continual pretraining of a transformer through small adapters: crops, tokens, regions (GLARE).

A network that was pretrained elsewhere gets a bottleneck behind every block, and only these learn.
A student sees two crops of a scan, some tokens of which have changed grey values or are blurred;
its slow teacher sees the crops as they are. The student has to give each crop the teacher's
assignment of the *other* crop, each changed token the teacher's of the same token, and each region
the teacher's features of the same piece of the body in the other crop.

Algorithm:
    a, b = two overlapping crops;  a', b' = the same with changed tokens
    global:   p = softmax(head(student(a')) / tau_S), t = Sinkhorn(teacher head(teacher(b)) / tau_T)
    local:    the same for each changed token of a' and the token of a at its place
    regional: regions = blocks of tokens of a, of tissue, where b shows the same points
              r = mean of unit tokens of student(a') over the region
              q = mean of unit tokens of teacher(b), interpolated at the same points
    loss = CE(t, p) + patch_weight * CE of tokens + region_weight * |r / |r| - q / |q||^2
    all of it both ways; after each step: teacher <- m teacher + (1 - m) student

Loss:
    L = -sum_k t_k log p_k
      - w_p / B sum_b 1/|m_b| sum_{i in m_b} sum_k t_ik log p_ik
      + w_r / B sum_b 1/R_b sum_r |r_br - q_br|^2, vectors of length 1

When to use:
    A pretrained transformer, and some hundred to some thousand scans of your own: give
    ``init=RUN`` and ``encoder.adapter=8``, or ``encoder.weights`` with public weights. The rest of
    the encoder stays as it is, bit for bit, and so does what it knew. Without adapters all weights
    learn: then start from a run too, at a small rate. From random weights, take dino or ibot.

Source:
    Ebouky et al. 2025, "Enhancing Semantic Segmentation with Continual Self-Supervised
    Pre-training" (GLARE). Departures: a region is followed to the other crop by the geometry of the
    crops, exactly, in place of cross-attention between both; so nothing bends. Regions are all
    blocks of tokens that hold tissue and that both crops show, in place of samples that are drawn
    by attention: in scans, tissue is known. Features of regions are compared by distance, which is
    0 where both are equal; the balanced assignments of crops and tokens keep features from becoming
    all the same. Adapters are bottlenecks with a scaled residual (``encoders/_adapter.py``);
    targets, temperatures and heads are those of dino here. Convolutional encoders work too, and
    have no adapters.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medssl.core.config import Config as BaseConfig
from medssl.core.task import Batch, StepOutput
from medssl.core.viewspec import Setting, ViewSpec
from medssl.encoders._base import Encoder
from medssl.encoders._tokens import blocks_to_voxels
from medssl.objectives._parts.assigning import (
    Assigned,
    Assigning,
    AssignmentConfig,
    Compared,
    Heads,
)
from medssl.objectives._parts.clips import refuse_clips
from medssl.objectives._parts.contrast import unit
from medssl.objectives._parts.correspondence import (
    cell_centres,
    chosen,
    hashed,
    inside,
    numbered,
    sample_keys,
    to_record,
    to_view,
    vectors_at,
)
from medssl.objectives._parts.dense_contrast import mostly_tissue
from medssl.objectives._parts.dino import cross_view_entropy, hidden_token_entropy
from medssl.objectives._parts.prototypes import assignment_log
from medssl.objectives._parts.regions import Regions, pooled, raster, regions_of
from medssl.objectives._parts.teacher import Teacher
from medssl.objectives._parts.views import ExactViews, pair_of_views

# V views, B samples, N tokens, M changed tokens or regions of a batch, K prototypes, D width

VIEWS = 2
_BLUR = 5  # voxels along each axis
_KEYS = 2.0**31


class PatchChanges(BaseConfig):
    """What happens to single tokens of the student's crops."""

    share: float = Field(default=0.5, ge=0, le=1)
    """Of tokens, so many of which change; tokens of air do not."""
    strength: float = Field(default=0.5, ge=0)
    """Largest change of contrast (relative) and brightness (standard deviations of the crop)."""
    blurred: float = Field(default=0.5, ge=0, le=1)
    """Share of the changed tokens that are blurred too, by a mean over 5 voxels along each axis."""


class Config(AssignmentConfig):
    """Options of ``glare``."""

    views: ExactViews = ExactViews()
    """How the two crops differ."""
    changes: PatchChanges = PatchChanges()
    """How tokens differ between student and teacher."""
    patch_weight: float = Field(default=1.0, ge=0)
    """Weight of the loss on changed tokens; 0 = off."""
    region: int = Field(default=2, ge=1)
    """Tokens per edge of a region."""
    region_weight: float = Field(default=1.0, ge=0)
    """Weight of the distance between regions."""


class Seen(NamedTuple):
    """What comes of one batch, crop by crop."""

    assigned: Assigned
    student: list[Tensor]
    """Tokens (B, N, D) of each crop."""
    teacher: list[Tensor]


class Objective(Assigning):
    """``glare`` wired to an encoder."""

    decoder = None

    def __init__(self, encoder: Encoder, config: Config, setting: Setting) -> None:
        refuse_clips("glare", encoder)
        encoder.check_size(setting.crop)
        super().__init__(config, Heads(encoder.width, encoder.token_width, config))
        self.encoder, self.config = encoder, config
        self.grid = encoder.grid(setting.crop)
        self.teacher = Teacher(encoder)
        self._spec = pair_of_views(config.views, setting)
        weights = list(encoder.parameters())
        learning = sum(p.numel() for p in weights if p.requires_grad)
        self._learning_share = learning / sum(p.numel() for p in weights)

    def followed(self) -> Mapping[Teacher, nn.Module]:
        """Weights that do not learn are the same in both: the average covers adapters alone."""
        return {**super().followed(), self.teacher: self.encoder}

    def views(self) -> ViewSpec:
        """Two overlapping crops."""
        return self._spec

    def step(self, batch: Batch) -> StepOutput:
        """Weighted sum of :meth:`terms`; notes the teacher's raw logits for the centres."""
        seen = self._look(batch)
        self.note(seen.assigned.raw)
        terms = self._terms(seen, batch)
        weights = {"global": 1.0, "patch": self.config.patch_weight}
        weights["region"] = self.config.region_weight
        loss = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        targets_VBK = seen.assigned.targets_VBK
        log = {**terms, "learning_share": loss.new_tensor(self._learning_share)}
        return StepOutput(loss, {**log, **assignment_log(targets_VBK.flatten(0, 1))})

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Each term of the loss, unweighted."""
        return self._terms(self._look(batch), batch)

    def _terms(self, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        found, tau = seen.assigned, self.config.student_temperature
        terms = {"global": cross_view_entropy(found.targets_VBK, found.logits_VBK, tau)}
        if found.patches:
            terms["patch"] = hidden_token_entropy(*found.patches, tau)
        a, b = batch["views"]
        ways = ((a, b, seen.student[0], seen.teacher[1]), (b, a, seen.student[1], seen.teacher[0]))
        terms["region"] = torch.stack([self._regional(*way) for way in ways]).mean()
        return terms

    def _look(self, batch: Batch) -> Seen:
        views = batch["views"]
        x, tissue = (torch.cat([view[name] for view in views]) for name in ("x", "tissue"))
        size = tuple(x.shape[2:])
        key_B = sample_keys([view["place"] for view in views], batch["record"])
        keys = torch.cat([hashed(key_B, number) for number in range(VIEWS)])
        changed, mask_BN = change_tokens(
            x, mostly_tissue(tissue, self.grid), keys, self.grid, self.config.changes
        )
        features, given = self.encoder(changed), self.teacher(x)
        own_BND, other_BND = (self.encoder.tokens(f, size) for f in (features, given))
        compared = Compared(own_BND, other_BND, mask_BN)
        tokens = [list(found.chunk(VIEWS)) for found in (own_BND, other_BND)]
        return Seen(self.assign(features.global_BD, given.global_BD, compared, VIEWS), *tokens)

    def _regional(self, source: Batch, target: Batch, own: Tensor, other: Tensor) -> Tensor:
        """Distance of the student's regions in one crop to the teacher's in the other."""
        size = tuple(source["x"].shape[2:])
        cells_N3 = cell_centres(self.grid, size, own.device).expand(len(own), -1, -1)
        there_BN3 = to_view(to_record(cells_N3, source["place"]), target["place"])
        both = inside(there_BN3, size) & mostly_tissue(source["tissue"], self.grid)
        regions = regions_of(blocks_of(self.grid, self.config.region).to(own.device) * both)
        own_BDN, other_BDN = (tokens.transpose(1, 2).contiguous() for tokens in (own, other))
        map_BDX = other_BDN.view(len(other), -1, *self.grid)
        vectors = unit(own_BDN).transpose(1, 2), vectors_at(map_BDX, there_BN3, size)
        return region_distance(*vectors, regions)


def change_tokens(
    x: Tensor, tissue_BN: Tensor, key_B: Tensor, grid: tuple[int, ...], changes: PatchChanges
) -> tuple[Tensor, Tensor]:
    """Crops with other contrast, brightness and sharpness in some tokens, and which ones (B, N).

    What is drawn follows from the keys alone.
    """
    count, size = prod(grid), tuple(s // g for s, g in zip(x.shape[2:], grid, strict=True))
    draws = [numbered(hashed(key_B, number), count) for number in range(4)]
    index, allowed = chosen(draws[0], tissue_BN, round(changes.share * count))
    mask_BN = torch.zeros_like(tissue_BN).scatter(1, index, allowed)
    contrast, shift, blur = (
        blocks_to_voxels((draw / _KEYS).to(x.dtype), grid, size) for draw in draws[1:]
    )
    axes = tuple(range(2, x.ndim))
    mean, spread = x.mean(axes, keepdim=True), x.std(axes, keepdim=True)
    y = torch.where(blur < changes.blurred, _blurred(x), x)
    y = mean + (y - mean) * (1 + changes.strength * (2 * contrast - 1))
    y = y + changes.strength * (2 * shift - 1) * spread
    return torch.where(blocks_to_voxels(mask_BN, grid, size), y, x), mask_BN


def _blurred(x: Tensor) -> Tensor:
    pool = F.avg_pool3d if x.ndim == 5 else F.avg_pool2d
    return pool(x, _BLUR, stride=1, padding=_BLUR // 2, count_include_pad=False)


def blocks_of(grid: tuple[int, ...], edge: int) -> Tensor:
    """Number (N,), from 1, of the block of ``edge`` tokens per axis that each token lies in.

    >>> blocks_of((2, 5), 2).tolist()
    [1, 1, 2, 2, 3, 1, 1, 2, 2, 3]
    """
    axes = [torch.arange(side) // edge for side in grid]
    return raster(axes, tuple(-(-side // edge) for side in grid)) + 1


def region_distance(student_BND: Tensor, teacher_BND: Tensor, regions: Regions) -> Tensor:
    """|r - q|^2 of unit mean vectors: mean over the regions of a sample, then over samples.

    A sample without regions adds 0. Equal vectors have distance 0, orthogonal ones 2:

    >>> regions = regions_of(torch.tensor([[1, 1, 2], [0, 0, 0]]))
    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).expand(2, 3, 2)
    >>> y = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]).expand(2, 3, 2)
    >>> [region_distance(x, other, regions).item() for other in (x, y)]  # y: (0 + 2) / 2, then / 2
    [0.0, 0.5]
    """
    samples = len(student_BND)
    cells = torch.arange(regions.row_BV.numel(), device=regions.row_BV.device)
    cells = cells.view_as(regions.row_BV)
    own_MD, other_MD = (
        unit(pooled(vectors.flatten(0, 1), cells, regions))
        for vectors in (student_BND, teacher_BND)
    )
    apart_M = (own_MD - other_MD).square().sum(1)
    count_B = regions.sample_M.bincount(minlength=samples)
    return (apart_M / count_B[regions.sample_M]).sum() / samples
