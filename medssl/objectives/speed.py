"""Playback speed prediction: tell how fast a clip is played.

From one stretch of a record, frames are taken at several speeds: each one, every second, every
fourth. All start at the same frame. The encoder sees each version, and a small head has to say
its speed, which takes knowledge of how fast things move.

Algorithm:
    for each speed r: x_r = frames 0, r, 2r, .. of the stretch
    loss += CE(head(encoder(x_r)), number of r)

Loss:
    L = 1/R sum_r -log softmax(head(f_r))_r, mean over clips

When to use:
    A small and cheap task for any encoder of clips, where speed is what a clip shows (the heart's
    rate, a valve). It wants records of at least ``crop`` times the largest speed; shorter ones do
    not count. Where rates differ between patients more than speeds do, answers are uncertain:
    compare ``accuracy`` with 1/R.

Source:
    Wang et al. 2020, "Self-supervised Video Representation Learning by Pace Prediction".
    Departures: every clip is shown at all speeds, from one start, so that answers are balanced and
    the start says nothing; no contrast beside.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import field_validator
from torch import Tensor

from medssl.core.viewspec import Setting
from medssl.encoders._base import Encoder
from medssl.objectives._parts.clips import refuse_all_but_clips
from medssl.objectives._parts.pretext import Pretext, PretextConfig, moving

# B samples, R speeds


class Config(PretextConfig):
    """Options of ``speed``."""

    speeds: tuple[int, ...] = (1, 2, 4)
    """Frames from one shown frame to the next."""

    @field_validator("speeds")
    @classmethod
    def _rises(cls, speeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(speeds) < 2 or list(speeds) != sorted(set(speeds)) or speeds[0] < 1:
            raise ValueError("has to be two or more numbers that rise from 1 up")
        return speeds


class Objective(Pretext):
    """``speed`` wired to an encoder of clips."""

    def __init__(self, encoder: Encoder, config: Config, setting: Setting) -> None:
        refuse_all_but_clips("speed", encoder)
        length = setting.crop[0]
        frames = (length - 1) * config.speeds[-1] + 1
        answers = len(config.speeds)
        super().__init__(encoder, config, setting, frames=frames, vectors=1, answers=answers)
        self.speeds, self.length = config.speeds, length

    def ask(self, view: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """All speeds."""
        shown = [view["x"][:, :, ::speed][:, :, : self.length] for speed in self.speeds]
        vectors_BRD = (
            self.encoder(torch.cat(shown))
            .global_BD.unflatten(0, (len(self.speeds), -1))
            .transpose(0, 1)
        )
        logits_BRK = self.head(vectors_BRD)
        answers = torch.arange(len(self.speeds), device=logits_BRK.device)
        return logits_BRK, answers, moving(view["time_s"][:, :: self.speeds[-1]])
