"""Pictures and volumes in one training: clusters of slices, clusters of volumes, hidden slices.

Two views of a volume are stacks of its slices. An image encoder reads every slice, a small
transformer reads the stack and makes one vector of it. Views have to agree on the cluster of each
slice that both show, and on the cluster of the volume; and from the slices around it the
transformer has to predict a slice that is hidden from it. A picture is a stack of one slice and
takes part in the first task only.

Algorithm:
    x_i = encoder(slice i), z_i = head(x_i), for every slice of two stacks
    y = transformer(x, places in mm), Z = volume_head(mean of y)    of volumes
    q, Q = Sinkhorn(z . prototypes), Sinkhorn(Z . volume prototypes, past volumes included)
    L_intra = CE between q of one view and the prediction of the other, same slices
    L_inter = CE between Q of one view and the prediction of the other
    L_mask = |u - z|^2 at hidden slices, u = linear(transformer(x, some hidden)), z no gradient
    before ``volumes_from`` no gradient goes from the transformer to x: L_intra alone shapes it
    after each step: prototypes back to length 1; queue takes Z

Loss:
    L = L_intra + L_inter + L_mask
    L_intra = mean over samples, mean over shared slices, -1/2 (q_s log p_t + q_t log p_s)
    L_inter = mean over volumes, the same of Q and P
    L_mask = mean over volumes, mean over hidden slices, 2 - 2 cos(u, z)

When to use:
    An image encoder for an archive of pictures and volumes together, or of volumes whose slices
    are thick: the encoder stays one for slices, but learns what lies around them. From about a
    hundred volumes up; with pictures alone use swav or dino. Memory: a volume costs 2 x ``slices``
    pictures of a batch. The transformer is part of the checkpoints, not of the saved model.

Source:
    Nguyen et al. 2023, "Joint Self-Supervised Image-Volume Representation Learning with Intra-Inter
    Contrastive Clustering"; its code is not public. Deformable attention: Zhu et al. 2021.
    Departures: a slice has 1/slices of a volume's weight in clusters and loss, so that neighbours
    may share a cluster; few prototypes (64 and 32) and a queue for volumes, of which a batch has
    few; in the first phase the transformer learns along, and has no say in the features; slices
    are compared as unit vectors behind the head. Beyond the ends of a stack zeros are read.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from medssl.core.config import Config as BaseConfig
from medssl.core.errors import ConfigError
from medssl.core.task import Batch, StepOutput
from medssl.core.taskmodule import TaskModule
from medssl.core.viewspec import MaskSpec, Setting, View, ViewSpec
from medssl.encoders._base import Encoder
from medssl.objectives._parts.codes import queued_codes
from medssl.objectives._parts.deformable import SliceTransformer, mean_inside
from medssl.objectives._parts.distributed import gather
from medssl.objectives._parts.heads import Norm, Projector
from medssl.objectives._parts.pair import spread
from medssl.objectives._parts.precision import upcast
from medssl.objectives._parts.prototypes import Prototypes, assignment_log
from medssl.objectives._parts.queue import Queue
from medssl.objectives._parts.sinkhorn import sinkhorn
from medssl.objectives._parts.slices import (
    hidden_regression,
    laid_out,
    same_slices,
    slice_numbers,
    swapped_entropy,
)
from medssl.objectives._parts.views import StackOptions

# V views, B samples, S slices of a stack, N slices that there are, M volumes, K prototypes, D width

VIEWS = 2


class Config(BaseConfig):
    """Options of ``image_volume``."""

    views: StackOptions = StackOptions()
    """How views differ."""
    slices: int = Field(default=8, ge=2)
    """Slices of a stack, spread over half of the volume at least."""
    prototypes: int = Field(default=64, ge=1)
    """Clusters of slices."""
    volume_prototypes: int = Field(default=32, ge=1)
    """Clusters of volumes, below volumes of a batch + queue."""
    hidden: int = Field(default=1024, ge=1)
    """Width of the heads' hidden layers."""
    out: int = Field(default=128, ge=2)
    """Width of the embeddings of slices and volumes."""
    norm: Norm = "batch"
    """Norm in the heads: ``batch`` (over all devices), ``layer`` for batches below 8."""
    temperature: float = Field(default=0.1, gt=0)
    """tau of the predictions."""
    epsilon: float = Field(default=0.05, gt=0)
    """Temperature of the codes; smaller is sharper."""
    iterations: int = Field(default=3, ge=1)
    """Of Sinkhorn."""
    width: int = Field(default=256, ge=2, multiple_of=2)
    """Of the transformer; a multiple of ``heads``."""
    depth: int = Field(default=2, ge=1)
    """Blocks of the transformer."""
    heads: int = Field(default=8, ge=1)
    """Heads of its attention."""
    points: int = Field(default=4, ge=1)
    """Places that a head looks at."""
    mask_ratio: float = Field(default=0.25, gt=0, lt=1)
    """Share of a volume's slices that are hidden, at least one."""
    volumes_from: float = Field(default=0.1, ge=0, le=1)
    """Share of all steps after which the encoder learns from volumes too, not from slices alone."""
    queue: int = Field(default=256, ge=1)
    """Embeddings of past volumes that help to find clusters of volumes, once it is full."""
    freeze_last: float = Field(default=0.01, ge=0, le=1)
    """Share of all steps in which prototypes stay as they are."""

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of {self.heads} heads")
        return self


