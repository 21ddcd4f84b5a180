"""Attentive probe: one learned query looks at frozen tokens, a linear layer reads what it finds.

A mean over tokens hides what few of them show; a query that is learned with the classifier finds
them (V-JEPA, Bardes et al. 2024). With one query and one head, the projections of keys and values
are linear maps before and after the sum over tokens: the query and the linear layer hold them
already. So the probe has D + D K + K numbers, and begins as a linear probe on the mean.

N samples, T tokens, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medssl.core.errors import UsageError
from medssl.core.seeding import generator
from medssl.evaluation.linear import IntArray, classes_of, macro_auroc

# Of the squares of query and weights, relative to the mean loss.
L2_GRID = (1e-4, 1e-3, 1e-2)
_STEPS = 400
_BATCH = 64
_RATE = 0.02


@dataclass(frozen=True, eq=False)
class AttentiveProbe:
    """``scores`` grow with the chance of a class; ``l2`` is the strength that was chosen."""

    mean_D: Tensor
    spread_D: Tensor
    query_D: Tensor
    weight_KD: Tensor
    bias_K: Tensor
    l2: float

    def attention(self, tokens_MTD: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """(M, T) shares of the tokens in what is read; each row sums to 1."""
        return np.concatenate([_shares(x, self.query_D).numpy() for x in self._pieces(tokens_MTD)])

    def scores(self, tokens_MTD: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """(M, K) log odds, up to a constant of the row."""
        parts = (self.query_D, self.weight_KD, self.bias_K)
        return np.concatenate([_logits(x, *parts).numpy() for x in self._pieces(tokens_MTD)])

    def predict(self, tokens_MTD: npt.ArrayLike) -> IntArray:
        """(M,) class with the largest score."""
        return np.asarray(self.scores(tokens_MTD).argmax(1))

    def _pieces(self, tokens_MTD: npt.ArrayLike) -> list[Tensor]:
        tokens = torch.as_tensor(np.asarray(tokens_MTD, dtype=np.float32))
        if tokens.ndim != 3 or not len(tokens) or tokens.shape[2] != len(self.mean_D):
            raise UsageError(
                f"tokens {tuple(tokens.shape)}, trained on {len(self.mean_D)} features"
            )
        return [(x - self.mean_D) / self.spread_D for x in torch.split(tokens, _BATCH)]


def attentive_probe(
    train: tuple[npt.ArrayLike, npt.ArrayLike],
    val: tuple[npt.ArrayLike, npt.ArrayLike],
    *,
    grid: Sequence[float] = L2_GRID,
    seed: int = 0,
) -> AttentiveProbe:
    """The probe whose penalty does best on the validation set, the stronger one of equals.

    Best is the larger macro AUROC. Tokens are standardised with the mean and spread of the
    training set's; nothing here sees the encoder.

    Args:
        train: tokens (N, T, D) and classes (N,), whole numbers from 0.
        val: the same for validation; its patients are not in ``train``.
        grid: strengths to try.
        seed: order of the samples.

    Raises:
        UsageError: not finite, shapes that do not fit, fewer than two classes in either set, or a
            class in ``val`` alone.
    """
    tokens, y_N = _table(*train)
    val_tokens, y_val = _table(*val)
    if val_tokens.shape[2] != tokens.shape[2]:
        raise UsageError(
            f"{tokens.shape[2]} features to train on, {val_tokens.shape[2]} to validate"
        )
    if y_val.max() > y_N.max():
        raise UsageError("the validation set holds a class that the training set has not")
    probes = [fit_attentive(tokens, y_N, l2, seed) for l2 in sorted(grid, reverse=True)]
    return max(probes, key=lambda probe: macro_auroc(y_val, probe.scores(val_tokens)))


def fit_attentive(
    tokens_NTD: npt.ArrayLike, y_N: npt.ArrayLike, l2: float, seed: int = 0
) -> AttentiveProbe:
    """Cross-entropy + l2/2 (|query|^2 + |weights|^2), by Adam with a rate that falls to 0.

    Raises:
        UsageError: not finite, shapes that do not fit, or fewer than two classes.
    """
    tokens, y = _table(tokens_NTD, y_N)
    flat = tokens.reshape(-1, tokens.shape[2]).astype(np.float64)
    mean, spread = flat.mean(0), flat.std(0)
    # A feature that is constant up to rounding would be noise blown up to size 1.
    spread = np.where(spread <= 1e-7 * np.abs(flat).max(0), np.inf, spread)
    mean_D, spread_D = (torch.from_numpy(x.astype(np.float32)) for x in (mean, spread))
    query_D = nn.Parameter(torch.zeros(tokens.shape[2]))
    weight_KD = nn.Parameter(torch.zeros(int(y.max()) + 1, tokens.shape[2]))
    bias_K = nn.Parameter(torch.zeros(len(weight_KD)))
    optimiser = torch.optim.Adam([query_D, weight_KD, bias_K], lr=_RATE)
    rng = generator(seed, "attentive probe")
    for step in range(_STEPS):
        optimiser.param_groups[0]["lr"] = _RATE * (1 - step / _STEPS)
        chosen = rng.permutation(len(y))[:_BATCH]
        x_BTD = (torch.from_numpy(tokens[chosen]) - mean_D) / spread_D
        logits_BK = _logits(x_BTD, query_D, weight_KD, bias_K)
        loss = nn.functional.cross_entropy(logits_BK, torch.from_numpy(y[chosen]))
        loss = loss + l2 / 2 * (query_D.square().sum() + weight_KD.square().sum())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    parts = (query_D.detach(), weight_KD.detach(), bias_K.detach())
    return AttentiveProbe(mean_D, spread_D, *parts, l2)


def _shares(x_BTD: Tensor, query_D: Tensor) -> Tensor:
    return (x_BTD @ query_D).softmax(1)


def _logits(x_BTD: Tensor, query_D: Tensor, weight_KD: Tensor, bias_K: Tensor) -> Tensor:
    found_BD = torch.einsum("bt,btd->bd", _shares(x_BTD, query_D), x_BTD)
    return nn.functional.linear(found_BD, weight_KD, bias_K)


def _table(
    tokens_NTD: npt.ArrayLike, y_N: npt.ArrayLike
) -> tuple[npt.NDArray[np.float32], IntArray]:
    tokens = np.asarray(tokens_NTD, dtype=np.float32)
    return tokens, classes_of(tokens, y_N, 3)
