"""The same anatomy in two patients, with hidden blocks (Alice).

Two crops show the same landmark in two patients; a dense embedding (``anatomy``) found it. A
student sees both with most blocks hidden, its slow teacher sees them whole. The student completes
what it sees with what its decoder makes of the rest, has to give each patient's crop the
assignment that the teacher gives to the other patient's, and each hidden token the teacher's
assignment at the same place; and it rebuilds the hidden voxels.

Algorithm:
    x_1, x_2 = crops about one landmark in two patients; pairs of low score are dropped
    for each v:  q = student encoder(x_v, hidden), k_S = student decoder(q), as tokens
                 k_T = teacher decoder(teacher encoder(x_v))
                 a_S = align(q, k_S);  a_T = align(q, k_T)        no gradient
    t = Sinkhorn(teacher head(a_T) / tau_T), for mean and tokens;  p = softmax(head(a_S) / tau_S)
    loss = class_weight * CE(t of a crop, p of the other patient's), kept pairs only
         + patch_weight * CE(t, p) at hidden tokens of the same crop, mean per sample first
         + reconstruction_weight * (y - x)^2 at hidden voxels of tissue
    after each step: teacher <- m teacher + (1 - m) student (encoder, decoder, head)

Loss:
    L = L_cls + L_patch + 10 L_rec
    L_cls = mean_{v, w != v} -sum_k t_v,k log p_w,k
    L_rec = sum((y - x)^2 m) / sum(m) per sample, m = hidden and tissue, mean over samples

When to use:
    Volumes of many patients in a similar pose, after ``anatomy`` on the same data. Without an
    embedding landmarks are matched by body coordinates, which is right only where all scans show
    the same part of the body. Watch ``kept_share``: where it is small, the embedding is not yet
    good, or ``threshold`` is too high. Batches of at least 2 samples, better 8.

Source:
    Jiang et al. 2023, "Anatomical Invariance Modeling and Semantic Alignment for Self-supervised
    Learning in 3D Medical Image Analysis" (Alice). Departures: the alignment is one module, used on
    both sides and trained by the student alone: it is no part of the moving average, so that equal
    tokens give equal features; it has no dropout. Only hidden voxels are rebuilt, only hidden
    tokens are compared (the published code averages over all). A dropped pair leaves the
    comparison of patients and is counted, in place of being used as it is. Each sample has a
    partner of its own, not the batch before it. Blocks in three dimensions are hidden, by exact
    count, rounded down (paper: columns, rounded up; ``mask_kind=column``). Any encoder with its
    own decoder in place of nnFormer; targets, temperatures and heads are those of dino here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from medssl.core.errors import ConfigError
from medssl.core.features import Features
from medssl.core.task import Batch, StepOutput
from medssl.core.viewspec import (
    Intensity,
    MaskKind,
    MaskSpec,
    PartnerSpec,
    Setting,
    Spatial,
    View,
    ViewSpec,
)
from medssl.encoders._base import Decoder, Encoder, pooled_tokens
from medssl.encoders._tokens import blocks_to_voxels, patchify
from medssl.objectives._parts.assigning import (
    Assigned,
    Assigning,
    AssignmentConfig,
    Compared,
    Heads,
)
from medssl.objectives._parts.casa import CrossAlignment
from medssl.objectives._parts.clips import refuse_clips
from medssl.objectives._parts.dino import cross_view_entropy, hidden_token_entropy
from medssl.objectives._parts.distributed import total, world
from medssl.objectives._parts.masks import check_masks
from medssl.objectives._parts.patches import masked_mse
from medssl.objectives._parts.prototypes import assignment_log
from medssl.objectives._parts.teacher import Teacher
from medssl.objectives._parts.views import GENTLE, over_the_defaults

# V views, B samples, N tokens, M hidden tokens of a batch, K prototypes, D width

VIEWS = 2


class Config(AssignmentConfig):
    """Options of ``alice``."""

    embedding: Path | None = None
    """Run of ``pretrain objective=anatomy`` that finds the landmarks; default: places are matched
    by body coordinates."""
    threshold: float = Field(default=0.7, ge=-1, le=1)
    """Smallest score of a pair that is kept."""
    tries: int = Field(default=5, ge=1)
    """Landmarks and partners tried for one sample; the best pair is taken."""
    spatial: Spatial = Spatial(rotate_deg=10.0, scale=(0.9, 1.1))
    """Rotation, zoom, bending, flips about the landmark."""
    intensity: Intensity = GENTLE
    """Grey values."""
    mask_ratio: float = Field(default=0.75, gt=0, lt=1)
    """Share of the student's tokens hidden."""
    mask_kind: MaskKind = "block"
    """Shape of what is hidden: boxes (``block``), columns through all slices (``column``), single
    tokens (``random``), or cubes of two tokens per edge (``blocks``)."""
    align_heads: int = Field(default=8, ge=1)
    """Heads of the alignment, 64 wide each."""
    shared_head: bool | None = True
    """One head for crops and tokens, or one each; None: one, both have one width."""
    class_weight: float = Field(default=1.0, ge=0)
    """Weight of the comparison of patients."""
    reconstruction_weight: float = Field(default=10.0, ge=0)
    """Weight of the rebuilt voxels."""

    _partly = field_validator("spatial", "intensity", mode="before")(over_the_defaults)


