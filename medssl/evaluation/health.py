"""Signs of collapse that need no labels, and one verdict from them in plain words.

N samples, Q augmented views of each, D width, K prototypes. All in float64: ranks are ratios of
small numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

State = Literal["healthy", "shrinking", "collapsed"]
STATES: tuple[State, ...] = ("healthy", "shrinking", "collapsed")

# G15 of the golden checks: 1 = directions spread evenly, 0 = one direction for all samples.
FLAT_STD = 0.05
# Nats that targets say about their sample: fewer mean nothing, ...
SILENT_NATS = 0.02
# ... if they are also fewer than this share of what the untrained network's said. Prototypes in use
# fall to the number of groups that there are; below this share few samples are told apart.
LOST = 0.1
# LiDAR, and the entropy of the mean target, have fallen below this share of the untrained ones.
FALLEN = 0.5
# The same for measures that see the mean vector too. Vectors of convolutional networks share a
# large one, untrained spreads are 0.03 to 0.08, and in good runs they and RankMe dip to two fifths
# and a third; in planted collapses spreads fall to a tenth.
FALLEN_UNCENTRED = 0.25
# Weight of the identity in LiDAR's covariance within samples (Thilak et al. 2023).
_WITHIN = 1e-4


def effective_rank(sizes: Tensor) -> float:
    """exp(-sum p log p) of p = s / sum(s) + 1e-7: RankMe of singular values (Garrido et al. 2023).

    >>> round(effective_rank(torch.tensor([2.0, 1.0])), 4)
    1.8899
    """
    s = sizes.double()
    if not torch.isfinite(s).all():
        return math.nan
    if s.sum() == 0:
        return 1.0
    p = s / s.sum() + 1e-7
    return float((-p * p.log()).sum().exp())


def rankme(z_ND: Tensor) -> float:
    """Number of directions that embeddings use: 1 to min(N, D); rows are not centred.

    Compare within one architecture only (Garrido et al. 2023, Eq. 1). NaN where rows are not
    finite.

    >>> round(rankme(torch.ones(5, 3)), 3)
    1.0
    """
    if not torch.isfinite(z_ND).all():
        return math.nan
    return effective_rank(torch.linalg.svdvals(z_ND.double()))


def lidar(z_NQD: Tensor) -> float:
    """Directions in which samples differ more than views of one sample do (Thilak et al. 2023).

    Effective rank of S_w^-1/2 S_b S_w^-1/2: S_b covariance of the samples' means, S_w mean
    covariance within samples + 1e-4 I. At most N - 1, since the means are centred.
    """
    n, q, d = z_NQD.shape
    if not torch.isfinite(z_NQD).all():
        return math.nan
    z = z_NQD.double()
    means_ND = z.mean(1)
    within = (z - means_ND[:, None]).reshape(-1, d) / math.sqrt(n * max(q - 1, 1))
    between_ND = (means_ND - means_ND.mean(0)) / math.sqrt(max(n - 1, 1))
    # S_w is _WITHIN off the axes of ``within``. Its Cholesky factor would fail where features are
    # so large that _WITHIN is lost in rounding: in a run that diverges, just when this is read.
    _, sizes, axes = torch.linalg.svd(within, full_matrices=False)
    on_axes = between_ND @ axes.T
    off_axes = (between_ND - on_axes @ axes) / math.sqrt(_WITHIN)
    half = torch.cat([on_axes / (sizes.square() + _WITHIN).sqrt(), off_axes], dim=1)
    return effective_rank(torch.linalg.svdvals(half)[:d].square())


def feature_std(z_ND: Tensor) -> float:
    """Spread of directions: std over samples of z/|z|, mean over features, times sqrt(D).

    About 1 where directions are even, sqrt(k/D) where k features are in use, 0 where all are equal.
    """
    z = torch.nn.functional.normalize(z_ND.double(), dim=1)
    return float(z.std(0, unbiased=False).mean() * math.sqrt(z.shape[1]))


@dataclass(frozen=True)
class Verdict:
    """What the measures say together."""

    state: State
    why: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.state}: {self.why}" + (f"; try: {self.fix}" if self.fix else "")


_SAME = "all samples look almost the same to the {what} (spread {now:.3f}, {first:.3f} untrained)"
_SPREADS = (("embedding_std", "loss"), ("target_std", "teacher"), ("feature_std", "encoder"))
_TRY_SAME = (
    "a lower lr, a longer warm-up, stronger views or a larger batch; stop-gradient, predictor, "
    "centring and momentum at their defaults"
)
_TRY_TARGETS = (
    "a higher teacher temperature if one prototype takes all, a lower one if all targets are "
    "uniform; centring or sinkhorn at its default; fewer prototypes"
)
_TRY_GRADIENT = "a batch_size above 1: many losses compare the samples of a batch"
_TRY_RANK = "a lower lr, more varied records, a larger batch; compare with a probe before stopping"


def verdict(values: Mapping[str, float], first: Mapping[str, float]) -> Verdict:
    """Judge an evaluation against ``first``, that of the untrained network.

    ``values`` hold ``rankme``, ``lidar`` and ``feature_std`` of the encoder and, where the
    objective has them, ``embedding_std`` of what its loss compares, ``target_std`` of targets over
    samples, ``teacher_entropy`` (mean entropy of targets), ``mean_entropy`` (entropy of the mean
    target), in nats, and ``prototype_usage``.

    *collapsed*: a number is not finite; the encoder has no gradient (``grad_norm/encoder...``); a
    spread is below 0.05 and a quarter of the untrained one; or targets tell samples apart by less
    than 0.02 nats and a tenth of what the untrained ones did. *shrinking*: LiDAR is below half of
    the untrained one, RankMe below a quarter, or prototype usage below a tenth.
    """
    broken = sorted(key for key, value in values.items() if not math.isfinite(value))
    if broken:
        why = f"not finite: {', '.join(broken)}"
        return Verdict("collapsed", why, "a lower lr, or precision=32-true")
    gradients = [size for key, size in values.items() if key.startswith("grad_norm/encoder")]
    if gradients and not any(gradients):
        return Verdict("collapsed", "the loss gives the encoder no gradient", _TRY_GRADIENT)
    for key, what in _SPREADS:
        if key in values and values[key] < min(FLAT_STD, FALLEN_UNCENTRED * first[key]):
            why = _SAME.format(what=what, now=values[key], first=first[key])
            return Verdict("collapsed", why, _TRY_SAME)
    return _targets(values, first) or _shrinking(values, first) or Verdict("healthy", _fine(values))


def information(values: Mapping[str, float]) -> float:
    """Nats that a target says about its sample: entropy of the mean minus mean entropy.

    0 in both kinds of collapse: every sample the same prototype, or every sample all of them.

    >>> information({"mean_entropy": 2.0, "teacher_entropy": 0.5})
    1.5
    """
    return values["mean_entropy"] - values["teacher_entropy"]


def _targets(values: Mapping[str, float], first: Mapping[str, float]) -> Verdict | None:
    if not {"mean_entropy", "teacher_entropy"} <= values.keys():
        return None
    now, before = information(values), information(first)
    if now >= min(SILENT_NATS, LOST * before):
        return None
    kind = "every sample has all prototypes alike"
    if values["mean_entropy"] < FALLEN * first["mean_entropy"]:
        kind = "one prototype takes every sample"
    why = f"targets no longer tell samples apart: {kind} ({now:.4f} nats, {before:.4f} untrained)"
    return Verdict("collapsed", why, _TRY_TARGETS)


def _shrinking(values: Mapping[str, float], first: Mapping[str, float]) -> Verdict | None:
    rules = {
        "rankme": (FALLEN_UNCENTRED, "features use fewer directions (RankMe"),
        "lidar": (FALLEN, "fewer directions tell samples apart (LiDAR"),
        "prototype_usage": (LOST, "fewer prototypes are used (share"),
    }
    told = [
        f"{words} {values[key]:.2f}, {first[key]:.2f} untrained)"
        for key, (share, words) in rules.items()
        if key in values and values[key] < share * first[key]
    ]
    if not told:
        return None
    return Verdict("shrinking", "; ".join(told), _TRY_RANK)


def _fine(values: Mapping[str, float]) -> str:
    return f"RankMe {values['rankme']:.1f}, LiDAR {values['lidar']:.1f}"
