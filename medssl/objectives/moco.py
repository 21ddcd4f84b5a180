"""Contrast against a slow encoder's keys: from a queue (v2) or from the whole batch (v3).

A query of one view has to pick the key of the other view of the same sample; keys come from a
moving average of the encoder. v2 keeps the keys of past batches in a queue, so that small batches
still have many negatives. v3 has no queue, takes the other samples of the batch, works in both
directions and adds a predictor. Keys of the *same record* are no negatives.

Algorithm:
    v2: q = head(encoder(view 1)); k = teacher(view 2)
        loss = cross entropy(q . [k, queue] / t, 0)
        after the update: teacher follows with momentum m; the queue's oldest keys give way to k
    v3: q1, q2 = predictor(head(encoder(view 1, view 2))); k1, k2 = teacher(view 1, view 2)
        loss = 2 t (cross entropy(q1 . k2 / t, own) + cross entropy(q2 . k1 / t, own))
        after the update: teacher follows; m rises to 1 along a cosine

Loss:
    L = -log( exp(q.k / t) / (exp(q.k / t) + sum over negatives n of exp(q.n / t)) )

When to use:
    v2 for batches of 4 to 32 (volumes); v3 for transformers and batches of 64 or more.

Source:
    He et al. 2020, Chen et al. 2020 (v2), Chen et al. 2021 (v3). Departures: the queue stores
    record numbers, and keys of a query's own record are left out; the queue is a ring of any
    length, so that it need not be a multiple of the batch; batch norms take statistics over all
    devices in place of shuffling; momentum 0.996 in place of v2's 0.999 for shorter runs.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medssl.core.ema import cosine_momentum
from medssl.core.task import Batch, StepOutput
from medssl.core.viewspec import Setting
from medssl.encoders._base import Encoder
from medssl.objectives._parts.contrast import info_nce, queue_nce, unit
from medssl.objectives._parts.distributed import gather, rank
from medssl.objectives._parts.heads import Norm, Projector
from medssl.objectives._parts.pair import Branch, Pair, PairConfig, view_vectors
from medssl.objectives._parts.queue import Queue
from medssl.objectives._parts.teacher import Teacher

# B batch, D width, K keys in the queue


class Config(PairConfig):
    """Options of ``moco``."""

    version: Literal["v2", "v3"] = "v2"
    """``v2``: queue; ``v3``: negatives of the batch, both directions, predictor."""
    queue: int = Field(default=1024, ge=1)
    """Keys kept (v2). K / batch updates pass before a key leaves: longer needs a larger
    momentum."""
    momentum: float = Field(default=0.996, ge=0, le=1)
    """Of the teacher: constant for v2, rising to 1 for v3."""
    temperature: float = Field(default=0.2, gt=0)
    """t."""
    out: int = Field(default=128, ge=2)
    """Width of the embedding."""
    norm: Norm | None = None
    """Norm in head and predictor; default: as in the papers, ``none`` for v2, ``batch`` (over all
    devices) for v3."""
    freeze_patch_embedding: bool = False
    """Leave a transformer's random patch embedding as it is (v3's cure for unstable training)."""


class Objective(Pair):
    """``moco`` wired to an encoder."""

    def __init__(self, encoder: Encoder, config: Config, setting: Setting) -> None:
        super().__init__(encoder, config, setting)
        self.config = config
        if config.freeze_patch_embedding:
            freeze_patch_embedding(encoder)
        v3 = config.version == "v3"
        norm = config.norm or ("batch" if v3 else "none")
        hidden, out = config.hidden, config.out
        self.head = Projector(
            encoder.width, hidden, out, 3 if v3 else 2, norm=norm, last_norm=v3
        )  # fmt: skip
        if v3:
            self.predictor = Projector(out, hidden, out, norm=norm, last_norm=True)
        else:
            self.queue = Queue(config.queue, out)
        self.teacher = Teacher(self._student())
        self._noted: list[tuple[Tensor, Tensor]] = []

    def compare(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The contrast of this rank's queries with keys, and the keys of all ranks."""
        if self.config.version == "v3":
            return self._within_batch(batch)
        return self._against_queue(batch)

    def step(self, batch: Batch) -> StepOutput:
        """The loss; keys are noted for the queue."""
        terms, key_ND = self.compare(batch)
        if self.config.version == "v2" and self.training and torch.is_grad_enabled():
            self._noted.append((key_ND, gather(batch["record"])))
        return self.output(terms, key_ND)

    def after_update(self, progress: float) -> None:
        """The teacher follows; the queue takes the keys of the update."""
        momentum = self.config.momentum
        if self.config.version == "v3":
            momentum = cosine_momentum(momentum, progress)
        self.teacher.follow(self._student(), momentum)
        for key_ND, record_N in self._noted:
            self.queue.push(key_ND, record_N)
        self._noted.clear()

    def discard_update(self) -> None:
        """Keys of a skipped update are not kept."""
        self._noted.clear()

    def forget_records(self) -> None:
        """Keys stay; none is of a record of the new data."""
        if self.config.version == "v2":
            self.queue.forget_records()

    def _against_queue(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        first, second = batch["views"]
        key_BD = unit(self.teacher(second["x"]))
        loss = queue_nce(
            self.head(self.encoder(first["x"]).global_BD),
            key_BD,
            self.queue.key_KD,
            temperature=self.config.temperature,
            same_BM=batch["record"][:, None] == self.queue.record_K,
        )
        return {"contrast": loss}, gather(key_BD)

    def _within_batch(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        vectors = view_vectors(self.encoder, batch["views"])
        keys = [gather(self.teacher(view["x"])) for view in batch["views"]]
        losses = [
            info_nce(
                self.predictor(self.head(vector)),
                key_ND,
                temperature=self.config.temperature,
                first=rank() * len(vector),
                record_B=batch["record"],
                record_N=gather(batch["record"]),
            )
            for vector, key_ND in zip(vectors, reversed(keys), strict=True)
        ]
        loss = 2 * self.config.temperature * (losses[0] + losses[1])
        return {"contrast": loss}, keys[0]

    def _student(self) -> Branch:
        return Branch(self.encoder, self.head)


def freeze_patch_embedding(encoder: Encoder) -> None:
    """Fix the convolution that turns patches into tokens; other encoders have none."""
    for module in encoder.modules():
        patches = isinstance(module, nn.Conv2d | nn.Conv3d) and module.stride == module.kernel_size
        if patches and module.kernel_size == tuple(encoder.token_size):
            module.requires_grad_(False)