class Towers(nn.Module):
    """Encoder and decoder: what the teacher copies."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x: Tensor, mask_BN: Tensor | None, fill_D: Tensor | None) -> Glance:
        """Tokens of a batch of crops, hidden ones filled."""
        encoder, size = self.encoder, tuple(x.shape[2:])
        grid = encoder.grid(size)
        features = encoder(x) if mask_BN is None else encoder(x, mask_BN, fill_D)
        if mask_BN is not None:  # some decoders look at their input too
            x = x.masked_fill(blocks_to_voxels(mask_BN, grid, encoder.token_size), 0.0)
        fine = (m for m in self.decoder.maps(x, features) if _covers(m, grid))
        context_BND = pooled_tokens([next(fine)], grid)
        return Glance(x, features, encoder.tokens(features, size), context_BND)


class Glance(NamedTuple):
    """What a tower makes of a batch."""

    shown: Tensor
    features: Features
    tokens_BND: Tensor
    context_BND: Tensor
    """Of the decoder's first map that is as fine as the tokens, averaged over them."""


class Seen(NamedTuple):
    """What comes of one batch, crops of both patients in order."""

    assigned: Assigned
    student: Glance


class Objective(Assigning):
    """``alice`` wired to an encoder.

    Raises:
        ConfigError: the encoder takes no masks, or the crop is too small for them.
    """

    def __init__(self, encoder: Encoder, config: Config, setting: Setting) -> None:
        refuse_clips("alice", encoder)
        encoder.check_size(setting.crop)
        if encoder.mask_refusal:
            what = f"this encoder cannot hide tokens: {encoder.mask_refusal}"
            raise ConfigError(what, fix="another encoder, e.g. encoder=resenc-s")
        width = encoder.token_width
        super().__init__(config, Heads(width, width, config))
        self.encoder, self.config, self.crop = encoder, config, setting.crop
        check_masks(encoder, self.views().views[0])
        self.decoder = encoder.make_decoder(encoder.in_channels)
        towers = Towers(encoder, self.decoder)
        self.teacher = Teacher(towers)
        context = _context_width(self.teacher, encoder, setting.crop)
        self.align = CrossAlignment(width, context, config.align_heads)
        filled = encoder.returns_tokens
        self.mask_token = nn.Parameter(torch.zeros(width)) if filled else None

    def followed(self) -> Mapping[Teacher, nn.Module]:
        """The alignment is not among them."""
        return {**super().followed(), self.teacher: Towers(self.encoder, self.decoder)}

    def views(self) -> ViewSpec:
        """One masked crop about a landmark, and one of another patient."""
        c = self.config
        mask = MaskSpec(
            token_size=self.encoder.token_size,
            ratio=(c.mask_ratio, c.mask_ratio),
            kind=c.mask_kind,
        )
        view = View(crop=self.crop, spatial=c.spatial, intensity=c.intensity, mask=mask)
        partner = PartnerSpec(
            kind="anatomy", embedding=c.embedding, threshold=c.threshold, tries=c.tries
        )
        return ViewSpec(views=(view,), min_tissue=0.2, partner=partner)

    def step(self, batch: Batch) -> StepOutput:
        """Weighted sum of :meth:`terms`; notes the teacher's raw logits for the centres."""
        seen, partner = self._look(batch), batch["partner"]
        self.note(seen.assigned.raw)
        terms, c = self._terms(seen, batch), self.config
        weights = {"class": c.class_weight, "patch": c.patch_weight}
        weights["reconstruction"] = c.reconstruction_weight
        loss = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        counted = {"kept_share": partner["kept"], "score": partner["score"]}
        log = {name: value.to(loss.dtype).mean() for name, value in counted.items()}
        targets_VBK = seen.assigned.targets_VBK
        return StepOutput(loss, {**terms, **log, **assignment_log(targets_VBK.flatten(0, 1))})

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Each term of the loss, unweighted."""
        return self._terms(self._look(batch), batch)

    def _terms(self, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        found, tau = seen.assigned, self.config.student_temperature
        kept_B = batch["partner"]["kept"].bool()
        terms = {"class": kept_entropy(found.targets_VBK, found.logits_VBK, kept_B, tau)}
        if found.patches:
            terms["patch"] = hidden_token_entropy(*found.patches, tau)
        terms["reconstruction"] = self._reconstruction(seen.student, batch["views"])
        return terms

    def _look(self, batch: Batch) -> Seen:
        views = batch["views"]
        x, mask_BN = (torch.cat([view[name] for view in views]) for name in ("x", "mask"))
        if len(x) // VIEWS * world() < 2:
            what = "alice compares patients over a batch: one sample is too few"
            raise ConfigError(what, fix="batch_size of at least 2 per step of accumulation")
        student = Towers(self.encoder, self.decoder)(x, mask_BN, self.mask_token)
        own_BND = self.align(student.tokens_BND, student.context_BND)
        with torch.no_grad():
            context_BND = self.teacher(x, None, None).context_BND
            other_BND = self.align(student.tokens_BND, context_BND)
        hidden = Compared(own_BND, other_BND, mask_BN)
        return Seen(self.assign(own_BND.mean(1), other_BND.mean(1), hidden, VIEWS), student)

    def _reconstruction(self, student: Glance, views: list[Batch]) -> Tensor:
        x, mask_BN, tissue = (
            torch.cat([view[name] for view in views]) for name in ("x", "mask", "tissue")
        )
        size = self.encoder.token_size
        prediction = self.decoder(student.shown, student.features)
        counted = patchify(tissue, size) & mask_BN[:, :, None]
        return masked_mse(patchify(prediction, size), patchify(x, size), counted)


def kept_entropy(
    targets_VBK: Tensor, logits_VBK: Tensor, kept_B: Tensor, temperature: float
) -> Tensor:
    """Mean over the kept pairs, of all ranks, of CE between views of different patients.

    Without any it is 0. Uniform targets and logits cost log K, whatever was dropped:

    >>> same = torch.full((2, 3, 4), 0.25)
    >>> kept_entropy(same, same, torch.tensor([True, False, True]), 0.1)
    tensor(1.3863)
    """
    count = kept_B.sum()
    everywhere = total(count.to(torch.float32))
    if not count:
        return logits_VBK.sum() * 0.0
    share = count / everywhere * world()  # ranks' losses are averaged, whatever each has kept
    mean = cross_view_entropy(targets_VBK[:, kept_B], logits_VBK[:, kept_B], temperature)
    return mean * share.to(mean.dtype)


def _covers(map_BCX: Tensor, grid: tuple[int, ...]) -> bool:
    return all(s >= g for s, g in zip(map_BCX.shape[2:], grid, strict=True))


@torch.no_grad()
def _context_width(teacher: Teacher, encoder: Encoder, crop: tuple[int, ...]) -> int:
    device = next(encoder.parameters()).device
    empty = torch.zeros(1, encoder.in_channels, *crop, device=device)
    return int(teacher(empty, None, None).context_BND.shape[2])
