"""Swapped prediction of cluster assignments, balanced over the batch (SwAV).

Views of a sample are compared through prototypes that are learnt along: each view has to predict
the assignment (code) of another view. Sinkhorn gives codes that use all prototypes equally, so
that one prototype for all is no solution. Batches smaller than the number of prototypes borrow
the vectors of past batches from a queue, for the codes only.

Algorithm:
    z = head(encoder(view)), length 1, for two full views and some small ones
    s = z . prototypes
    q = Sinkhorn(s / epsilon) of the two full views, past vectors included    no gradient
    loss = mean over q of views t and other views v of CE(q_t, softmax(s_v / tau))
    after each step: prototypes back to length 1; queue takes z of full views

Loss:
    L = mean_{t, v != t} -sum_k q_t,k log softmax(s_v / tau)_k

When to use:
    Many small records (pictures, slices) with several groups of equal importance. Keep the number
    of prototypes below batch + queue: codes spread over more prototypes than samples mean nothing.
    Balanced codes split a group that fills most of an archive; then prefer dino or vicreg.
    A loss that stays at log K, with ``teacher_entropy`` near log K, says that codes have become
    uniform and teach nothing: seen in 200 steps on toy pictures (16 groups, batch 16), with and
    without queue, for 16 and 128 prototypes. There epsilon=0.02 kept the codes sharp and helped a
    little (one seed, below simclr); gentler views, larger batches and deepcluster are other ways.

Source:
    Caron et al. 2020, "Unsupervised Learning of Visual Features by Contrasting Cluster
    Assignments". Departures: 128 prototypes, not 3000; small views of at least half a side; the
    queue is shared over devices, and each takes a share of it into Sinkhorn.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from medssl.core.config import Config as BaseConfig
from medssl.core.task import Batch, StepOutput
from medssl.core.taskmodule import TaskModule
from medssl.core.viewspec import Setting, ViewSpec
from medssl.encoders._base import Encoder
from medssl.objectives._parts.codes import queued_codes
from medssl.objectives._parts.dino import cross_view_entropy
from medssl.objectives._parts.distributed import gather
from medssl.objectives._parts.heads import Norm, Projector
from medssl.objectives._parts.multicrop import FULL, crop_vectors, multi_crop, small_crop
from medssl.objectives._parts.pair import spread
from medssl.objectives._parts.prototypes import Prototypes, assignment_log
from medssl.objectives._parts.queue import Queue
from medssl.objectives._parts.sinkhorn import sinkhorn
from medssl.objectives._parts.views import ViewOptions

# V views, B samples, K prototypes, D width


class Config(BaseConfig):
    """Options of ``swav``."""

    views: ViewOptions = ViewOptions()
    """How views differ."""
    local_views: int = Field(default=4, ge=0)
    """Small views per sample; they predict, and give no codes."""
    local_share: float = Field(default=0.5, ge=0.5, le=1)
    """Side of a small view, as a share of the full one, rounded up to what the encoder takes."""
    prototypes: int = Field(default=128, ge=1)
    """K: 64 to 512 below 50,000 records, and below batch + queue."""
    hidden: int = Field(default=1024, ge=1)
    """Width of the head's hidden layer."""
    out: int = Field(default=128, ge=2)
    """Width of the embedding."""
    norm: Norm = "batch"
    """Norm in the head: ``batch`` (over all devices), ``layer`` for batches below 8."""
    temperature: float = Field(default=0.1, gt=0)
    """tau of the predictions."""
    epsilon: float = Field(default=0.05, gt=0)
    """Temperature of the codes; smaller is sharper."""
    iterations: int = Field(default=3, ge=1)
    """Of Sinkhorn."""
    queue: int = Field(default=512, ge=0)
    """Vectors of past batches per full view; 0 = none."""
    queue_from: float = Field(default=0.15, ge=0, le=1)
    """Share of all steps after which the queue is used (once it is full): the vectors of an
    encoder that still changes fast are no neighbours."""
    freeze_last: float = Field(default=0.01, ge=0, le=1)
    """Share of all steps in which prototypes stay as they are."""


