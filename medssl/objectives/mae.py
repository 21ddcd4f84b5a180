"""Masked autoencoding of volumes: rebuild hidden blocks of tissue from the visible rest.

Transformers compute visible tokens only and predict standardised patches (He et al. 2022);
convolutional encoders see the volume with hidden blocks set to 0 and a U-Net decoder, reusable
for segmentation, predicts the voxels (as in Wald et al. 2025, "nnssl"). Air and padding are
never targets.
"""

from __future__ import annotations

import torch
from pydantic import Field
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from medssl.core.config import Config as BaseConfig
from medssl.core.task import Batch, StepOutput
from medssl.core.taskmodule import TaskModule
from medssl.core.viewspec import MaskSpec, Setting, Spatial, View, ViewSpec
from medssl.encoders._base import Encoder
from medssl.encoders._tokens import sincos_positions, visible_index

# B batch, C channels, D/H/W voxels, N tokens, P voxels per patch (channels included)


class Config(BaseConfig):
    """Options of ``mae``."""

    mask_ratio: float = Field(default=0.75, gt=0, lt=1)
    """Share of tokens hidden, r in He et al. Section 3."""
    decoder_depth: int = Field(default=4, ge=1)
    """Transformer decoder blocks (encoders with tokens only)."""
    flip: bool | None = None
    """Mirror at random; default: only where left and right are equal."""


def patchify(x_BCDHW: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, C, D, H, W) -> (B, N, P): raster order, P = C * voxels per patch.

    >>> patchify(torch.arange(8.0).view(1, 1, 1, 2, 4), (1, 2, 2))
    tensor([[[0., 1., 4., 5.],
             [2., 3., 6., 7.]]])
    """
    b, c, *space = x_BCDHW.shape
    d, h, w = (s // p for s, p in zip(space, size, strict=True))
    cut = x_BCDHW.reshape(b, c, d, size[0], h, size[1], w, size[2])
    return cut.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, d * h * w, -1)


def standardise(patches_BNP: Tensor) -> Tensor:
    """Per patch (x - mean) / sqrt(var + 1e-6); a constant patch becomes 0, not NaN.

    >>> standardise(torch.full((1, 1, 8), 7.0)).abs().max().item()
    0.0
    """
    x = patches_BNP.float()
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-6).sqrt()


def masked_mse(prediction: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """Mean over samples of the squared error averaged over the ``counted`` elements of each.

    Samples with nothing to count add 0. Eq.: sum((y - x)^2 m) / sum(m), in float32.

    >>> x = torch.zeros(2, 4)
    >>> masked_mse(x + 3, x, torch.tensor([[True, True, False, False], [True] * 4])).item()
    9.0
    """
    error = (prediction.float() - target.float()).square() * counted
    shape = (len(error), -1)
    per_sample = error.reshape(shape).sum(1) / counted.reshape(shape).sum(1).clamp(min=1)
    return per_sample.mean()


class Objective(TaskModule):
    """``mae`` wired to an encoder. ``decoder`` is set where segmentation can reuse it."""

    decoder: nn.Module | None

    def __init__(self, encoder: Encoder, config: Config, setting: Setting) -> None:
        super().__init__()
        encoder.check_size(setting.crop)
        self.encoder = encoder
        self.config = config
        self.crop = setting.crop
        if encoder.returns_tokens:
            self.decoder = None
            self.token_decoder = TokenDecoder(encoder, config.decoder_depth)
        else:
            self.decoder = encoder.make_decoder(encoder.in_channels)

    def views(self) -> ViewSpec:
        """One masked crop per sample, at least a fifth of it tissue where that can be had."""
        ratio = self.config.mask_ratio
        view = View(
            crop=self.crop,
            spatial=Spatial(flip=self.config.flip),
            mask=MaskSpec(token_size=self.encoder.token_size, ratio=(ratio, ratio)),
        )
        return ViewSpec(views=(view,), min_tissue=0.2)

    def step(self, batch: Batch) -> StepOutput:
        """Error on hidden tissue of the only view."""
        [view] = batch["views"]
        x, tissue, mask = view["x"], view["tissue"], view["mask"]
        size = self.encoder.token_size
        features = self.encoder(x, mask)
        hidden_BN1 = mask[:, :, None]
        counted = patchify(tissue, size) & hidden_BN1
        if self.decoder is None:
            prediction = self.token_decoder(features.tokens_BND, mask, self._grid(x))
            target = standardise(patchify(x, size))
        else:
            prediction = patchify(self.decoder(x, features), size)
            target = patchify(x, size)
        loss = masked_mse(prediction, target, counted)
        return StepOutput(loss, {"target_share": counted.float().mean()})

    def _grid(self, x: Tensor) -> tuple[int, ...]:
        return self.encoder.grid(tuple(x.shape[2:]))


class TokenDecoder(nn.Module):
    """Small transformer that sees visible tokens and mask tokens, all with positions."""

    def __init__(self, encoder: Encoder, depth: int) -> None:
        super().__init__()
        width = max(encoder.width // 2, 96)
        pixels = encoder.in_channels
        for size in encoder.token_size:
            pixels *= size
        self.enter = nn.Linear(encoder.width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        nn.init.normal_(self.mask_token, std=0.02)
        self.blocks = nn.ModuleList(Block(width, width // 32, qkv_bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, pixels)

    def forward(self, visible_BVD: Tensor, mask_BN: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Predicted patches (B, N, P) in raster order."""
        visible = self.enter(visible_BVD)
        tokens = self.mask_token.expand(*mask_BN.shape, -1).to(visible.dtype)
        index = visible_index(mask_BN)[..., None].expand_as(visible)
        tokens = tokens.scatter(1, index, visible)
        tokens = tokens + sincos_positions(grid, tokens.shape[2]).to(tokens)
        for block in self.blocks:
            tokens = block(tokens)
        out: Tensor = self.out(self.norm(tokens))
        return out
