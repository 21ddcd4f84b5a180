"""Predict clusters that are found in the features of the whole archive (DeepCluster v2).

The embedding of every record is kept in a memory bank. From time to time the bank is clustered
(k-means on the sphere), once per head; until the next time each record has a fixed label per head,
and every view of the record has to predict it. What is in common over the archive, and not only
over a batch, shapes the features.

Algorithm:
    before step 0: bank = embeddings of two views of every record, in one pass over all data
    every ``cluster_every`` steps, per head h: centroids, labels = k-means(bank of view h mod 2)
    z = head(encoder(view)), length 1
    loss = mean over heads and views of CE(softmax(z . centroids / tau), label of the record)
    after each step: bank[record] = z of the two full views

Loss:
    L = mean_{h, v} -log( exp(z_v . c_label / tau) / sum_k exp(z_v . c_k / tau) )

When to use:
    Archives of some thousand records and more, small batches included: labels come from all
    records. Below some hundred records clusters are hardly more than the records themselves.
    The bank takes 1 kB per record, also in checkpoints.

Source:
    Caron et al. 2020, appendix of SwAV (DeepCluster-v2). Departures: 64 clusters, not 3000;
    k-means++ in place of random rows to start from (random rows merge clusters that lie apart);
    small views of at least half a side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medssl.core.config import Config as BaseConfig
from medssl.core.errors import UsageError
from medssl.core.task import Batch, Passes, StepOutput
from medssl.core.taskmodule import TaskModule
from medssl.core.viewspec import Setting, ViewSpec
from medssl.encoders._base import Encoder
from medssl.objectives._parts.distributed import gather, total, world
from medssl.objectives._parts.heads import Norm, Projector
from medssl.objectives._parts.kmeans import spherical_kmeans
from medssl.objectives._parts.multicrop import FULL, crop_vectors, multi_crop, small_crop
from medssl.objectives._parts.pair import spread
from medssl.objectives._parts.precision import no_autocast, upcast
from medssl.objectives._parts.views import ViewOptions

# H heads, R records, V views, B samples, K clusters, D width

UNSEEN = -100
"""Label of records that are not in the bank."""


class Config(BaseConfig):
    """Options of ``deepcluster``."""

    views: ViewOptions = ViewOptions()
    """How views differ."""
    local_views: int = Field(default=2, ge=0)
    """Small views per sample; they predict, and do not enter the bank."""
    local_share: float = Field(default=0.5, ge=0.5, le=1)
    """Side of a small view, as a share of the full one, rounded up to what the encoder takes."""
    clusters: int = Field(default=64, ge=1)
    """K per head; at most the number of records is used."""
    heads: int = Field(default=3, ge=1)
    """Clusterings side by side."""
    cluster_every: int | None = Field(default=None, ge=1)
    """Steps from clustering to clustering; default: records / 8 (one pass over the data with
    batches of 8), at least 100."""
    iterations: int = Field(default=10, ge=1)
    """Of k-means."""
    hidden: int = Field(default=1024, ge=1)
    """Width of the head's hidden layer."""
    out: int = Field(default=128, ge=2)
    """Width of the embedding."""
    norm: Norm = "batch"
    """Norm in the head: ``batch`` (over all devices), ``layer`` for batches below 8."""
    temperature: float = Field(default=0.1, gt=0)
    """tau."""


def cluster_entropy(
    z_VBD: Tensor, centroid_HKD: Tensor, label_HB: Tensor, temperature: float
) -> Tensor:
    """Mean over heads, views and labelled samples of CE(softmax(z . c / temperature), label).

    Samples labelled -100 count nothing; the mean is over the labelled ones of all ranks.

    >>> one = torch.eye(2)[None]
    >>> cluster_entropy(one, one, torch.tensor([[0, -100]]), 0.1).item() < 1e-4
    True
    """
    with no_autocast(z_VBD):
        unit = F.normalize(upcast(z_VBD), dim=2, eps=1e-6)
        logits = torch.einsum("vbd,hkd->hvbk", unit, centroid_HKD.to(unit.dtype)) / temperature
    label_HVB = label_HB[:, None].expand(logits.shape[:3])
    summed = F.cross_entropy(
        logits.flatten(0, 2), label_HVB.flatten(), ignore_index=UNSEEN, reduction="sum"
    )
    counted = total((label_HVB != UNSEEN).sum()).clamp(min=1)
    return summed * world() / counted