class Objective(TaskModule):
    """``swav`` wired to an encoder."""

    decoder: nn.Module | None = None
    progress: Tensor

    def __init__(self, encoder: Encoder, config: Config, setting: Setting) -> None:
        super().__init__()
        encoder.check_size(setting.crop)
        self.encoder, self.config, self.setting = encoder, config, setting
        self.head = Projector(encoder.width, config.hidden, config.out, norm=config.norm)
        self.prototypes = Prototypes(config.out, config.prototypes)
        count = FULL if config.queue else 0
        self.queues = nn.ModuleList(Queue(config.queue, config.out) for _ in range(count))
        self.register_buffer("progress", torch.zeros(()))
        self._noted: list[tuple[Tensor, Tensor]] = []

    def views(self) -> ViewSpec:
        """Two full views, then the small ones."""
        c = self.config
        small = small_crop(self.encoder, self.setting.crop, c.local_share)
        return multi_crop(c.views, self.setting, small, c.local_views)

    def step(self, batch: Batch) -> StepOutput:
        """Swapped prediction; notes embeddings of full views for the queue."""
        z_VBD, scores_VBK, codes = self._look(batch)
        if self.training and torch.is_grad_enabled() and self.queues:
            z = nn.functional.normalize(z_VBD[:FULL].detach(), dim=2)
            self._noted.append((gather(z.transpose(0, 1)), gather(batch["record"])))
        loss = cross_view_entropy(codes, scores_VBK, self.config.temperature)
        log = assignment_log(codes.flatten(0, 1))
        # Codes are balanced by force: collapse shows in what they are made of.
        usage = assignment_log(scores_VBK[:FULL].flatten(0, 1).detach())["prototype_usage"]
        made = {"prototype_usage": usage, "embedding_std": spread(z_VBD[0])}
        return StepOutput(loss, {"swap": loss, **log, **made})

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Terms of the loss."""
        _, scores, codes = self._look(batch)
        return {"swap": cross_view_entropy(codes, scores, self.config.temperature)}

    def _look(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings (V, B, D), scores (V, B, K) and codes (2, B, K)."""
        vectors_VBD = crop_vectors(self.encoder, batch["views"])
        count = len(vectors_VBD)
        z: Tensor = self.head(vectors_VBD.flatten(0, 1))
        scores_VBK: Tensor = self.prototypes(z)
        scores_VBK = scores_VBK.view(count, -1, scores_VBK.shape[1])
        codes = [self._codes(view, scores_VBK[view].detach()) for view in range(FULL)]
        return z.view(count, -1, z.shape[1]), scores_VBK, torch.stack(codes)

    def _codes(self, view: int, scores_BK: Tensor) -> Tensor:
        """Balanced assignments of a view, the queue's vectors included from its time on."""
        c = self.config
        if not self.queues or float(self.progress) < c.queue_from:
            return sinkhorn(scores_BK, c.epsilon, c.iterations)
        queue = self.queues[view]
        assert isinstance(queue, Queue)
        return queued_codes(scores_BK, self.prototypes, queue, c.epsilon, c.iterations)

    def before_update(self, progress: float) -> None:
        """Prototypes rest at first."""
        if progress < self.config.freeze_last:
            self.prototypes.weight.grad = None

    def after_update(self, progress: float) -> None:
        """Prototypes back to length 1; the queue takes the update's embeddings."""
        self.prototypes.renormalise()
        for z_BVD, record_B in self._noted:
            for view, queue in enumerate(self.queues):
                assert isinstance(queue, Queue)
                queue.push(z_BVD[:, view], record_B)
        self._noted.clear()
        self.progress.fill_(progress)

    def discard_update(self) -> None:
        """Embeddings of a skipped update are not kept."""
        self._noted.clear()

    def forget_records(self) -> None:
        """Queues count once they are full of the new data's vectors."""
        for queue in self.queues:
            assert isinstance(queue, Queue)
            queue.forget_records()
