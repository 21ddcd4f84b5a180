"""A student predicts what its slow teacher says of the other view; no negatives needed.

The teacher is a moving average of the student. A predictor on the student's side turns the
embedding of one view into the teacher's embedding of the other. Predictor, stopped gradient and
slow teacher together keep the embedding from shrinking to a point; leave none of them out.

Algorithm:
    z1, z2 = predictor(head(encoder(view 1, view 2)))      student
    t1, t2 = head(encoder(view 1, view 2))                 teacher, no gradient
    loss = (d(z1, t2) + d(z2, t1)) / 2
    after the update: teacher <- m teacher + (1 - m) student, m rises to 1 along a cosine

Loss:
    d(z, t) = 2 - 2 cos(z, t): 0 for equal, 2 for orthogonal, 4 for opposite embeddings

When to use:
    Batches too small for negatives, and archives in which many records look alike. Watch the
    collapse monitor; a lower learning rate or a momentum nearer 1 cures most collapses.

Source:
    Grill et al. 2020, "Bootstrap Your Own Latent". Departures: mean instead of sum of both
    directions; head of 1024 in place of 4096 hidden units, and momentum 0.99 in place of 0.996 at
    the start, for shorter runs on smaller sets.
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from medssl.core.ema import cosine_momentum
from medssl.core.task import Batch
from medssl.core.viewspec import Setting
from medssl.encoders._base import Encoder
from medssl.objectives._parts.heads import Norm, Projector
from medssl.objectives._parts.pair import Branch, Pair, PairConfig, view_vectors
from medssl.objectives._parts.precision import upcast
from medssl.objectives._parts.teacher import Teacher


class Config(PairConfig):
    """Options of ``byol``."""

    momentum: float = Field(default=0.99, ge=0, le=1)
    """Of the teacher at the start; it rises to 1."""
    out: int = Field(default=256, ge=2)
    """Width of the embedding."""
    norm: Norm = "batch"
    """Norm in head and predictor: ``batch`` (over all devices); ``layer`` for batches below 8."""


def regression(prediction_BD: Tensor, target_BD: Tensor) -> Tensor:
    """Mean of 2 - 2 cos(prediction, target), without gradient for the target (Grill et al. Eq. 2).

    >>> import torch
    >>> x = torch.eye(2)
    >>> [regression(x, y).item() for y in (x, x.flip(0), -x)]
    [0.0, 2.0, 4.0]
    """
    target_BD = upcast(target_BD.detach())
    return (2 - 2 * F.cosine_similarity(upcast(prediction_BD), target_BD)).mean()


class Objective(Pair):
    """``byol`` wired to an encoder."""

    def __init__(self, encoder: Encoder, config: Config, setting: Setting) -> None:
        super().__init__(encoder, config, setting)
        self.config = config
        self.head = Projector(encoder.width, config.hidden, config.out, norm=config.norm)
        self.predictor = Projector(config.out, config.hidden, config.out, norm=config.norm)
        self.teacher = Teacher(self._student())

    def compare(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Error of the prediction in both directions, and the teacher's embeddings."""
        vectors = view_vectors(self.encoder, batch["views"])
        z1_BD, z2_BD = (self.predictor(self.head(v)) for v in vectors)
        t1_BD, t2_BD = (self.teacher(view["x"]) for view in batch["views"])
        loss = (regression(z1_BD, t2_BD) + regression(z2_BD, t1_BD)) / 2
        return {"regression": loss}, t1_BD

    def after_update(self, progress: float) -> None:
        """The teacher follows."""
        self.teacher.follow(self._student(), cosine_momentum(self.config.momentum, progress))

    def _student(self) -> Branch:
        return Branch(self.encoder, self.head)