class Objective(TaskModule):
    """``deepcluster`` wired to an encoder."""

    decoder: nn.Module | None = None
    bank_VRD: Tensor
    label_HR: Tensor
    centroid_HKD: Tensor
    clusterings: Tensor

    def __init__(self, encoder: Encoder, config: Config, setting: Setting) -> None:
        super().__init__()
        encoder.check_size(setting.crop)
        self.encoder, self.config, self.setting = encoder, config, setting
        self.every = config.cluster_every or max(100, setting.records // 8)
        self.head = Projector(encoder.width, config.hidden, config.out, norm=config.norm)
        records, count = setting.records, min(config.clusters, setting.records)
        self.register_buffer("bank_VRD", torch.zeros(FULL, records, config.out))
        self.register_buffer("label_HR", torch.full((config.heads, records), UNSEEN))
        self.register_buffer("centroid_HKD", torch.zeros(config.heads, count, config.out))
        self.register_buffer("clusterings", torch.zeros((), dtype=torch.long))
        self._noted: list[tuple[Tensor, Tensor]] = []

    def views(self) -> ViewSpec:
        """Two full views, then the small ones."""
        c = self.config
        small = small_crop(self.encoder, self.setting.crop, c.local_share)
        return multi_crop(c.views, self.setting, small, c.local_views)

    def step(self, batch: Batch) -> StepOutput:
        """Cross-entropy with the records' labels; notes embeddings of full views for the bank."""
        z_VBD = self._embed(batch)
        if self.training and torch.is_grad_enabled():
            z_BVD = F.normalize(upcast(z_VBD[:FULL].detach()), dim=2).transpose(0, 1)
            self._noted.append((gather(z_BVD), gather(batch["record"])))
        loss = self._loss(z_VBD, batch)
        log = {"embedding_std": spread(z_VBD[0]), **self._cluster_log()}
        return StepOutput(loss, {"cluster": loss, **log})

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Terms of the loss."""
        return {"cluster": self._loss(self._embed(batch), batch)}

    def _embed(self, batch: Batch) -> Tensor:
        vectors_VBD = crop_vectors(self.encoder, batch["views"])
        z: Tensor = self.head(vectors_VBD.flatten(0, 1))
        return z.view(*vectors_VBD.shape[:2], -1)

    def _loss(self, z_VBD: Tensor, batch: Batch) -> Tensor:
        labels = self.label_HR[:, batch["record"]]
        return cluster_entropy(z_VBD, self.centroid_HKD, labels, self.config.temperature)

    @torch.no_grad()
    def _cluster_log(self) -> dict[str, Tensor]:
        """How evenly the records fill the clusters of the first head, in nats; labels are sharp."""
        count = self.centroid_HKD.shape[1]
        seen_R = self.label_HR[0][self.label_HR[0] != UNSEEN]
        share_K = torch.bincount(seen_R, minlength=count) / max(len(seen_R), 1)
        return {
            "teacher_entropy": torch.zeros_like(share_K).sum(),
            "mean_entropy": torch.special.entr(share_K).sum(),
            "prototype_usage": (share_K > 0).to(share_K.dtype).mean(),
        }

    def after_update(self, progress: float) -> None:  # noqa: ARG002
        """The bank takes the update's embeddings."""
        for z_BVD, record_B in self._noted:
            self._remember(z_BVD, record_B)
        self._noted.clear()

    def discard_update(self) -> None:
        """Embeddings of a skipped update are not kept."""
        self._noted.clear()

    def forget_records(self) -> None:
        """Bank and labels are all about records: there is nothing to go on with.

        Raises:
            UsageError: always.
        """
        what = "deepcluster keeps an embedding and labels of each record"
        raise UsageError(what, fix="give that run as --init: its weights alone")

    @torch.no_grad()
    def _remember(self, z_BVD: Tensor, record_B: Tensor) -> None:
        """Of two rows of one record the later one stays."""
        order_B = torch.arange(len(record_B), device=record_B.device)
        last_R = torch.full_like(self.label_HR[0], -1)
        last_R = last_R.scatter_reduce(0, record_B, order_B, "amax")
        kept = last_R[record_B] == order_B
        self.bank_VRD[:, record_B[kept]] = z_BVD[kept].transpose(0, 1).to(self.bank_VRD)

    def prepare_at(self, step: int) -> bool:
        """Before the first step, and every ``cluster_every`` steps."""
        return step % self.every == 0

    @torch.no_grad()
    def prepare(self, pass_over_data: Passes) -> None:
        """Cluster the bank; the first time, fill it."""
        if not self.clusterings:
            self._fill_bank(pass_over_data)
        for head, label_R in enumerate(self.label_HR):
            bank_RD = self.bank_VRD[head % FULL]
            seen_R = bank_RD.any(1)
            label_R.fill_(UNSEEN)
            if seen_R.any():
                found = spherical_kmeans(
                    bank_RD[seen_R],
                    self.centroid_HKD.shape[1],
                    iterations=self.config.iterations,
                    seed=int(self.clusterings) * len(self.label_HR) + head,
                )
                self.centroid_HKD[head] = found.centroid_KD
                label_R[seen_R] = found.label_N
        self.clusterings += 1

    def _fill_bank(self, pass_over_data: Passes) -> None:
        mode = self.training
        self.eval()
        for batch in pass_over_data():
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):  # as in training
                    module.train(len(batch["record"]) > 1)
            views = [{"x": view["x"].to(self.bank_VRD.device)} for view in batch["views"][:FULL]]
            z_BVD = F.normalize(upcast(self._embed({"views": views})), dim=2).transpose(0, 1)
            self._remember(z_BVD, batch["record"].to(self.bank_VRD.device))
        self.train(mode)
