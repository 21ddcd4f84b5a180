"""Vectors of past batches, kept in order: more samples than a small batch has."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Record number of places that hold no vector yet, but random directions.
_NOBODY = -1


class Queue(nn.Module):
    """The last K vectors and the records they come from; the same on every rank."""

    key_KD: Tensor
    record_K: Tensor
    pointer: Tensor

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.register_buffer("key_KD", F.normalize(torch.randn(length, width)))
        self.register_buffer("record_K", torch.full((length,), _NOBODY))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    @property
    def full(self) -> bool:
        """Whether every place holds a vector that was pushed."""
        return bool((self.record_K != _NOBODY).all())

    def forget_records(self) -> None:
        """The vectors stay; whose they were no longer means anything."""
        self.record_K.fill_(_NOBODY)

    @torch.no_grad()
    def push(self, key_ND: Tensor, record_N: Tensor) -> None:
        """The oldest vectors give way to these, in order."""
        length = len(self.key_KD)
        start = int(self.pointer) + max(len(key_ND) - length, 0)
        key_ND, record_N = key_ND[-length:], record_N[-length:]
        places = (start + torch.arange(len(key_ND), device=key_ND.device)) % length
        self.key_KD[places] = key_ND.to(self.key_KD.dtype)
        self.record_K[places] = record_N
        self.pointer.fill_((start + len(key_ND)) % length)
