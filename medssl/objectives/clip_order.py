"""Clip order prediction: tell in which order the parts of a clip follow each other.

A clip is cut into a few parts with gaps between them. Each part passes the encoder alone, and a
small head sees their vectors in every possible order; it has to say which order it is. What helps
is what goes one way in time: a beat, a breath, a procedure.

Algorithm:
    parts 1 .. n of one clip, ``gap`` frames apart
    f_i = encoder(part i)
    for each of the n! orders s: loss += CE(head(f_s(1), .., f_s(n)), number of s)

Loss:
    L = 1/n! sum_s -log softmax(head(f_s))_s, mean over clips

When to use:
    A small and cheap task for any encoder of clips, to compare others with, and a check that there
    is anything to learn from time. Where nothing goes one way (a probe at rest) there is no answer:
    ``accuracy`` stays at 1/n!. Clips too short for all parts do not count.

Source:
    Xu et al. 2019, "Self-supervised Spatiotemporal Learning via Video Clip Order Prediction".
    Departures: every clip is shown in all orders, so that answers are balanced and nothing is
    drawn; one head on all parts in place of pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations

import torch
from pydantic import Field
from torch import Tensor

from medssl.core.viewspec import Setting
from medssl.encoders._base import Encoder
from medssl.objectives._parts.clips import refuse_all_but_clips
from medssl.objectives._parts.pretext import Pretext, PretextConfig, moving

# B samples, P orders, n parts, D width


class Config(PretextConfig):
    """Options of ``clip_order``."""

    parts: int = Field(default=3, ge=2, le=4)
    """Parts of a clip, n; the encoder sees ``crop`` of each."""
    gap: int = Field(default=4, ge=0)
    """Frames between two parts, so that their edges do not give the order away."""


class Objective(Pretext):
    """``clip_order`` wired to an encoder of clips."""

    order_Pn: Tensor

    def __init__(self, encoder: Encoder, config: Config, setting: Setting) -> None:
        refuse_all_but_clips("clip_order", encoder)
        orders = list(permutations(range(config.parts)))
        self.length, self.step_frames = setting.crop[0], setting.crop[0] + config.gap
        frames = self.step_frames * (config.parts - 1) + self.length
        count = len(orders)
        super().__init__(
            encoder, config, setting, frames=frames, vectors=config.parts, answers=count
        )
        self.parts = config.parts
        self.register_buffer("order_Pn", torch.tensor(orders), persistent=False)

    def ask(self, view: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """All orders of the parts."""
        starts = [self.step_frames * part for part in range(self.parts)]
        parts = torch.cat([view["x"][:, :, a : a + self.length] for a in starts])
        vectors_BnD = self.encoder(parts).global_BD.unflatten(0, (self.parts, -1)).transpose(0, 1)
        asked_BPD = vectors_BnD[:, self.order_Pn].flatten(2)
        logits_BPK = self.head(asked_BPD)
        answers = torch.arange(len(self.order_Pn), device=logits_BPK.device)
        ends = [start + self.length - 1 for start in starts]
        return logits_BPK, answers, moving(view["time_s"][:, ends])
