"""Phases of a surgery, frame by frame: an encoder of frames, then a network over time.

Two stages. First the encoder learns with a linear layer on single frames (the classification head),
unless it is frozen. Then its global vectors of all frames, at a fixed rate, are computed once, and
a network over time learns on whole videos: cross-entropy of every stage plus ``smoothing`` times
:func:`medssl.heads._temporal.smoothing_loss` (TeCNO, Czempiel et al. 2020; MS-TCN, Farha and Gall
2019). Frames without a phase (-1) cost nothing in either. The number of steps does not depend on
that of videos: with few of them each is seen more often.

With a ``curriculum`` the first stage also learns from frames of another procedure without labels:
see :mod:`medssl.heads._curriculum`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from medssl.core.config import validate
from medssl.core.phases import NONE
from medssl.core.task import Batch, StepOutput
from medssl.core.taskmodule import TaskModule
from medssl.encoders._base import Encoder
from medssl.encoders.card import Card
from medssl.heads import classification
from medssl.heads._curriculum import Curriculum, CurriculumHead
from medssl.heads._model import reload
from medssl.heads._temporal import TemporalConfig, TemporalNetwork, smoothing_loss

# B videos or frames, T frames, D features, S stages, K phases


class Config(classification.Config):
    """Options of the phase head; those of the classification head are for its first stage."""

    fps: float = Field(default=1.0, gt=0)
    """Frames of a video per second that are looked at."""
    clip: None = None
    """Nothing to say: frames are looked at one by one."""
    phases: tuple[str, ...] = ()
    """Names in the order of their numbers, and no others; default: those of the labels."""
    temporal: TemporalConfig = TemporalConfig()
    smoothing: float = Field(default=0.15, ge=0)
    """Weight of the smoothing loss."""
    temporal_steps: int = Field(default=4_000, ge=1)
    """Steps of the network over time, one video each; TeCNO: 16 000 (400 passes over 40 videos)."""
    temporal_lr: float = Field(default=7e-4, gt=0)
    """Its learning rate, constant (Adam)."""
    curriculum: Curriculum | None = None
    """How the first stage turns to the frames of ``unlabelled``, where they are given."""


class Head(CurriculumHead):
    """The first stage: encoder and linear layer on single frames."""


class PhaseModel(nn.Module):
    """Encoder of frames and network over time."""

    def __init__(self, encoder: Encoder, temporal: TemporalNetwork) -> None:
        super().__init__()
        self.encoder = encoder
        self.temporal = temporal

    def features(self, x: Tensor) -> Tensor:
        """Frames (T, C, H, W) -> (T, D)."""
        out: Tensor = self.encoder(x).global_BD.float()
        return out

    def probabilities(self, features_TD: Tensor) -> Tensor:
        """Phase probabilities (T, K) of the last stage."""
        out: Tensor = self.temporal(features_TD[None])[-1, 0].softmax(1)
        return out


class TemporalTask(TaskModule):
    """The second stage: ``features`` (B, T, D) and ``phase`` (B, T) of whole videos."""

    def __init__(self, network: TemporalNetwork, smoothing: float) -> None:
        super().__init__()
        self.network = network
        self.smoothing = smoothing

    def step(self, batch: Batch) -> StepOutput:
        """Sum over stages of cross-entropy and smoothing."""
        logits_SBTK, phase_BT = self.network(batch["features"]).float(), batch["phase"].long()
        ce = torch.stack([frame_cross_entropy(one, phase_BT) for one in logits_SBTK]).sum()
        smooth = torch.stack([smoothing_loss(one) for one in logits_SBTK]).sum()
        labelled = phase_BT != NONE
        right = (logits_SBTK[-1].argmax(2) == phase_BT)[labelled].float().sum()
        log = {
            "ce": ce.detach(),
            "smoothing": smooth.detach(),
            "accuracy": right / labelled.sum().clamp(min=1),
        }
        return StepOutput(ce + self.smoothing * smooth, log)


def frame_cross_entropy(logits_BTK: Tensor, phase_BT: Tensor) -> Tensor:
    """Mean over labelled frames of -log p(phase), float32; 0 where none is labelled.

    >>> logits, phase = torch.zeros(1, 3, 4), torch.tensor([[0, -1, 3]])
    >>> round(frame_cross_entropy(logits, phase).item(), 4)  # log 4
    1.3863
    """
    flat = logits_BTK.float().flatten(0, 1)
    total = nn.functional.cross_entropy(
        flat, phase_BT.flatten(), ignore_index=NONE, reduction="sum"
    )
    return total / (phase_BT != NONE).sum().clamp(min=1)


def temporal_of(card: Card, width: int) -> TemporalNetwork:
    """The network over time that a card describes, with random weights; ``width`` of features."""
    config = validate(TemporalConfig, card.temporal, where="card")
    return TemporalNetwork(width, len(card.labels), config)


def load_model(
    run: Path, device: str | torch.device, *, best: bool = False
) -> tuple[PhaseModel, Card]:
    """The phase model of a finetune run, in eval mode, and its card.

    Raises:
        UsageError: if the run holds no phase model.
    """

    def make(encoder: Encoder, card: Card) -> PhaseModel:
        return PhaseModel(encoder, temporal_of(card, encoder.width))

    return reload(run, "phase", make, device=device, best=best)
