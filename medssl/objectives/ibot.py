"""Masked image modelling with a teacher's tokens as vocabulary (iBOT).

Blocks of tokens of the student's views are hidden. For every hidden token the student has to give
the assignment to prototypes that its slow teacher, who sees the whole view, gives at that place;
and for every view the assignment that the teacher gives to the *other* view. The vocabulary of
tokens is learnt along, in place of grey values.

Algorithm:
    x1, x2 = two views; m1, m2 = hidden blocks (half of the views, 10 to 50 % of their tokens)
    t = Sinkhorn(teacher(x) / tau_T) for the views, and for the hidden tokens
    p = softmax(student(x, m) / tau_S)
    loss = CE(t of a view, p of the other view)
         + patch_weight * CE(t of a token, p of the same hidden token), mean per sample first
    after each step: teacher <- m teacher + (1 - m) student

Loss:
    L = -sum t(x1) log p(x2) - 1/B sum_b 1/|m_b| sum_{i in m_b} t_i log p_i

When to use:
    Transformers that shall segment: tokens are learnt as such. Tokens should hold anatomy (8
    voxels of 1 mm rather than 16). Where samples matter more than tokens, dino.

Source:
    Zhou et al. 2022, "iBOT: Image BERT Pre-Training with Online Tokenizer". Departures: no small
    views by default (the paper has 10); 1024 prototypes, not 8192; one head for views and tokens
    only where the encoder gives both one width, as in the paper, else one each.
"""

from __future__ import annotations

from medssl.core.viewspec import Setting
from medssl.encoders._base import Encoder
from medssl.objectives._parts.distillation import Distillation, DistillationConfig


class Config(DistillationConfig):
    """Options of ``ibot``."""

    local_views: int = 0
    """Small views per sample, for the student only."""
    koleo_weight: float = 0.0
    """Weight of KoLeo, which spreads the samples of a batch; 0 = off."""
    shared_head: bool | None = None
    """One head for views and tokens, or one each; default: one where both vectors have one
    width."""


class Objective(Distillation):
    """``ibot`` wired to an encoder."""

    def __init__(self, encoder: Encoder, config: Config, setting: Setting) -> None:
        super().__init__(encoder, config, setting)
        self.config = config
