"""Projection and prediction heads: small MLPs between an encoder and its loss."""

from __future__ import annotations

from typing import Literal

from torch import nn

from medssl.objectives._parts.norm import BatchNorm

Norm = Literal["batch", "layer", "none"]
Activation = Literal["relu", "gelu"]


class Projector(nn.Sequential):
    """MLP ``width -> hidden -> ... -> out`` with ``layers`` linear layers.

    Every hidden layer is followed by a norm and an activation. The last one is linear and has no
    bias: most losses here are blind to a shift of all embeddings, which would leave the bias
    without gradient. ``layers=1`` is one linear layer.

    Args:
        width: of the input (``encoder.width``).
        hidden: width of hidden layers.
        out: width of the embedding.
        layers: linear layers, at least 1.
        norm: ``batch`` (over all ranks, see :mod:`.norm`), ``layer`` (for very small batches:
            each sample alone) or ``none``.
        activation: after each hidden layer.
        last_norm: batch or layer norm without weights after the last layer too (MoCo v3).
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        out: int,
        layers: int = 2,
        *,
        norm: Norm = "batch",
        activation: Activation = "relu",
        last_norm: bool = False,
    ) -> None:
        parts: list[nn.Module] = []
        for _ in range(layers - 1):
            parts += [nn.Linear(width, hidden, bias=norm == "none"), *make_norm(norm, hidden)]
            parts += [nn.GELU() if activation == "gelu" else nn.ReLU()]
            width = hidden
        parts.append(nn.Linear(width, out, bias=False))
        if last_norm:
            parts += make_norm(norm, out, affine=False)
        super().__init__(*parts)


def cell_projector(channels: int, axes: int) -> nn.Sequential:
    """Two linear layers on each cell of a map with so many axes; the width stays."""
    conv = nn.Conv3d if axes == 3 else nn.Conv2d
    first, last = (conv(channels, channels, 1, bias=False) for _ in range(2))
    return nn.Sequential(first, BatchNorm(channels), nn.ReLU(), last)


def make_norm(norm: Norm, width: int, *, affine: bool = True) -> list[nn.Module]:
    """The norm layer called ``norm``; none for ``none``."""
    if norm == "batch":
        return [BatchNorm(width, affine=affine)]
    return [nn.LayerNorm(width, elementwise_affine=affine)] if norm == "layer" else []
