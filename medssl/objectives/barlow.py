"""Make the cross-correlation of two views' features the identity; optionally with mixed samples.

Each feature is standardised over the batch. A feature should agree with itself across views
(diagonal 1) and with no other feature (off-diagonal 0). With ``mixed`` above 0 the embedding of a
mixture of two samples should also be the mixture of their embeddings, which counters overfitting
on small sets.

Algorithm:
    a, b = head(encoder(view 1)), head(encoder(view 2)), all ranks gathered, standardised
    C = a^T b / B
    loss = sum (1 - C_ii)^2 + lambda sum_{i != j} C_ij^2
    mixed: x_m = alpha view 1 + (1 - alpha) view 2 of another sample, alpha uniform in (0, 1)
           loss += mixed * lambda * (|C(z_m, a) - C(e, a)|^2 + |C(z_m, b) - C(e, b)|^2),
           e = alpha a + (1 - alpha) b of the other sample

Loss:
    C_ij = sum_b a_bi b_bj / B, columns of a and b with mean 0 and variance 1 (variance over B too)

When to use:
    Batches of 16 or more without negatives; needs no teacher. Choose ``out`` after the batch: B
    samples correlate D unrelated features by 1/sqrt(B), so the off-diagonal sum stays near D^2/B
    whatever the encoder does. With 32 pictures ``out=128`` beat 1024 by little (docs/results/
    representations.md). ``mixed`` 1 to 4 for small archives of one modality: mixtures of Hounsfield
    units with normalised MR make no sense.

Source:
    Zbontar et al. 2021, "Barlow Twins"; Bandara et al. 2023, "Guarding Barlow Twins Against
    Overfitting with Mixed Samples". Departures: head 1024 wide in place of 8192, and lambda 1/128
    as its authors use for small sets; the other sample is the one a random number of places on in
    the order of records, equal for all devices, instead of a random permutation; one alpha per
    update.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from medssl.core.seeding import generator
from medssl.core.task import Batch
from medssl.core.viewspec import Setting
from medssl.encoders._base import Encoder
from medssl.objectives._parts.distributed import gather, rank
from medssl.objectives._parts.heads import Norm, Projector
from medssl.objectives._parts.pair import Pair, PairConfig, view_vectors
from medssl.objectives._parts.precision import no_autocast, upcast

# B batch, D features


class Config(PairConfig):
    """Options of ``barlow``."""

    redundancy: float = Field(default=1 / 128, ge=0)
    """lambda, weight of the off-diagonal; 0.0051 in the paper for 8192 features."""
    mixed: float = Field(default=0.0, ge=0)
    """Weight of the mixed samples, in units of lambda; 0 = plain Barlow Twins."""
    out: int = Field(default=1024, ge=2)
    """Width of the embedding, D; about 128 for batches of tens."""
    norm: Norm = "batch"
    """Norm in the head: ``batch`` (over all devices); ``layer`` for batches below 8."""


def standardise(z_BD: Tensor) -> Tensor:
    """Each feature with mean 0 and variance 1 over the batch; a constant feature becomes 0.

    The variance divides by B, as the correlation does: with B - 1 it would miss 1 by 1/B.

    >>> standardise(torch.tensor([[1.0, 5.0], [3.0, 5.0]])).round().tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    """
    centred_BD = upcast(z_BD) - upcast(z_BD).mean(0)
    return centred_BD * (centred_BD.square().mean(0) + 1e-5).rsqrt()


def cross_correlation(a_BD: Tensor, b_BD: Tensor) -> Tensor:
    """C (D, D) = a^T b / B."""
    with no_autocast(a_BD):
        return upcast(a_BD).T @ upcast(b_BD) / len(a_BD)


def barlow_terms(a_BD: Tensor, b_BD: Tensor) -> dict[str, Tensor]:
    """On- and off-diagonal error of the correlation of standardised features (Zbontar Eq. 1).

    Features of opposite sign pay (1 + 1)^2 each:

    >>> z = standardise(torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]))
    >>> {name: round(term.item(), 3) for name, term in barlow_terms(z, -z).items()}
    {'invariance': 8.0, 'redundancy': 0.0}
    """
    c_DD = cross_correlation(a_BD, b_BD)
    different_DD = c_DD - torch.diag(c_DD.diagonal())
    return {
        "invariance": (1 - c_DD.diagonal()).square().sum(),
        "redundancy": different_DD.square().sum(),
    }


def mixing_error(
    mixed_BD: Tensor, a_BD: Tensor, b_BD: Tensor, partner_B: Tensor, alpha: float
) -> Tensor:
    """How far the embedding of mixtures is from the mixture of embeddings (Bandara Eq. 5-9).

    Difference of correlations is correlation of the difference:
    sum over z in (a, b) of |(z_m - e)^T z / B|^2 with e = alpha a + (1 - alpha) b[partner].

    >>> a, b = torch.eye(3), torch.ones(3, 3)
    >>> mixing_error(0.25 * a + 0.75 * b, a, b, torch.tensor([1, 2, 0]), 0.25).item()
    0.0
    """
    gap_BD = upcast(mixed_BD) - alpha * upcast(a_BD) - (1 - alpha) * upcast(b_BD)[partner_B]
    first, second = (cross_correlation(gap_BD, z_BD) for z_BD in (a_BD, b_BD))
    return first.square().sum() + second.square().sum()


class Objective(Pair):
    """``barlow`` wired to an encoder."""

    updates: Tensor

    def __init__(self, encoder: Encoder, config: Config, setting: Setting) -> None:
        super().__init__(encoder, config, setting)
        self.config, redundancy = config, config.redundancy
        self.weights = {"redundancy": redundancy, "mixed": config.mixed * redundancy}
        self.head = Projector(encoder.width, config.hidden, config.out, 3, norm=config.norm)
        if config.mixed:
            # Mixtures are drawn from it, so that every device and a resumed run draw the same.
            self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def compare(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The terms over the global batch, and its embeddings."""
        vectors = view_vectors(self.encoder, batch["views"])
        first_BD, second_BD = (gather(self.head(vector)) for vector in vectors)
        a_BD, b_BD = standardise(first_BD), standardise(second_BD)
        terms = barlow_terms(a_BD, b_BD)
        if self.config.mixed:
            alpha, partner_B = self._draw(gather(batch["record"]))
            mixture = self._mixture(batch, alpha, partner_B)
            mixed_BD = standardise(gather(self.head(self.encoder(mixture).global_BD)))
            terms["mixed"] = mixing_error(mixed_BD, a_BD, b_BD, partner_B, alpha)
        return terms, first_BD

    def after_update(self, progress: float) -> None:  # noqa: ARG002
        """New mixtures for the next update."""
        if self.config.mixed:
            self.updates += 1

    def _draw(self, record_B: Tensor) -> tuple[float, Tensor]:
        """Mixing weight and each sample's partner in the global batch."""
        rng = generator(0, "mixed", int(self.updates))
        order = record_B.argsort(stable=True)
        partner = torch.empty_like(order)
        partner[order] = order.roll(int(rng.integers(1, max(len(order), 2))))
        return float(rng.beta(1, 1)), partner

    @torch.no_grad()
    def _mixture(self, batch: Batch, alpha: float, partner_B: Tensor) -> Tensor:
        first, second = (view["x"] for view in batch["views"])
        rows = slice(rank() * len(first), (rank() + 1) * len(first))
        mixture: Tensor = alpha * first + (1 - alpha) * gather(second)[partner_B[rows]]
        return mixture
