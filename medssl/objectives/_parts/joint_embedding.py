"""What I-JEPA and V-JEPA share: context and targets, a narrow predictor, a slow teacher.

B batch, N tokens, V tokens of the context, T targets, K tokens per target, R registers,
D width of the encoder's tokens, W width of the predictor.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medssl.core.config import Config as BaseConfig
from medssl.core.ema import cosine_momentum
from medssl.core.errors import ConfigError
from medssl.core.task import Batch, StepOutput
from medssl.core.taskmodule import TaskModule
from medssl.core.viewspec import Setting, ViewSpec
from medssl.encoders._base import Encoder
from medssl.encoders._tokens import cached_positions, patchify, take_tokens
from medssl.objectives._parts.masks import check_masks
from medssl.objectives._parts.precision import upcast
from medssl.objectives._parts.teacher import Teacher
from medssl.objectives._parts.trunk import Trunk, narrow_width, new_token


class PredictorConfig(BaseConfig):
    """Options of predictor and teacher."""

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


class JointEmbedding(TaskModule):
    """Prediction of a teacher's features wired to an encoder with tokens.

    All views of a sample show the same voxels, each with its own context and targets.

    Raises:
        ConfigError: the encoder has no tokens that could be left out (what is hidden would reach
            the context through its maps), or the crop is too small for the targets.
    """

    decoder = None

    def __init__(self, encoder: Encoder, config: PredictorConfig, setting: Setting) -> None:
        super().__init__()
        if not encoder.returns_tokens:
            raise ConfigError(
                "this objective needs an encoder that leaves hidden tokens out; the given one sees "
                "them as 0",
                fix="encoder=vit3d-s for volumes, encoder=timm/vit_small_patch16_224 for pictures, "
                "encoder=video_vit-s for clips, or objective=mae",
            )
        encoder.check_size(setting.crop)
        self.encoder, self.config, self.setting = encoder, config, setting
        for view in self.views().views:
            check_masks(encoder, view)
        self.predictor = Predictor(encoder, config)
        self.teacher = Teacher(encoder)

    @abstractmethod
    def views(self) -> ViewSpec:
        """One crop per sample, with target blocks."""

    @abstractmethod
    def error(self, prediction_BTKD: Tensor, target_BTKD: Tensor, weight_BTK: Tensor) -> Tensor:
        """Distance of prediction and target, weighted, mean over samples."""

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
        first = batch["views"][0]
        wanted_BND = normalise(self.teacher(first["x"]).tokens_BND)
        tissue_BNP = patchify(first["tissue"], self.encoder.token_size).to(wanted_BND)
        share_BN1 = tissue_BNP.mean(2, keepdim=True)
        grid = self.encoder.grid(tuple(first["x"].shape[2:]))
        losses = []
        for view in batch["views"]:
            targets_BTK = view["targets"]
            seen = self.encoder(view["x"], view["mask"])
            prediction = self.predictor(seen.tokens_BND, seen.token_index_BN, targets_BTK, grid)
            weight_BTK = at_blocks(share_BN1, targets_BTK)[..., 0]
            losses.append(self.error(prediction, at_blocks(wanted_BND, targets_BTK), weight_BTK))
        return torch.stack(losses).mean(), wanted_BND


class Predictor(nn.Module):
    """Narrow transformer on the context, the places of one block, and registers."""

    def __init__(self, encoder: Encoder, config: PredictorConfig) -> None:
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