class Slices(NamedTuple):
    """What the encoder makes of the slices of two stacks; 0 where a stack has no slice.

    Attributes:
        x_VBSD: the encoder's vectors.
        z_VBSE: embeddings behind the head.
        inside_VBS: slices that there are.
    """

    x_VBSD: Tensor
    z_VBSE: Tensor
    scores_VBSK: Tensor
    codes_VBSK: Tensor
    inside_VBS: Tensor


class Volumes(NamedTuple):
    """What the transformer makes of the samples that are volumes.

    Attributes:
        volume_B: which samples they are.
        z_VME: embeddings of whole stacks.
        predicted_VMSE: of slices, hidden ones among them.
    """

    volume_B: Tensor
    z_VME: Tensor
    scores_VMK: Tensor
    predicted_VMSE: Tensor


class Objective(TaskModule):
    """``image_volume`` wired to an encoder."""

    decoder: nn.Module | None = None
    progress: Tensor

    def __init__(self, encoder: Encoder, config: Config, setting: Setting) -> None:
        super().__init__()
        if len(encoder.token_size) != 2:
            what = "image_volume reads slices: it takes an image encoder"
            raise ConfigError(what, fix="e.g. encoder=timm/resnet18 crop=[224,224]")
        encoder.check_size(setting.crop)
        self.encoder, self.config, self.crop = encoder, config, setting.crop
        c = config
        self.head = Projector(encoder.width, c.hidden, c.out, norm=c.norm)
        self.prototypes = Prototypes(c.out, c.prototypes)
        self.transformer = SliceTransformer(encoder.width, c.width, c.depth, c.heads, c.points)
        self.leave = nn.Linear(c.width, c.out)
        self.volume_head = Projector(c.width, c.hidden, c.out, norm=c.norm)
        self.volume_prototypes = Prototypes(c.out, c.volume_prototypes)
        self.queue = Queue(c.queue, c.out)
        self.register_buffer("progress", torch.zeros(()))
        self._noted: list[tuple[Tensor, Tensor, Tensor]] = []

    def views(self) -> ViewSpec:
        """Two stacks with hidden slices."""
        c = self.config
        mask = MaskSpec(token_size=(1, *self.crop), ratio=(c.mask_ratio, c.mask_ratio))
        look = {"spatial": c.views.spatial, "intensity": c.views.intensity}
        view = View(crop=self.crop, count=VIEWS, mask=mask, **look)
        return ViewSpec(views=(view,), overlap=c.views.overlap, min_tissue=0.2, stack=c.slices)

    def step(self, batch: Batch) -> StepOutput:
        """Sum of the terms; notes the volumes' embeddings for the queue."""
        terms, slices, volumes = self._compare(batch)
        if self.training and torch.is_grad_enabled():
            z = F.normalize(upcast(volumes.z_VME.detach()), dim=2).transpose(0, 1)
            z_BVE = laid_out(z.flatten(1), volumes.volume_B).view(-1, VIEWS, z.shape[2])
            self._noted.append((gather(z_BVE), gather(volumes.volume_B), gather(batch["record"])))
        inside = slices.inside_VBS
        log = assignment_log(slices.codes_VBSK[inside])
        # Codes are balanced by force: collapse shows in what they are made of.
        usage = assignment_log(slices.scores_VBSK[inside].detach())["prototype_usage"]
        made = {"prototype_usage": usage, "embedding_std": spread(slices.z_VBSE[0][inside[0]])}
        return StepOutput(torch.stack(list(terms.values())).sum(), {**terms, **log, **made})

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Terms of the loss."""
        return self._compare(batch)[0]

    def _compare(self, batch: Batch) -> tuple[dict[str, Tensor], Slices, Volumes]:
        c, slices = self.config, self._look(batch)
        volumes = self._fuse(slices, batch)
        inside, of_volumes = slices.inside_VBS, volumes.volume_B
        numbers = [slice_numbers(view["place"], inside.shape[2]) for view in batch["views"]]
        same_BSS = same_slices(torch.stack(numbers), inside)
        hidden_VMS = _of_views(batch, "mask")[:, of_volumes]
        # A volume is a stack of one vector, which both views show.
        codes_VMK, scores_VMK = torch.stack(self._volume_codes(volumes)), volumes.scores_VMK
        one_M11 = torch.ones_like(scores_VMK[0, :, None, :1], dtype=torch.bool)
        tau = c.temperature
        terms = {
            "intra": swapped_entropy(slices.codes_VBSK, slices.scores_VBSK, same_BSS, tau),
            "inter": swapped_entropy(codes_VMK[:, :, None], scores_VMK[:, :, None], one_M11, tau),
            "mask": hidden_regression(
                volumes.predicted_VMSE, slices.z_VBSE[:, of_volumes], hidden_VMS
            ),
        }
        return terms, slices, volumes

    def _look(self, batch: Batch) -> Slices:
        """Slices through encoder and head; places without a slice are not computed."""
        inside = _of_views(batch, "inside")
        pictures = [view["x"].transpose(1, 2)[view["inside"]] for view in batch["views"]]
        x_ND = self.encoder(torch.cat(pictures)).global_BD
        z_NE: Tensor = self.head(x_ND)
        scores_NK: Tensor = self.prototypes(z_NE)
        x, z, scores = (laid_out(rows, inside) for rows in (x_ND, z_NE, scores_NK))
        codes = [
            laid_out(self._slice_codes(view[there].detach(), there), there)
            for view, there in zip(scores, inside, strict=True)
        ]
        return Slices(x, z, scores, torch.stack(codes), inside)

    def _slice_codes(self, scores_NK: Tensor, inside_BS: Tensor) -> Tensor:
        """Balanced over the volumes and pictures of the batch, not over slices."""
        share_BS = (1 / inside_BS.sum(1, keepdim=True)).expand(inside_BS.shape)
        c = self.config
        return sinkhorn(scores_NK, c.epsilon, c.iterations, share_BS[inside_BS])

    def _volume_codes(self, volumes: Volumes) -> list[Tensor]:
        c, prototypes = self.config, self.volume_prototypes
        return [
            queued_codes(scores_MK.detach(), prototypes, self.queue, c.epsilon, c.iterations)
            for scores_MK in volumes.scores_VMK
        ]

    def _fuse(self, slices: Slices, batch: Batch) -> Volumes:
        """Volumes through the transformer, once whole and once with hidden slices."""
        volume_B = slices.inside_VBS[0].sum(1) > 1
        slices_only = float(self.progress) < self.config.volumes_from
        fields = (
            slices.x_VBSD.detach() if slices_only else slices.x_VBSD,
            _of_views(batch, "offset_mm"),
            slices.inside_VBS,
            _of_views(batch, "mask"),
        )
        x, offset, inside, hidden = (field[:, volume_B].flatten(0, 1) for field in fields)
        whole = mean_inside(self.transformer(x, offset, inside), inside)
        z: Tensor = self.volume_head(whole)
        predicted: Tensor = self.leave(self.transformer(x, offset, inside, hidden))
        made = (z, self.volume_prototypes(z), predicted)
        count = len(x) // VIEWS
        return Volumes(volume_B, *(rows.view(VIEWS, count, *rows.shape[1:]) for rows in made))

    def before_update(self, progress: float) -> None:
        """Prototypes rest at first."""
        if progress < self.config.freeze_last:
            self.prototypes.weight.grad = self.volume_prototypes.weight.grad = None

    def after_update(self, progress: float) -> None:
        """Prototypes back to length 1; the queue takes the update's volumes; the clock moves."""
        self.prototypes.renormalise()
        self.volume_prototypes.renormalise()
        for z_BVE, volume_B, record_B in self._noted:
            z_MVE, record_M = z_BVE[volume_B], record_B[volume_B]
            self.queue.push(z_MVE.flatten(0, 1), record_M.repeat_interleave(VIEWS))
        self._noted.clear()
        self.progress.fill_(progress)

    def discard_update(self) -> None:
        """Embeddings of a skipped update are not kept."""
        self._noted.clear()

    def forget_records(self) -> None:
        """The queue counts once it is full of the new data's volumes."""
        self.queue.forget_records()


def _of_views(batch: Batch, name: str) -> Tensor:
    """A field of both views, (V, B, S)."""
    return torch.stack([view[name] for view in batch["views"]])
