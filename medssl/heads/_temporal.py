"""Networks over time: features of a video's frames, one per second say, to phases of each frame.

Shapes: B videos, T frames, D features, M maps, K phases, S stages, W window.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medssl.core.config import Config
from medssl.heads._attention import WindowedTransformer

KERNEL = 3


class TemporalConfig(Config):
    """Options of the network over time. Defaults: TeCNO (Czempiel et al. 2020)."""

    network: Literal["tcn", "tcn-offline", "transformer"] = "tcn"
    """``tcn``: causal dilated convolutions, a frame never sees what comes later; ``tcn-offline``:
    the same with as much future as past; ``transformer``: causal attention over a window."""
    stages: int = Field(default=2, ge=1)
    """Each but the first gets the phases of the one before, and smooths them."""
    layers: int = Field(default=9, ge=1)
    """Residual layers per stage; the receptive field is 2^(layers + 1) - 1 frames per stage. Of a
    transformer two layers always, that together see as far."""
    maps: int = Field(default=64, ge=8, multiple_of=8)
    """Channels of every layer."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """In each residual layer."""

    @property
    def reach(self) -> int:
        """Frames beside its own that a frame's result of one stage depends on."""
        return (KERNEL - 1) * ((1 << self.layers) - 1)


class DilatedLayer(nn.Module):
    """x + dropout(1x1(relu(dilated convolution(x)))), (B, M, T)."""

    def __init__(self, maps: int, dilation: int, dropout: float, *, causal: bool) -> None:
        super().__init__()
        self.reach = (KERNEL - 1) * dilation
        self.past = self.reach if causal else self.reach // 2
        self.dilated = nn.Conv1d(maps, maps, KERNEL, dilation=dilation)
        self.mix = nn.Conv1d(maps, maps, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BMT: Tensor) -> Tensor:
        padded = nn.functional.pad(x_BMT, (self.past, self.reach - self.past))
        out: Tensor = x_BMT + self.dropout(self.mix(self.dilated(padded).relu()))
        return out


class Stage(nn.Module):
    """Dilations 1, 2, 4, ... between two 1x1 convolutions: (B, D, T) -> (B, K, T)."""

    def __init__(self, width: int, phases: int, config: TemporalConfig, *, causal: bool) -> None:
        super().__init__()
        self.first = nn.Conv1d(width, config.maps, 1)
        layers = (
            DilatedLayer(config.maps, 2**i, config.dropout, causal=causal)
            for i in range(config.layers)
        )
        self.layers = nn.Sequential(*layers)
        self.last = nn.Conv1d(config.maps, phases, 1)

    def forward(self, x_BDT: Tensor) -> Tensor:
        out: Tensor = self.last(self.layers(self.first(x_BDT)))
        return out


class TemporalNetwork(nn.Module):
    """Features (B, T, D) -> logits (S, B, T, K), the last stage's being the result.

    Features are standardised frame by frame (layer norm without weights), so that a frame's result
    depends on no later one and encoders of any scale fit one learning rate.

    Attributes:
        past: frames before a frame that its result may depend on.
        future: frames after it likewise; 0 where the network is causal.
    """

    def __init__(self, width: int, phases: int, config: TemporalConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        causal = config.network != "tcn-offline"
        self.past = (config.reach if causal else config.reach // 2) * config.stages
        self.future = 0 if causal else self.past
        widths = [width] + [phases] * (config.stages - 1)
        self.stages = nn.ModuleList(_stage(d, phases, config) for d in widths)

    def forward(self, features_BTD: Tensor) -> Tensor:
        weights = next(self.parameters())
        x_BDT = self.norm(features_BTD.to(weights.dtype)).transpose(1, 2)
        logits = []
        for stage in self.stages:
            logits_BKT = stage(x_BDT)
            logits.append(logits_BKT.transpose(1, 2))
            x_BDT = logits_BKT.softmax(1)
        return torch.stack(logits)


def _stage(width: int, phases: int, config: TemporalConfig) -> nn.Module:
    if config.network == "transformer":
        return WindowedTransformer(width, phases, config.maps, config.reach, config.dropout)
    return Stage(width, phases, config, causal=config.network == "tcn")


def smoothing_loss(logits_BTK: Tensor, clip: float = 4.0) -> Tensor:
    """Truncated squared change of log-probabilities from frame to frame, float32.

    (1 / TK) sum over t > 0 and k of min(|log p_tk - sg(log p_(t-1)k)|, clip)^2, where the earlier
    frame has no gradient (Farha and Gall 2019). One jump costs at most clip^2 / T.

    >>> calm, jump = torch.zeros(1, 4, 2), torch.tensor([[[9., 0], [9, 0], [0, 9], [0, 9]]])
    >>> smoothing_loss(calm).item()
    0.0
    >>> smoothing_loss(jump).item()  # both classes jump by 9: 2 x 4^2 / (4 x 2)
    4.0
    >>> round(smoothing_loss(jump / 9).item(), 3)  # by 1: 2 x 1^2 / 8
    0.25
    """
    log_p = logits_BTK.float().log_softmax(2)
    change = (log_p[:, 1:] - log_p[:, :-1].detach()).abs().clamp(max=clip)
    return change.square().sum() / max(log_p.numel(), 1)
