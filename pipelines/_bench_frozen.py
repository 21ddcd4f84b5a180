"""Frozen features of pictures in memory.

C channels, N samples, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medssl.encoders._base import Encoder
from medssl.stages._features import pooled

Array = npt.NDArray[Any]


@torch.no_grad()
def embed(encoder: Encoder, x_NC: Tensor) -> Array:
    """One vector (N, D) per picture."""
    encoder.eval()
    vectors = [pooled(encoder(part)) for part in torch.split(x_NC, 64)]
    return np.asarray(torch.cat(vectors).float().numpy())


def pad_to(x: Tensor, multiple: Sequence[int]) -> Tensor:
    """Edge values behind the last voxel of each axis, up to a multiple."""
    ends: list[int] = []
    for size, step in reversed(list(zip(x.shape[1:], multiple, strict=True))):
        ends += [0, -size % step]
    return nn.functional.pad(x[None], ends, mode="replicate")[0]
