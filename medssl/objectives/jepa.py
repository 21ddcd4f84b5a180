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

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medssl.core.config import Config as BaseConfig
from medssl.core.ema import cosine_momentum
from medssl.core.errors import ConfigError
from medssl.core.task import Batch, StepOutput
from medssl.core.taskmodule import TaskModule
from medssl.core.viewspec import Setting, Share, TargetSpec, View, ViewSpec
from medssl.encoders._base import Encoder
from medssl.encoders._tokens import cached_positions, take_tokens
from medssl.objectives._parts.masks import check_masks
from medssl.objectives._parts.patches import mean_over, patchify
from medssl.objectives._parts.precision import upcast
from medssl.objectives._parts.teacher import Teacher
from medssl.objectives._parts.trunk import Trunk, narrow_width, new_token

# B batch, N tokens, V tokens of the context, T targets, K tokens per target, R registers,
# D width of the encoder's tokens, W width of the predictor


class Config(BaseConfig):
    """Options of ``jepa``."""

    targets: int = Field(default=4, ge=1)
    """Target blocks per sample."""
    target_share: float = Field(default=0.175, gt=0, lt=1)
    """Tokens of each target, as a share of all; 0.15 to 0.2 in the paper."""
    elongation: float = Field(default=1.5, ge=1)
    """Largest ratio of two edges of a block."""
    context: Share = (0.85, 1.0)
    """Context block before the targets are taken out, as a share of all tokens."""
    predictor_depth: int = Field(default=6, ge=1)
    """Blocks of the predictor."""
    predictor_width: int | None = Field(default=None, ge=32, multiple_of=32)
    """Of the predictor; default: half the encoder's."""
    registers: int = Field(default=1, ge=0)
    """Learnt tokens that attend with the others and are no targets."""
    momentum: float = Field(default=0.996, ge=0, le=1)
    """Of the teacher at the start; it rises to 1."""


def at_blocks(tokens_BND: Tensor, targets_BTK: Tensor) -> Tensor:
    """Tokens at the target places: (B, T, K, D)."""
    taken = take_tokens(tokens_BND, targets_BTK.flatten(1))
    return taken.view(*targets_BTK.shape, taken.shape[2])


def normalise(tokens_BND: Tensor) -> Tensor:
    """Each token to mean 0 and variance 1 (layer norm without weights).

    >>> normalise(torch.tensor([[[5.0, 5.0], [0.0, 2.0]]])).round().tolist()
    [[[0.0, 0.0], [-1.0, 1.0]]]
    """
    return F.layer_norm(upcast(tokens_BND), tokens_BND.shape[-1:])


def spread_of_samples(tokens_BND: Tensor) -> Tensor:
    """Standard deviation over samples at one place, mean over places and features.

    0 where features say where a token is and not what is there; then all samples look alike.

    >>> x = torch.tensor([[[1.0, 3.0]], [[-1.0, 3.0]]])
    >>> spread_of_samples(x).item()
    0.5
    """
    return tokens_BND.std(0, correction=0).mean()


def prediction_error(prediction_BTKD: Tensor, target_BTKD: Tensor, weight_BTK: Tensor) -> Tensor:
    """Smooth L1, mean over features, weighted mean over the tokens of each sample.

    0.5 for an error of 1, 2.5 for one of 3; the second token is air:

    >>> y = torch.tensor([1.0, 3.0]).view(1, 1, 2, 1)
    >>> weights = [torch.tensor([[w]]) for w in ([1.0, 1.0], [1.0, 0.0], [0.0, 0.0])]
    >>> [prediction_error(y, torch.zeros_like(y), w).item() for w in weights]
    [1.5, 0.5, 0.0]
    """
    prediction, target = upcast(prediction_BTKD), upcast(target_BTKD)
    error_BTK = F.smooth_l1_loss(prediction, target, reduction="none").mean(-1)
    return mean_over(error_BTK, weight_BTK)


class Objective(TaskModule):
    """``jepa`` wired to an encoder with tokens.

    Raises:
        ConfigError: the encoder has no tokens that could be left out (what is hidden would reach
            the context through its maps), or the crop is too small for the targets.
    """

    decoder = None

    def __init__(self, encoder: Encoder, config: Config, setting: Setting) -> None:
        super().__init__()
        if not encoder.returns_tokens:
            raise ConfigError(
                "jepa needs an encoder that leaves hidden tokens out; this one sees them as 0",
                fix="encoder=vit3d-s for volumes, encoder=timm/vit_small_patch16_224 for pictures, "
                "or objective=mae",
            )
        encoder.check_size(setting.crop)
        self.encoder, self.config, self.setting = encoder, config, setting
        check_masks(encoder, self.views().views[0])
        self.predictor = Predictor(encoder, config)
        self.teacher = Teacher(encoder)

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
        return ViewSpec(views=(View(crop=self.setting.crop, targets=targets),), min_tissue=0.2)

    def step(self, batch: Batch) -> StepOutput:
        """Error of the predicted features, and how much the teacher's differ between samples."""
        loss, tokens_BND = self._compare(batch)
        return StepOutput(loss, {"prediction": loss, "target_std": spread_of_samples(tokens_BND)})

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Terms of the loss."""
        return {"prediction": self._compare(batch)[0]}

    def after_update(self, progress: float) -> None:
        """The teacher follows."""
        self.teacher.follow(self.encoder, cosine_momentum(self.config.momentum, progress))

    def _compare(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss, and the teacher's tokens."""
        [view] = batch["views"]
        x, mask, targets_BTK = view["x"], view["mask"], view["targets"]
        seen = self.encoder(x, mask)
        wanted_BND = normalise(self.teacher(x).tokens_BND)
        grid = self.encoder.grid(tuple(x.shape[2:]))
        prediction = self.predictor(seen.tokens_BND, seen.token_index_BN, targets_BTK, grid)
        tissue_BNP = patchify(view["tissue"], self.encoder.token_size).to(wanted_BND)
        weight_BTK = at_blocks(tissue_BNP.mean(2, keepdim=True), targets_BTK)[..., 0]
        loss = prediction_error(prediction, at_blocks(wanted_BND, targets_BTK), weight_BTK)
        return loss, wanted_BND


class Predictor(nn.Module):
    """Narrow transformer on the context, the places of one block, and registers."""

    def __init__(self, encoder: Encoder, config: Config) -> None:
        super().__init__()
        width = config.predictor_width or narrow_width(encoder)
        inputs = encoder.token_width
        self.trunk = Trunk(inputs, width, config.predictor_depth, inputs)
        self.mask_token = new_token(width)
        self.pitch = encoder.pitch
        self.register_tokens = nn.Parameter(torch.randn(config.registers, width) * 0.02)

    def forward(
        self,
        context_BVD: Tensor,
        context_index_BV: Tensor,
        targets_BTK: Tensor,
        grid: tuple[int, ...],
    ) -> Tensor:
        """Predicted features (B, T, K, D); blocks of a sample do not see each other."""
        count, size = targets_BTK.shape[1:]
        context = self.trunk.enter(context_BVD)
        place = cached_positions(grid, context.shape[2], self.pitch, context.device)
        positions_NW = place[0].to(context.dtype)
        context = (context + positions_NW[context_index_BV]).repeat_interleave(count, 0)
        asked = self.mask_token + positions_NW[targets_BTK.flatten(0, 1)]
        registers = self.register_tokens.expand(len(asked), -1, -1)
        tokens = torch.cat([registers.to(asked), context.to(asked), asked], 1)
        out: Tensor = self.trunk(tokens)[:, -size:]
        return out.reshape(len(context_BVD), count, size, -1)
