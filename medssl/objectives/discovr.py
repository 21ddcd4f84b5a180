"""Masked self-distillation of clips and of their frames, joined by clusters of tokens (DISCOVR).

Two branches learn together, without augmentation beyond a zoom: hiding is what makes views differ.
The video branch sees a few tubes of a clip and has to give the assignment to prototypes that its
slow teacher gives to the whole clip. The image branch does the same with single frames. Frames
are where texture and small structures are learnt, so a third term hands them to the video branch:
a decoder fills in the clip's tokens, and each has to give the cluster that the image teacher's
token at the same place and time has.

Algorithm:
    m_v = tube masks, v = 1 .. masks
    t = teacher(clip), s_v = student(clip, m_v)                          video branch
    t', s'_v = the same for every frame                                  image branch
    loss = CE(targets of t, s_v) + CE(targets of t', s'_v), mean over v
    y = decoder(tokens of student(clip, m_1))                            raster order
    k = tokens of t', averaged over the frames of each tubelet, standardised over the clip's tokens
    q = Sinkhorn(k . prototypes / epsilon) over all tokens of the batch    no gradient
    loss += cluster_weight * CE(q, softmax(y . prototypes / tau_S)), tokens of tissue
    after each step: teachers <- m teacher + (1 - m) student; prototypes back to length 1

Loss:
    L = -mean_v sum_k t_k log s_v,k  -mean_v sum_k t'_k log s'_v,k
        - cluster_weight mean_i sum_k q_i,k log p_i,k

When to use:
    Ultrasound clips, of which no augmentation is safe, for features that are used frozen. Needs
    the transformer ``video_vit``; a step costs about five of videomae. Watch ``teacher_entropy``
    and ``mean_entropy`` in the log: both near 0 is collapse.

Source:
    Mishra et al. 2025, "Self-supervised Learning of Echocardiographic Video Representations via
    Online Cluster Distillation" (DISCOVR); Caron et al. 2020 (Sinkhorn), 2021. Departures: the
    tokens of both sides are in raster order, and frames are averaged per tubelet before that (the
    public code compares visible-first with raster order, and drops every other patch); centres
    come from raw logits and schedules are applied; the mirrored cluster term, whose two sides are
    both held fixed there, is left out; targets are Sinkhorn's by default, and those of clusters
    soft; frames share the masks of their clip; the first masked view is also the one that is
    decoded; the global vector is the mean of tokens in place of a class token; positions are
    separable; tokens without tissue count nothing; 512 clusters and 1024 prototypes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from medssl.core.errors import ConfigError
from medssl.core.features import Features
from medssl.core.task import Batch, StepOutput
from medssl.core.viewspec import Factor, MaskSpec, Setting, Spatial, View, ViewSpec
from medssl.encoders._base import Encoder
from medssl.encoders._tokens import patchify
from medssl.encoders.video_vit import VideoViT
from medssl.objectives._parts.assigning import Following, TargetConfig, targets_of
from medssl.objectives._parts.clips import refuse_all_but_clips
from medssl.objectives._parts.dino import (
    DinoHead,
    Targets,
    all_views_entropy,
    hidden_token_entropy,
)
from medssl.objectives._parts.masks import check_masks
from medssl.objectives._parts.prototypes import Prototypes, assignment_log
from medssl.objectives._parts.sinkhorn import sinkhorn
from medssl.objectives._parts.teacher import Teacher
from medssl.objectives._parts.trunk import TokenDecoder
from medssl.objectives._parts.tubelets import (
    as_frames,
    in_each_frame,
    per_tubelet,
    standardise_over_tokens,
    visible_first,
)

# B clips, T frames, V masked views, N tokens, M tokens of tissue of a batch, K prototypes, D width


class Config(TargetConfig):
    """Options of ``discovr``."""

    mask_ratio: float = Field(default=0.9, gt=0, lt=1)
    """Share of tokens hidden, the same in every frame."""
    masks: int = Field(default=4, ge=1)
    """Masked views of each clip, and of each of its frames."""
    zoom: Factor = (1.0, 1.5)
    """Of the clip; 1.5 shows two thirds of its sides."""
    image_branch: bool = True
    """Learn from single frames too. Without it, clusters are those of the video teacher's own
    tokens."""
    cluster_weight: float = Field(default=1.0, ge=0)
    """Weight of the clusters of tokens; 0 = off."""
    clusters: int = Field(default=512, ge=1)
    """Clusters of tokens; below the tokens of a batch. 3000 in the paper, for 25,000 tokens."""
    cluster_targets: Literal["soft", "hard"] = "soft"
    """``hard``: the likeliest cluster alone, as in the paper; that gives up the balance."""
    epsilon: float = Field(default=0.05, gt=0)
    """Temperature of the balanced clusters."""
    iterations: int = Field(default=10, ge=1)
    """Of Sinkhorn, for clusters."""
    decoder_depth: int = Field(default=4, ge=1)
    """Blocks of the decoder of tokens."""
    misaligned: bool = False
    """Compare decoded tokens, visible ones first, with the teacher's in raster order: different
    places, as in the public code. For ablations only."""


class Assigned(NamedTuple):
    """One target per sample, and the logits of each of its masked views."""

    targets_BK: Tensor
    logits_VBK: Tensor
    raw: tuple[Targets, Tensor]


class Branch(nn.Module):
    """Head of a student, its slow copy, and what keeps the teacher from collapse."""

    def __init__(self, width: int, config: TargetConfig) -> None:
        super().__init__()
        sizes = (config.hidden, config.bottleneck, config.prototypes)
        self.head = DinoHead(width, *sizes, norm=config.norm)
        self.teacher_head = Teacher(self.head)
        self.targets = targets_of(config)

    def assign(self, student: Tensor, teacher_BD: Tensor, temperature: float) -> Assigned:
        """Vectors (V * B, D) of masked views, and those (B, D) of the teacher."""
        with torch.no_grad():
            raw = self.teacher_head(teacher_BD)
            targets: Tensor = self.targets(raw, temperature)
        logits = self.head(student).view(-1, *targets.shape)
        return Assigned(targets, logits, (self.targets, raw))


class Objective(Following):
    """``discovr`` wired to ``video_vit``.

    Raises:
        ConfigError: another encoder, or a crop too small for the masks.
    """

    decoder: nn.Module | None = None

    def __init__(self, encoder: Encoder, config: Config, setting: Setting) -> None:
        refuse_all_but_clips("discovr", encoder)
        if not isinstance(encoder, VideoViT):
            what = "discovr needs a transformer on tubelets that leaves hidden tokens out"
            raise ConfigError(what, fix="encoder=video_vit-s")
        encoder.check_size(setting.crop)
        super().__init__(config)
        self.encoder, self.config, self.setting = encoder, config, setting
        check_masks(encoder, self.views().views[0])
        self.teacher = Teacher(encoder)
        self.video = Branch(encoder.width, config)
        self.image_encoder = encoder.per_frame() if config.image_branch else None
        if self.image_encoder is not None:
            self.image_teacher = Teacher(self.image_encoder)
            self.image = Branch(encoder.width, config)
        if config.cluster_weight:
            width = encoder.token_width
            self.token_decoder = TokenDecoder(encoder, config.decoder_depth, width)
            self.cluster_prototypes = Prototypes(width, config.clusters)

    def followed(self) -> Mapping[Teacher, nn.Module]:
        pairs = {self.teacher: self.encoder, self.video.teacher_head: self.video.head}
        if self.image_encoder is not None:
            pairs |= {self.image_teacher: self.image_encoder}
            pairs |= {self.image.teacher_head: self.image.head}
        return pairs

    def views(self) -> ViewSpec:
        """One clip, with several masks."""
        c = self.config
        mask = MaskSpec(
            token_size=self.encoder.token_size, ratio=(c.mask_ratio, c.mask_ratio), kind="tube"
        )
        first = View(crop=self.setting.crop, spatial=Spatial(scale=c.zoom), mask=mask)
        others = first.model_copy(update={"twin": True, "count": c.masks - 1})
        views = (first, others) if c.masks > 1 else (first,)
        return ViewSpec(views=views, min_tissue=0.2, clip=self.setting.frames)

    def step(self, batch: Batch) -> StepOutput:
        """Weighted sum of :meth:`terms`; notes the teachers' raw logits for the centres."""
        terms, raw, targets = self._look(batch)
        self.note(raw)
        weights = {"cluster": self.config.cluster_weight}
        loss = torch.stack([weights.get(k, 1.0) * value for k, value in terms.items()]).sum()
        return StepOutput(loss, {**terms, **assignment_log(targets)})

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Each term of the loss, unweighted."""
        return self._look(batch)[0]

    def after_update(self, progress: float) -> None:
        """Also prototypes of clusters, back to length 1."""
        super().after_update(progress)
        if self.config.cluster_weight:
            self.cluster_prototypes.renormalise()

    def _look(self, batch: Batch) -> tuple[dict[str, Tensor], list[tuple[Targets, Tensor]], Tensor]:
        """Terms, raw teacher logits, and the video teacher's assignments."""
        first, tau = batch["views"][0], self.config.student_temperature
        masks = torch.cat([view["mask"] for view in batch["views"]])
        seen = self.encoder(torch.cat([view["x"] for view in batch["views"]]), masks)
        whole = self.teacher(first["x"])
        video = self.video.assign(seen.global_BD, whole.global_BD, self.temperature())
        terms = {"video": all_views_entropy(video.targets_BK, video.logits_VBK, tau)}
        raw, tokens_BND = [video.raw], whole.tokens_BND
        if self.image_encoder is not None:
            image, tokens_BND = self._frames(first["x"], masks)
            terms["image"] = all_views_entropy(image.targets_BK, image.logits_VBK, tau)
            raw.append(image.raw)
        if self.config.cluster_weight:
            wanted, logits, counted_BN = self.clusters(first, seen, tokens_BND)
            terms["cluster"] = hidden_token_entropy(wanted, logits, counted_BN, tau)
        return terms, raw, video.targets_BK

    def _frames(self, x: Tensor, masks: Tensor) -> tuple[Assigned, Tensor]:
        """The image branch's assignments, and its teacher's tokens at the places of tubelets."""
        assert self.image_encoder is not None
        steps, frames = self.encoder.grid(tuple(x.shape[2:]))[0], x.shape[2]
        pictures = as_frames(x)
        whole = self.image_teacher(pictures)
        count = len(masks) // len(x)
        hidden = in_each_frame(masks, steps, frames)
        seen = self.image_encoder(pictures.repeat(count, 1, 1, 1, 1), hidden)
        image = self.image.assign(seen.global_BD, whole.global_BD, self.temperature())
        return image, per_tubelet(whole.tokens_BND, len(x), frames // steps)

    def clusters(
        self, view: Mapping[str, Tensor], seen: Features, tokens_BND: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Clusters (M, K) of the teacher's tokens, the student's logits, and which (B, N) count."""
        x, mask, c = view["x"], view["mask"], self.config
        assert seen.tokens_BND is not None
        grid = self.encoder.grid(tuple(x.shape[2:]))
        decoded = self.token_decoder(seen.tokens_BND[: len(x)], mask, grid)
        if c.misaligned:
            decoded = visible_first(decoded, mask)
        counted = patchify(view["tissue"], self.encoder.token_size).any(2)
        with torch.no_grad():
            scores = self.cluster_prototypes(standardise_over_tokens(tokens_BND)[counted])
            wanted = sinkhorn(scores, c.epsilon, c.iterations)
            if c.cluster_targets == "hard":
                likeliest = wanted.argmax(1)
                wanted = nn.functional.one_hot(likeliest, c.clusters).to(wanted.dtype)
        return wanted, self.cluster_prototypes(decoded[counted]), counted
