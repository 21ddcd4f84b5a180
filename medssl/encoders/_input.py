"""Input channels and grey levels of image networks whose public weights expect RGB.

O output channels, I and C input channels, k kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def adapt_kernel(kernel_OIk: Tensor, channels: int) -> Tensor:
    """First kernel for another number of input channels: the sum over inputs, shared equally.

    A grey picture then gives what its copy to all former channels gave: RGB to grey adds up,
    grey to RGB divides.

    >>> adapt_kernel(torch.tensor([[[1.0], [2.0], [3.0]]]), 1)
    tensor([[[6.]]])
    >>> adapt_kernel(torch.tensor([[[6.0]]]), 3).flatten().tolist()
    [2.0, 2.0, 2.0]
    """
    if kernel_OIk.shape[1] == channels:
        return kernel_OIk
    total = kernel_OIk.sum(1, keepdim=True) / channels
    return total.expand(-1, channels, *total.shape[2:]).contiguous()


def adapt_input(weights: dict[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    """Weights of an encoder with other input channels, for this one; the rest as it is."""
    own = encoder.state_dict()
    adapted = dict(weights)
    for key, value in weights.items():
        there = own.get(key, value)
        if there.shape == value.shape or there.ndim != value.ndim:
            continue
        if value.ndim > 1:
            adapted[key] = adapt_kernel(value, there.shape[1])
        elif key.startswith("scale."):
            adapted[key] = value.mean().expand(there.shape)
    return adapted


class InputScale(nn.Module):
    """(x - mean) / std per channel, kept with the weights; 0 and 1 unless public weights say else.

    x is as the contract of the card makes it; mean and std are those that the weights were
    trained with, for pictures in [0, 1].
    """

    mean_C: Tensor
    std_C: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean_C", torch.zeros(channels))
        self.register_buffer("std_C", torch.ones(channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        shape = (1, -1, 1, 1)
        return (x_BCHW - self.mean_C.view(shape)) / self.std_C.view(shape)
