"""Joint-embedding prediction: the features of hidden blocks from the features of the rest.

The encoder sees a context: most of the crop without a few target blocks. A narrow transformer
predicts, from the context and the places of a block, what a slow teacher that sees the whole crop
makes of that block. Nothing is drawn in pixels, so noise need not be explained, and no change of
grey values or colours is needed.

Algorithm:
    T blocks and a context that shares no token with them
    c = encoder(context tokens)
    y = predictor(c, mask tokens at the places of the block, registers), one block at a time
    t = layer norm(teacher(whole crop))[block]            no gradient
    loss = smooth L1(y, t), weighted by the share of tissue in each token
    after the update: teacher <- m teacher + (1 - m) student, m rises to 1 along a cosine

Loss:
    L = sum_k w_k l(y_k - t_k) / sum_k w_k per sample, over all tokens k of all blocks;
    l(d) = d^2 / 2 where |d| < 1, else |d| - 1/2, mean over features; w = share of tissue

When to use:
    Transformers on volumes or pictures of at least 8 x 8 tokens, where texture is noisy
    (ultrasound) or grey values must not be changed. Watch ``target_std`` in the log, the spread of
    the teacher's features over samples at one place (at most 1): it falls to 0 on collapse, also
    on the one in which features say where a token is and not what is there.

Source:
    Assran et al. 2023, "Self-Supervised Learning from Images with a Joint-Embedding Predictive
    Architecture"; Thimonier et al. 2024, "T-JEPA" (registers: learnt tokens that attend and are no
    targets, against collapse).
    Departures: blocks of one size, the middle of the paper's range, with exact counts; air weighs
    nothing; a predictor of half the encoder's width. Registers stand in the predictor; for those
    of an encoder choose one that has them (``timm/vit_small_patch14_reg4_dinov2``).
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from medssl.core.viewspec import Share, TargetSpec, View, ViewSpec
from medssl.objectives._parts.joint_embedding import JointEmbedding, PredictorConfig
from medssl.objectives._parts.patches import mean_over
from medssl.objectives._parts.precision import upcast

# B batch, T targets, K tokens per target, D width


class Config(PredictorConfig):
    """Options of ``jepa``."""

    targets: int = Field(default=4, ge=1)
    """Target blocks per sample."""
    target_share: float = Field(default=0.175, gt=0, lt=1)
    """Tokens of each target, as a share of all; 0.15 to 0.2 in the paper."""
    elongation: float = Field(default=1.5, ge=1)
    """Largest ratio of two edges of a block."""
    context: Share = (0.85, 1.0)
    """Context block before the targets are taken out, as a share of all tokens."""


def prediction_error(prediction_BTKD: Tensor, target_BTKD: Tensor, weight_BTK: Tensor) -> Tensor:
    """Smooth L1, mean over features, weighted mean over the tokens of each sample.

    0.5 for an error of 1, 2.5 for one of 3; the second token is air:

    >>> import torch
    >>> y = torch.tensor([1.0, 3.0]).view(1, 1, 2, 1)
    >>> weights = [torch.tensor([[w]]) for w in ([1.0, 1.0], [1.0, 0.0], [0.0, 0.0])]
    >>> [prediction_error(y, torch.zeros_like(y), w).item() for w in weights]
    [1.5, 0.5, 0.0]
    """
    prediction, target = upcast(prediction_BTKD), upcast(target_BTKD)
    error_BTK = F.smooth_l1_loss(prediction, target, reduction="none").mean(-1)
    return mean_over(error_BTK, weight_BTK)


class Objective(JointEmbedding):
    """``jepa`` wired to an encoder with tokens."""

    config: Config

    def views(self) -> ViewSpec:
        """One crop per sample, as it is, with target blocks."""
        config = self.config
        targets = TargetSpec(
            token_size=self.encoder.token_size,
            count=config.targets,
            share=config.target_share,
            elongation=config.elongation,
            context=config.context,
        )
        view = View(crop=self.setting.crop, targets=targets)
        return ViewSpec(views=(view,), min_tissue=0.2, clip=self.setting.frames)

    def error(self, prediction_BTKD: Tensor, target_BTKD: Tensor, weight_BTK: Tensor) -> Tensor:
        """Smooth L1."""
        return prediction_error(prediction_BTKD, target_BTKD, weight_BTK)
