"""Losses, head and targets of self-distillation (DINO, iBOT, DINOv2, DINOv3).

T teacher views, S student views, B samples, N tokens, M hidden tokens of a batch, K prototypes,
D width. All losses are float32 or wider.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medssl.objectives._parts.distributed import total
from medssl.objectives._parts.heads import Norm, make_norm
from medssl.objectives._parts.precision import no_autocast, upcast
from medssl.objectives._parts.prototypes import Prototypes
from medssl.objectives._parts.sinkhorn import sinkhorn


def cross_view_entropy(targets_TBK: Tensor, logits_SBK: Tensor, temperature: float) -> Tensor:
    """Mean of CE(t, softmax(s / temperature)) over samples and pairs of different views.

    The first T student views are the teacher's. Caron et al. 2021, equation 3.

    >>> cross_view_entropy(torch.full((2, 3, 4), 0.25), torch.ones(2, 3, 4), 0.1)
    tensor(1.3863)
    """
    with no_autocast(logits_SBK):
        log_p_SBK = (upcast(logits_SBK) / temperature).log_softmax(2)
        pairs_TS = -torch.einsum("tbk,sbk->ts", targets_TBK.to(log_p_SBK.dtype), log_p_SBK)
    same = torch.eye(*pairs_TS.shape, dtype=torch.bool, device=pairs_TS.device)
    return pairs_TS[~same].mean() / logits_SBK.shape[1]


def all_views_entropy(targets_BK: Tensor, logits_VBK: Tensor, temperature: float) -> Tensor:
    """Mean of CE(t, softmax(s / temperature)) over samples and views, all with one target each.

    >>> all_views_entropy(torch.full((3, 4), 0.25), torch.ones(2, 3, 4), 0.1)
    tensor(1.3863)
    """
    log_p_VBK = (upcast(logits_VBK) / temperature).log_softmax(2)
    return -(targets_BK * log_p_VBK).sum(2).mean()


def hidden_token_entropy(
    targets_MK: Tensor, logits_MK: Tensor, mask_BN: Tensor, temperature: float
) -> Tensor:
    """Mean over samples of the mean CE over a sample's hidden tokens; without any it adds 0.

    Rows are in the order of ``mask_BN.nonzero()``. Zhou et al. 2022 (iBOT), equation 2.

    >>> mask = torch.tensor([[True, True, True], [True, False, False]])
    >>> hidden_token_entropy(torch.full((4, 2), 0.5), torch.zeros(4, 2), mask, 0.1)
    tensor(0.6931)
    """
    log_p_MK = (upcast(logits_MK) / temperature).log_softmax(1)
    entropy_M = -(targets_MK * log_p_MK).sum(1)
    share_B1 = 1 / mask_BN.sum(1, keepdim=True).clamp(min=1)
    weights_M = share_B1.expand(mask_BN.shape)[mask_BN]
    return (entropy_M * weights_M).sum() / len(mask_BN)


def koleo(x_BD: Tensor, record_B: Tensor) -> Tensor:
    """-mean log of each sample's distance to its nearest neighbour on the sphere.

    Views of one record are no neighbours of each other: their distance of nearly 0 would be the
    whole loss. Samples without a neighbour are left out. Sablayrolles et al. 2019; DINOv2.

    >>> koleo(torch.tensor([[1.0, 0.0], [-3.0, 0.0]]), torch.arange(2))
    tensor(-0.6931)
    """
    with no_autocast(x_BD):
        unit = F.normalize(upcast(x_BD), dim=-1, eps=1e-8)
        same = record_B[:, None] == record_B[None]
        nearest = (unit @ unit.T).detach().masked_fill(same, -2.0).argmax(1)
        distance = F.pairwise_distance(unit, unit[nearest], eps=1e-8)
    counted = ~same.all(1)
    spread = -(distance + 1e-8).log() * counted
    return spread.sum() / counted.sum().clamp(min=1)


def gram_loss(x_BND: Tensor, anchor_BND: Tensor) -> Tensor:
    """Mean squared difference of the cosines between tokens of one sample. Simeoni et al. 2025.

    >>> gram_loss(torch.ones(1, 4, 4), torch.eye(4)[None])
    tensor(0.7500)
    """
    with no_autocast(x_BND):
        x, anchor = (F.normalize(upcast(v), dim=-1, eps=1e-6) for v in (x_BND, anchor_BND))
        difference = x @ x.transpose(1, 2) - anchor @ anchor.transpose(1, 2)
    return difference.square().mean()


def warmed(ends: tuple[float, float], share: float, progress: float) -> float:
    """From the first to the second value, linearly over a share of all steps.

    >>> [round(warmed((0.04, 0.07), 0.3, p), 3) for p in (0.0, 0.15, 0.3, 1.0)]
    [0.04, 0.055, 0.07, 0.07]
    """
    start, end = ends
    return end if progress >= share else start + (end - start) * progress / share


class DinoHead(nn.Module):
    """Three linear layers with norms, unit length, cosines with prototypes.

    The norm takes out what all samples share. Without it, encoders whose global vectors have a
    large common mean (instance norms) give every sample the same cosines, no temperature tells
    them apart, and targets say nothing.
    """

    def __init__(
        self, width: int, hidden: int, bottleneck: int, prototypes: int, *, norm: Norm = "batch"
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers.append(nn.Linear(width, hidden, bias=norm == "none"))
            layers += [*make_norm(norm, hidden), nn.GELU()]
            width = hidden
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden, bottleneck))
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        self.prototypes = Prototypes(bottleneck, prototypes)

    def forward(self, x_ND: Tensor) -> Tensor:
        """Features (N, width) -> logits (N, K)."""
        out: Tensor = self.prototypes(self.mlp(x_ND))
        return out


class Targets(nn.Module):
    """How a teacher's logits become targets that cannot collapse."""

    @abstractmethod
    def forward(self, logits_NK: Tensor, temperature: float) -> Tensor:
        """Probabilities (N, K), without gradient."""

    def note(self, logits_NK: Tensor) -> None:
        """Raw logits of a training step."""

    def update(self) -> None:
        """Use what was noted: once per optimiser step, on all ranks."""

    def forget(self) -> None:
        """Drop what was noted."""


class Balanced(Targets):
    """Sinkhorn: every prototype gets the same share of the batch (DINOv2, DINOv3)."""

    @torch.no_grad()
    def forward(self, logits_NK: Tensor, temperature: float) -> Tensor:
        return sinkhorn(logits_NK, temperature)


class Centred(Targets):
    """softmax((logits - centre) / temperature); the centre is a moving mean of raw logits."""

    centre_K: Tensor

    def __init__(self, prototypes: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("centre_K", torch.zeros(prototypes))
        self._noted: list[Tensor] = []

    @torch.no_grad()
    def forward(self, logits_NK: Tensor, temperature: float) -> Tensor:
        return ((upcast(logits_NK) - self.centre_K) / temperature).softmax(1)

    @torch.no_grad()
    def note(self, logits_NK: Tensor) -> None:
        rows = logits_NK.new_full((1,), len(logits_NK))
        self._noted.append(torch.cat([upcast(logits_NK).sum(0), upcast(rows)]))

    @torch.no_grad()
    def update(self) -> None:
        """Centre <- m centre + (1 - m) mean of the logits of all ranks and micro-batches."""
        if not self._noted:
            return
        noted = total(torch.stack(self._noted).sum(0))
        if noted[-1] > 0:
            self.centre_K.lerp_((noted[:-1] / noted[-1]).to(self.centre_K), 1 - self.momentum)
        self.forget()

    def forget(self) -> None:
        self._noted.clear()
