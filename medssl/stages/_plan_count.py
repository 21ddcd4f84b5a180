"""Memory of a training step by counting: what one forward pass of the encoder keeps.

A rule of thumb that chooses the micro-batch before a trial measures it, and instead of one where
``measure=false``. docs/results/plan.md compares it with real runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medssl.core.viewspec import ViewSpec
from medssl.encoders._base import Encoder
from medssl.stages._anatomy import load_network
from medssl.stages.pretrain import PretrainConfig

# A process with the libraries loaded.
_LIBRARIES_BYTES = 9e8
# Bytes per weight: itself, its gradient, two moments; and a checkpoint twice, while it is written.
_STATE_BYTES, _CHECKPOINT_BYTES = 16, 24
# Of a number of an embedding.
_EMBEDDED_BYTES = 2
# What a step takes, objective and backward pass included, to what the encoder's forward keeps;
# from the runs of docs/results/plan.md.
_REST = 4.0


@dataclass(frozen=True)
class Count:
    """Bytes of a step: ``fixed`` and ``sample`` times the micro-batch."""

    fixed: float
    sample: float
    parameters: int

    def step(self, micro_batch: int) -> float:
        """Peak memory of a process that trains with this micro-batch."""
        return self.fixed + self.sample * micro_batch

    def largest(self, batch: int, limit: float) -> int:
        """The largest micro-batch that ``batch`` is a multiple of and that fits; at least 1."""
        parts = (n for n in range(1, batch + 1) if batch % n == 0)
        return next((batch // n for n in parts if self.step(batch // n) <= limit), 1)


def count(config: PretrainConfig, encoder: Encoder, spec: ViewSpec) -> Count:
    """Count on the CPU, with a view of noise."""
    assert config.crop is not None
    crop = config.crop
    views = sum(view.count * math.prod(view.tiles) * math.prod(view.crop) for view in spec.views)
    views *= max(spec.partitions, 1) * (1 + (spec.partner is not None)) * (spec.stack or 1)
    bf16 = config.precision.startswith("bf16")
    # The difference leaves out what does not grow with the batch, such as weights as bfloat16.
    one, two = (_kept_bytes(encoder, n, crop, bf16=bf16) for n in (1, 2))
    weights = sum(weight.numel() for weight in encoder.parameters())
    return Count(
        fixed=_LIBRARIES_BYTES + weights * (_STATE_BYTES + _CHECKPOINT_BYTES),
        sample=_REST * (two - one) * views / math.prod(crop),
        parameters=weights,
    )


def embedding_bytes(run: Path, voxels: int) -> float:
    """On the disk, of the dense embeddings that a run of ``objective=anatomy`` makes of records.

    Raises:
        UsageError: the run holds no dense embedding.
    """
    network = load_network(run)
    crop = network.card.patch_size
    with torch.inference_mode():
        x = torch.zeros(1, network.card.in_channels, *crop)
        fine, coarse = network.embedding(network.encoder(x))
    numbers = fine.numel() + coarse.numel() + fine[:, 0].numel()  # and a length per fine cell
    return float(_EMBEDDED_BYTES * numbers / math.prod(crop) * voxels)


def _kept_bytes(encoder: Encoder, samples: int, crop: tuple[int, ...], *, bf16: bool) -> int:
    """Bytes that autograd keeps of a batch of views, weights left out."""
    own = {one.untyped_storage().data_ptr() for one in encoder.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def note(x: torch.Tensor) -> torch.Tensor:
        address = x.untyped_storage().data_ptr()
        if address not in own:
            kept[address] = x  # holding it keeps its address from being used again
        return x

    def back(x: torch.Tensor) -> Any:
        return x

    view = torch.randn(samples, encoder.in_channels, *crop)
    with (
        torch.autograd.graph.saved_tensors_hooks(note, back),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16),
    ):
        encoder(view)
    return sum(x.untyped_storage().nbytes() for x in kept.values())
