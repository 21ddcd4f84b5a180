"""Repair and contrast: rebuild corrupted blocks, and recognise the sample despite them.

Blocks of two views are replaced, by the other view of the same sample or by 0, and nothing tells
the encoder where. It has to find and repair them, which trains tokens or maps, while its global
vector has to find, among the whole batch, what a slow teacher says of the other view, uncorrupted.

Algorithm:
    hide random blocks m1, m2 of views x1, x2
    c1 = x1 with m1 replaced by c, c = x2 with m2 replaced by 0; c2 likewise
    y = decoder(student(c1, c2)), z = head(student(c1, c2))
    t = head(teacher(x1, x2))                             no gradient
    loss = (NT-Xent(z1, t2) + NT-Xent(z2, t1)) / 2 + weight * mean |y - x| over m and tissue
    after the update: teacher <- m teacher + (1 - m) student, m rises to 1 along a cosine

Loss:
    L1 = sum(|y - x| m) / sum(m) per sample, m = corrupted and tissue, mean over samples;
    NT-Xent as in simclr; nothing corrupted: L1 = 0

When to use:
    Small archives, from about 100 records, when both dense and global features are wanted.

Source:
    Atito et al. 2021, "SiT: Self-supervised vision Transformer".
    Departures: blocks come from the same patient, as no voxel of one patient should enter another's
    picture; no noise, so that a step draws no random numbers and a resumed run replays it; one
    mean over corrupted voxels, not one per channel; views of the same record are no negatives;
    convolutional encoders repair with a U-Net decoder.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from medssl.core.ema import cosine_momentum
from medssl.core.features import Features
from medssl.core.task import Batch, StepOutput
from medssl.core.taskmodule import TaskModule
from medssl.core.viewspec import MaskSpec, Setting, Share, ViewSpec
from medssl.encoders._base import Encoder
from medssl.encoders._tokens import blocks_to_voxels, patchify
from medssl.objectives._parts.contrast import nt_xent
from medssl.objectives._parts.distributed import gather
from medssl.objectives._parts.heads import Norm, Projector
from medssl.objectives._parts.pair import Branch, PairConfig
from medssl.objectives._parts.patches import masked_l1, patch_values
from medssl.objectives._parts.teacher import Teacher
from medssl.objectives._parts.views import pair_of_views

# B batch, N tokens, D width


class Config(PairConfig):
    """Options of ``sit``."""

    corruption: Share = (0.35, 0.7)
    """Share of each view that is replaced, drawn between these."""
    reconstruction_weight: float = Field(default=1.0, ge=0)
    """Of the repair beside the contrast."""
    temperature: float = Field(default=0.2, gt=0)
    """Of the contrast."""
    momentum: float = Field(default=0.996, ge=0, le=1)
    """Of the teacher at the start; it rises to 1."""
    out: int = Field(default=256, ge=2)
    """Width of the embedding."""
    norm: Norm = "batch"
    """Norm in the head: ``batch`` (over all devices); ``layer`` for batches below 8."""


def corrupt(x: Tensor, other: Tensor, hidden: Tensor, other_hidden: Tensor) -> Tensor:
    """``x`` with hidden voxels from ``other``, or 0 where they are hidden there too.

    >>> x, hidden = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([False, True, True])
    >>> corrupt(x, 10 * x, hidden, torch.tensor([False, False, True])).tolist()
    [1.0, 20.0, 0.0]
    """
    return torch.where(hidden, other.masked_fill(other_hidden, 0.0), x)


class Objective(TaskModule):
    """``sit`` wired to an encoder. ``decoder`` is set where segmentation can reuse it."""

    decoder: nn.Module | None

    def __init__(self, encoder: Encoder, config: Config, setting: Setting) -> None:
        super().__init__()
        encoder.check_size(setting.crop)
        self.encoder, self.config, self.setting = encoder, config, setting
        if encoder.returns_tokens:
            self.decoder = None
            width, values = encoder.token_width, patch_values(encoder)
            self.repair = Projector(width, width, values, 3, norm="none", activation="gelu")
        else:
            self.decoder = encoder.make_decoder(encoder.in_channels)
        self.head = Projector(encoder.width, config.hidden, config.out, norm=config.norm)
        self.teacher = Teacher(self._student())

    def views(self) -> ViewSpec:
        """Two views of one place, each with blocks to corrupt."""
        spec = pair_of_views(self.config.views, self.setting)
        mask = MaskSpec(
            token_size=self.encoder.token_size, ratio=self.config.corruption, kind="block"
        )
        view = spec.views[0].model_copy(update={"mask": mask})
        return spec.model_copy(update={"views": (view,)})

    def step(self, batch: Batch) -> StepOutput:
        """Contrast and repair."""
        terms = self.terms(batch)
        loss = terms["contrast"] + self.config.reconstruction_weight * terms["reconstruction"]
        return StepOutput(loss, terms)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Terms of the loss, unweighted."""
        one, two = batch["views"]
        size = tuple(one["x"].shape[2:])
        x, mask, tissue = (torch.cat([one[k], two[k]]) for k in ("x", "mask", "tissue"))
        other = torch.cat([two["x"], one["x"]])
        hidden = blocks_to_voxels(mask, self.encoder.grid(size), self.encoder.token_size)
        other_hidden = torch.cat(hidden.chunk(2)[::-1])
        corrupted = corrupt(x, other, hidden, other_hidden)
        features = self.encoder(corrupted)
        counted = patchify(tissue, self.encoder.token_size) & mask[:, :, None]
        target = patchify(x, self.encoder.token_size)
        repaired = self._repaired(corrupted, features)
        return {
            "contrast": self._contrast(self.head(features.global_BD), x, batch["record"]),
            "reconstruction": masked_l1(repaired, target, counted),
        }

    def after_update(self, progress: float) -> None:
        """The teacher follows."""
        self.teacher.follow(self._student(), cosine_momentum(self.config.momentum, progress))

    def _student(self) -> Branch:
        return Branch(self.encoder, self.head)

    def _repaired(self, corrupted: Tensor, features: Features) -> Tensor:
        """Patches (2B, N, P)."""
        if self.decoder is not None:
            return patchify(self.decoder(corrupted, features), self.encoder.token_size)
        out: Tensor = self.repair(features.tokens_BND)
        return out

    def _contrast(self, student: Tensor, x: Tensor, record_B: Tensor) -> Tensor:
        """NT-Xent of each corrupted view with the other clean one, over all ranks."""
        z1, z2 = (gather(z_BD) for z_BD in student.chunk(2))
        t1, t2 = (gather(t_BD) for t_BD in self.teacher(x).chunk(2))
        record, temperature = gather(record_B), self.config.temperature
        pairs = ((z1, t2), (z2, t1))
        losses = [nt_xent(z, t, temperature=temperature, record_B=record) for z, t in pairs]
        return torch.stack(losses).mean()
