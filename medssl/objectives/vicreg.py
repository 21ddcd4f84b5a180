"""Equal embeddings of two views, with spread and without redundancy: three explicit terms.

Two views of a sample should have equal embeddings (invariance). Two terms on each batch of
embeddings forbid the trivial answers: every feature keeps a standard deviation of at least 1
(variance), and no two features say the same (covariance). No teacher, no negatives.

Algorithm:
    a, b = head(encoder(view 1)), head(encoder(view 2)), all ranks gathered
    loss = 25 mse(a, b) + 25 (hinge(a) + hinge(b)) / 2 + redundancy(a) + redundancy(b)

Loss:
    hinge(z) = mean over features of max(0, 1 - sqrt(var + 1e-4))
    redundancy(z) = sum over i != j of cov(z)_ij^2 / D, with B - 1 in variance and covariance

When to use:
    As barlow: batches of 16 or more, no negatives wanted. Each term can be read off the log, which
    tells at once what fails: variance near 1 is a collapse.

Source:
    Bardes et al. 2022, "VICReg". Departures: head 1024 wide in place of 8192; a batch of one has
    variance 0, so that it only learns nothing instead of NaN.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from medssl.core.task import Batch
from medssl.core.viewspec import Setting
from medssl.encoders._base import Encoder
from medssl.objectives._parts.distributed import gather
from medssl.objectives._parts.heads import Norm, Projector
from medssl.objectives._parts.pair import Pair, PairConfig, view_vectors
from medssl.objectives._parts.precision import no_autocast, upcast


class Config(PairConfig):
    """Options of ``vicreg``."""

    invariance: float = Field(default=25.0, ge=0)
    """Weight of the distance of both views."""
    variance: float = Field(default=25.0, ge=0)
    """Weight of the spread of each feature."""
    covariance: float = Field(default=1.0, ge=0)
    """Weight of the correlation between features."""
    out: int = Field(default=1024, ge=2)
    """Width of the embedding, D."""
    norm: Norm = "batch"
    """Norm in the head: ``batch`` (over all devices); ``layer`` for batches below 8."""


def variance_hinge(z_BD: Tensor) -> Tensor:
    """Mean over features of max(0, 1 - sqrt(var + 1e-4)) (Bardes et al. Eq. 1-2).

    A point has no spread; the price is 1 - sqrt(1e-4):

    >>> round(variance_hinge(torch.ones(8, 4)).item(), 6)
    0.99
    """
    centred_BD = upcast(z_BD) - upcast(z_BD).mean(0)
    var_D = centred_BD.square().sum(0) / max(len(z_BD) - 1, 1)
    return F.relu(1 - (var_D + 1e-4).sqrt()).mean()


def redundancy(z_BD: Tensor) -> Tensor:
    """Sum of squared covariances between different features, divided by D (Eq. 3-4).

    Two equal features of variance 2: 2 x 2^2 / 2.

    >>> redundancy(torch.tensor([[1.0, 1.0], [-1.0, -1.0]])).item()
    4.0
    """
    centred_BD = upcast(z_BD) - upcast(z_BD).mean(0)
    with no_autocast(z_BD):
        cov_DD = centred_BD.T @ centred_BD / max(len(z_BD) - 1, 1)
    different_DD = cov_DD - torch.diag(cov_DD.diagonal())
    return different_DD.square().sum() / z_BD.shape[1]


class Objective(Pair):
    """``vicreg`` wired to an encoder."""

    def __init__(self, encoder: Encoder, config: Config, setting: Setting) -> None:
        super().__init__(encoder, config, setting)
        self.weights = {
            "invariance": config.invariance,
            "variance": config.variance,
            "covariance": config.covariance,
        }
        self.head = Projector(encoder.width, config.hidden, config.out, 3, norm=config.norm)

    def compare(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The three terms over the global batch, and its embeddings."""
        vectors = view_vectors(self.encoder, batch["views"])
        a_BD, b_BD = (gather(self.head(vector)) for vector in vectors)
        terms = {
            "invariance": F.mse_loss(upcast(a_BD), upcast(b_BD)),
            "variance": (variance_hinge(a_BD) + variance_hinge(b_BD)) / 2,
            "covariance": redundancy(a_BD) + redundancy(b_BD),
        }
        return terms, a_BD
