"""Masked autoencoding: rebuild hidden blocks of tissue from the visible rest.

A large share of each crop is hidden at random. What is left has to explain the rest, which takes
knowledge of shapes and of what lies beside what. Transformers compute visible tokens only, which
makes a step several times cheaper; convolutional encoders see 0 in hidden blocks. Air and padding
are never targets.

Algorithm:
    hide mask_ratio of the tokens of each crop
    tokens:        y = decoder(encoder(visible tokens) + mask tokens, positions)
    convolutions:  y = U-Net decoder(encoder(x with hidden blocks set to 0))
    loss = mean of (y - target)^2 over hidden voxels of tissue

Loss:
    L = sum((y - t)^2 m) / sum(m) per sample, m = hidden and tissue, mean over samples;
    t = (x - mean) / sqrt(var + 1e-6) per patch for tokens, t = x for convolutions

When to use:
    The first choice for volumes and small batches: no pairs, no negatives, no teacher, nothing
    that collapses, and for convolutions the decoder is trained too and carries over to
    segmentation. Its global vector is weak without fine-tuning; for retrieval and kNN see dino.

Source:
    He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners"; Wald et al. 2025, "An
    OpenMind for 3D medical vision self-supervised learning" (convolutions).
    Departures: the mean is taken per sample first, over tissue only; decoder of half the encoder's
    width and 4 blocks in place of 512 and 8; no zoom or rotation, and flips only where left and
    right are equal.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from medssl.core.config import Config as BaseConfig
from medssl.core.errors import ConfigError
from medssl.core.features import Features
from medssl.core.task import Batch, StepOutput
from medssl.core.taskmodule import TaskModule
from medssl.core.viewspec import MaskKind, MaskSpec, Setting, Spatial, View, ViewSpec
from medssl.encoders._base import Encoder
from medssl.encoders._tokens import blocks_to_voxels, patchify, unpatchify
from medssl.objectives._parts.masks import check_masks
from medssl.objectives._parts.patches import masked_mse, patch_values, standardise
from medssl.objectives._parts.trunk import TokenDecoder

# B batch, N tokens, P values per patch


class Config(BaseConfig):
    """Options of ``mae``."""

    mask_ratio: float = Field(default=0.75, gt=0, lt=1)
    """Share of tokens hidden, r in He et al. Section 3."""
    mask_kind: MaskKind = "random"
    """Shape of what is hidden: single tokens (``random``), rectangles (``block``), columns through
    all slices (``column``) or frames (``tube``), or cubes of two tokens per edge (``blocks``)."""
    decoder_depth: int = Field(default=4, ge=1)
    """Transformer decoder blocks (encoders with tokens only)."""
    flip: bool | None = None
    """Mirror at random; default: only where left and right are equal."""


class Objective(TaskModule):
    """``mae`` wired to an encoder. ``decoder`` is set where segmentation can reuse it."""

    decoder: nn.Module | None
    groups = 1
    """Parts of a patch that token decoders see standardised for themselves."""

    def __init__(self, encoder: Encoder, config: Config, setting: Setting) -> None:
        super().__init__()
        encoder.check_size(setting.crop)
        self.encoder = encoder
        self.config = config
        self.setting = setting
        if config.mask_kind == "tube" and not setting.frames:
            fix = "objective.mask_kind=column for volumes, random for images"
            raise ConfigError("tubes are hidden in clips", fix=fix)
        check_masks(encoder, self.views().views[0])
        if encoder.returns_tokens:
            self.decoder = None
            self.token_decoder = TokenDecoder(encoder, config.decoder_depth, patch_values(encoder))
        else:
            self.decoder = encoder.make_decoder(encoder.in_channels)

    def views(self) -> ViewSpec:
        """One masked crop per sample, at least a fifth of it tissue where that can be had."""
        config = self.config
        mask = MaskSpec(
            token_size=self.encoder.token_size,
            ratio=(config.mask_ratio, config.mask_ratio),
            kind=config.mask_kind,
        )
        view = View(crop=self.setting.crop, spatial=Spatial(flip=config.flip), mask=mask)
        return ViewSpec(views=(view,), min_tissue=0.2, clip=self.setting.frames)

    def step(self, batch: Batch) -> StepOutput:
        """Error on hidden tissue, and the share of voxels that were targets."""
        [view] = batch["views"]
        loss, counted = self.compare(view, self.encoder(view["x"], view["mask"]))
        return StepOutput(loss, {"reconstruction": loss, "target_share": counted.float().mean()})

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Terms of the loss."""
        [view] = batch["views"]
        return {"reconstruction": self.compare(view, self.encoder(view["x"], view["mask"]))[0]}

    def target(self, x: Tensor) -> Tensor:
        """What token decoders draw, (B, N, P)."""
        return standardise(self._grouped(x)).flatten(2)

    def rebuild(self, view: Mapping[str, Tensor]) -> Tensor:
        """The view with its hidden patches as they are drawn, (B, C, *space).

        Token decoders draw contrast alone: each patch gets its own mean and spread back.
        """
        x, mask, size = view["x"], view["mask"], self.encoder.token_size
        drawn = self._draw(view, self.encoder(x, mask)).float()
        patches = patchify(x, size)
        if self.decoder is None:
            own = self._grouped(x)
            spread = (own.var(-1, keepdim=True) + 1e-6).sqrt()
            drawn = (drawn.view_as(own) * spread + own.mean(-1, keepdim=True)).flatten(2)
        whole = torch.where(mask[:, :, None], drawn, patches)
        return unpatchify(whole, self.encoder.grid(tuple(x.shape[2:])), size)

    def compare(self, view: Mapping[str, Tensor], features: Features) -> tuple[Tensor, Tensor]:
        """Loss of a view's features, and which of the patches' voxels counted."""
        x, mask, size = view["x"], view["mask"], self.encoder.token_size
        target = self.target(x) if self.decoder is None else patchify(x, size)
        counted = patchify(view["tissue"], size) & mask[:, :, None]
        return masked_mse(self._draw(view, features), target, counted), counted

    def _draw(self, view: Mapping[str, Tensor], features: Features) -> Tensor:
        """Patches (B, N, P) as the decoder draws them."""
        x, mask, size = view["x"], view["mask"], self.encoder.token_size
        grid = self.encoder.grid(tuple(x.shape[2:]))
        if self.decoder is None:
            drawn: Tensor = self.token_decoder(features.tokens_BND, mask, grid)
            return drawn
        # Some decoders look at their input too.
        seen = x.masked_fill(blocks_to_voxels(mask, grid, size), 0.0)
        return patchify(self.decoder(seen, features), size)

    def _grouped(self, x: Tensor) -> Tensor:
        """Patches (B, N, groups, P / groups); each group is standardised for itself."""
        patches_BNP = patchify(x, self.encoder.token_size)
        return patches_BNP.reshape(*patches_BNP.shape[:2], self.groups, -1)
