"""Masked pixels from a plain encoder: hidden patches become a learnt token, one linear layer draws.

The encoder sees the whole crop with hidden patches replaced by one learnt token, and a single
linear layer turns its tokens into pixels. The encoder has to do all the work, and it sees full
grids as in its later use, at the price of computing hidden tokens too. Convolutional encoders see
0 in place of the token. Air and padding are never targets.

Algorithm:
    hide mask_ratio of each crop, in squares or cubes of two tokens per edge
    f = encoder(x with hidden tokens replaced by the mask token)
    y = linear(tokens of f)
    loss = mean of |y - x| over hidden voxels of tissue

Loss:
    L = sum(|y - x| m) / sum(m) per sample, m = hidden and tissue, mean over samples

When to use:
    Hierarchical transformers and other encoders that cannot leave tokens out, and where the
    encoder alone is to be fine-tuned. Plain transformers train faster with mae.

Source:
    Xie et al. 2022, "SimMIM: A Simple Framework for Masked Image Modeling".
    Departures: tissue only; mean per sample first; encoders without tokens predict from the map
    at token resolution and the deepest map together, so that all their stages are trained.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medssl.core.config import Config as BaseConfig
from medssl.core.features import Features
from medssl.core.task import Batch, StepOutput
from medssl.core.taskmodule import TaskModule
from medssl.core.viewspec import MaskSpec, Setting, Spatial, View, ViewSpec
from medssl.encoders._base import Encoder
from medssl.encoders._tokens import patchify, unpatchify
from medssl.objectives._parts.masks import check_masks
from medssl.objectives._parts.patches import masked_l1, patch_values
from medssl.objectives._parts.trunk import new_token

# B batch, N tokens, D width

# 32 px for tokens of 16 px in the paper.
_CELL = 2


class Config(BaseConfig):
    """Options of ``simmim``."""

    mask_ratio: float = Field(default=0.6, gt=0, lt=1)
    """Share of tokens hidden."""
    cell: int | None = Field(default=None, ge=1)
    """Tokens per edge of a hidden square or cube; default: 2 where the token grid is even, else
    1."""
    flip: bool | None = None
    """Mirror at random; default: only where left and right are equal."""


class Objective(TaskModule):
    """``simmim`` wired to an encoder."""

    decoder = None

    def __init__(self, encoder: Encoder, config: Config, setting: Setting) -> None:
        super().__init__()
        encoder.check_size(setting.crop)
        self.encoder, self.config, self.setting = encoder, config, setting
        check_masks(encoder, self.views().views[0])
        inputs = encoder.token_width
        self.mask_token = new_token(inputs) if encoder.returns_tokens else None
        if self.mask_token is None:
            inputs += encoder.width
        self.head = nn.Linear(inputs, patch_values(encoder))

    def views(self) -> ViewSpec:
        """One masked crop per sample, at least a fifth of it tissue where that can be had."""
        ratio, crop = self.config.mask_ratio, self.setting.crop
        mask = MaskSpec(
            token_size=self.encoder.token_size,
            ratio=(ratio, ratio),
            kind="blocks",
            cell=self.config.cell or self._default_cell(),
        )
        view = View(crop=crop, spatial=Spatial(flip=self.config.flip), mask=mask)
        return ViewSpec(views=(view,), min_tissue=0.2, clip=self.setting.frames)

    def step(self, batch: Batch) -> StepOutput:
        """Error on hidden tissue."""
        terms = self.terms(batch)
        return StepOutput(terms["reconstruction"], terms)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Terms of the loss."""
        [view] = batch["views"]
        x, size = view["x"], self.encoder.token_size
        counted = patchify(view["tissue"], size) & view["mask"][:, :, None]
        return {"reconstruction": masked_l1(self._draw(view), patchify(x, size), counted)}

    def rebuild(self, view: Mapping[str, Tensor]) -> Tensor:
        """The view with its hidden patches as they are drawn, (B, C, *space)."""
        x, mask, size = view["x"], view["mask"], self.encoder.token_size
        whole = torch.where(mask[:, :, None], self._draw(view).float(), patchify(x, size))
        return unpatchify(whole, self.encoder.grid(tuple(x.shape[2:])), size)

    def _draw(self, view: Mapping[str, Tensor]) -> Tensor:
        """Patches (B, N, P) as the head draws them."""
        features = self.encoder(view["x"], view["mask"], self.mask_token)
        drawn: Tensor = self.head(self._tokens(features, tuple(view["x"].shape[2:])))
        return drawn

    def _default_cell(self) -> int:
        grid = self.encoder.grid(self.setting.crop)
        even = all(side == 1 or side % _CELL == 0 for side in grid)
        return _CELL if even and max(grid) > _CELL else 1

    def _tokens(self, features: Features, size: tuple[int, ...]) -> Tensor:
        """(B, N, D) on the token grid; of convolutions with the deepest map beside it."""
        tokens = self.encoder.tokens(features, size)
        if self.mask_token is not None:
            return tokens
        deep = F.interpolate(features.pyramid[-1], self.encoder.grid(size), mode="nearest")
        return torch.cat([tokens, deep.flatten(2).transpose(1, 2)], 2)
