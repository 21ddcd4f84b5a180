"""Joint-embedding prediction on clips: what a teacher makes of regions hidden through all time.

Regions of the picture are hidden in every frame of a clip, so that no frame gives away another.
The encoder sees the narrow rest, and a narrow transformer predicts from it what a slow teacher
that sees the whole clip makes of the hidden part. Each clip is used twice: once with many small
regions hidden, once with a few large ones. Nothing is drawn in pixels, and no grey value changes.

Algorithm:
    two masks: the union of 8 short blocks, and of 2 long ones, through all frames
    c = encoder(visible tokens), for each mask
    y = predictor(c, mask tokens at all hidden places, registers)
    t = layer norm(teacher(whole clip))[hidden]           no gradient
    loss = |y - t|, weighted by the share of tissue in each token, mean over both masks
    after the update: teacher <- m teacher + (1 - m) student, m rises to 1 along a cosine

Loss:
    L = sum_k w_k |y_k - t_k| / sum_k w_k per sample and mask, over hidden tokens k;
    |.| is the mean over features; w = share of tissue

When to use:
    Clips whose texture is noise (ultrasound speckle) and whose grey values must not be changed,
    with the transformer ``video_vit``. Watch ``target_std`` as in jepa. Where a picture in pixels
    can be explained, videomae has no teacher that could collapse.

Source:
    Bardes et al. 2024, "Revisiting Feature Prediction for Learning Visual Representations from
    Video". Departures: exactly ``visible`` of the tokens are seen, by moving the edge of the union
    of blocks (the paper cuts each batch to its smallest count); air weighs nothing; a predictor of
    half the encoder's width with a register as in jepa.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from medssl.core.viewspec import Setting, TargetSpec, View, ViewSpec
from medssl.encoders._base import Encoder
from medssl.objectives._parts.clips import refuse_all_but_clips
from medssl.objectives._parts.joint_embedding import JointEmbedding, PredictorConfig
from medssl.objectives._parts.patches import mean_over
from medssl.objectives._parts.precision import upcast

# B batch, T targets, K tokens per target, D width


class Config(PredictorConfig):
    """Options of ``vjepa``."""

    short_blocks: int = Field(default=8, ge=1)
    """Blocks whose union the first mask hides."""
    short_share: float = Field(default=0.15, gt=0, lt=1)
    """Size of each, as a share of the tokens of one time step."""
    long_blocks: int = Field(default=2, ge=1)
    """Blocks whose union the second mask hides."""
    long_share: float = Field(default=0.7, gt=0, lt=1)
    """Size of each."""
    elongation: float = Field(default=1.5, ge=1)
    """Largest ratio of two edges of a block."""
    visible: float = Field(default=0.1, gt=0, lt=1)
    """Tokens that the encoder sees, as a share of all."""
    momentum: float = Field(default=0.998, ge=0, le=1)
    """Of the teacher at the start; it rises to 1."""


def absolute_error(prediction_BTKD: Tensor, target_BTKD: Tensor, weight_BTK: Tensor) -> Tensor:
    """Mean over features of |y - t|, weighted mean over the tokens of each sample, then over them.

    >>> import torch
    >>> y = torch.tensor([1.0, 3.0]).view(1, 1, 2, 1)
    >>> weights = [torch.tensor([[w]]) for w in ([1.0, 1.0], [1.0, 0.0], [0.0, 0.0])]
    >>> [absolute_error(y, torch.zeros_like(y), w).item() for w in weights]
    [2.0, 1.0, 0.0]
    """
    apart_BTK = (upcast(prediction_BTKD) - upcast(target_BTKD)).abs().mean(-1)
    return mean_over(apart_BTK, weight_BTK)


class Objective(JointEmbedding):
    """``vjepa`` wired to an encoder of clips with tokens."""

    config: Config

    def __init__(self, encoder: Encoder, config: Config, setting: Setting) -> None:
        refuse_all_but_clips("vjepa", encoder)
        super().__init__(encoder, config, setting)

    def views(self) -> ViewSpec:
        """One clip, as it is, with two masks."""
        c = self.config
        short = self._view(c.short_blocks, c.short_share)
        long = self._view(c.long_blocks, c.long_share).model_copy(update={"twin": True})
        return ViewSpec(views=(short, long), min_tissue=0.2, clip=self.setting.frames)

    def error(self, prediction_BTKD: Tensor, target_BTKD: Tensor, weight_BTK: Tensor) -> Tensor:
        """L1."""
        return absolute_error(prediction_BTKD, target_BTKD, weight_BTK)

    def _view(self, blocks: int, share: float) -> View:
        targets = TargetSpec(
            token_size=self.encoder.token_size,
            count=blocks,
            share=share,
            elongation=self.config.elongation,
            full_time=True,
            visible=self.config.visible,
        )
        return View(crop=self.setting.crop, targets=targets)
