"""Hand what an image network knows to a volume encoder, supervoxel by supervoxel (SLidR in 3D).

Image networks are plentiful and trained on much; volume encoders are not. A frozen image encoder
looks at the axial, coronal and sagittal slices of a crop. Its features are averaged over
supervoxels (pieces of even grey value), and the volume encoder has to find, for each of its own
averages, the teacher's of the same supervoxel. Each supervoxel counts once, whatever its size.

Algorithm:
    supervoxels = SLIC(crop)             of tissue; too small ones are dropped
    t = mean over planes and voxels of the teacher's features of slices      frozen, no gradient
    s = mean over voxels of the encoder's features of the same crop, grey values changed
    q, k = linear(s), linear(t), length 1, for every supervoxel
    loss = mean over supervoxels of cross entropy(q_m . k_n / tau over n, m)

Loss:
    l_m = -log( exp(q_m . k_m / tau) / sum_n exp(q_m . k_n / tau) ), n over the supervoxels of the
    same volume; with ``negatives=batch`` also over those of other records in other parts of the
    body: the same organ of another patient is no negative

When to use:
    A good image encoder is at hand: one pretrained on slices of the same archive (many more slices
    than volumes), or public weights. Dense tasks on volumes. Small batches suffice, as negatives
    come from the volume itself. The teacher's pass costs a third of a step or more: see ``every``.

Source:
    Sautier et al. 2022, "Image-to-Lidar Self-Supervised Distillation for Autonomous Driving Data"
    (SLidR); supervoxels by Achanta et al. 2012 (SLIC).
    Departures: supervoxels in place of superpixels, and three planes of slices in place of a
    camera; negatives from the same volume; features are averaged before the linear layer, which
    is the same, and normalised after it, once; the volume encoder's features are those of all its
    levels, without a decoder; AdamW.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from medssl.core.config import Component
from medssl.core.config import Config as BaseConfig
from medssl.core.errors import ConfigError
from medssl.core.features import Features
from medssl.core.task import Batch, StepOutput
from medssl.core.taskmodule import TaskModule
from medssl.core.viewspec import Intensity, Setting, Spatial, View, ViewSpec
from medssl.encoders._base import Encoder
from medssl.objectives._parts.contrast import unit
from medssl.objectives._parts.dense import map_shapes
from medssl.objectives._parts.distributed import gather, largest, rank, total, world
from medssl.objectives._parts.frozen import SliceTeacher
from medssl.objectives._parts.pair import spread
from medssl.objectives._parts.precision import no_autocast
from medssl.objectives._parts.regions import Regions, pooled, pooled_map, regions_of
from medssl.objectives._parts.views import GENTLE, over_the_defaults

# B samples, M supervoxels of this rank, N of all that are compared with, D width

AXES = (0, 1, 2)


class Config(BaseConfig):
    """Options of ``supervoxel``."""

    teacher: Component | None = None
    """The folder of a run of an image encoder (``objective.teacher=RUN``); or a network of a
    library with ``weights``, as ``encoder`` takes it: ``objective.teacher.name=timm/NAME
    objective.teacher.weights=FILE``, with ``mean`` and ``std`` 0 and 1 for MR. There is no
    default."""
    segments: int = Field(default=150, ge=2)
    """About so many supervoxels per crop."""
    every: int = Field(default=2, ge=1)
    """The teacher sees one slice in so many, in each plane."""
    zoom: float = Field(default=1.0, gt=0)
    """Teacher's pixels per voxel, beyond what its run's spacing says. 2 to 4 gives transformers
    with patches of 14 or 16 pixels finer features."""
    out: int = Field(default=64, ge=2)
    """Width of the compared vectors."""
    temperature: float = Field(default=0.07, gt=0)
    """tau."""
    negatives: Literal["volume", "batch"] = "volume"
    """Supervoxels that are told apart: those of one volume, or those of other records too."""
    parts: int = Field(default=4, ge=1)
    """With ``negatives=batch``: parts of the body, feet to head, each without negatives in other
    records' crops of the same part."""
    spatial: Spatial = Spatial(rotate_deg=10.0, scale=(0.8, 1.25))
    """Rotation, zoom, bending, flips: the same for teacher and encoder."""
    intensity: Intensity = GENTLE
    """Grey values, for the encoder only."""

    _partly = field_validator("spatial", "intensity", mode="before")(over_the_defaults)


class Keys(NamedTuple):
    """What supervoxels are compared with.

    Attributes:
        key_ND: vectors.
        allowed_MN: True for a supervoxel's own key and for its negatives.
        own_M: place of each supervoxel's own key.
    """

    key_ND: Tensor
    allowed_MN: Tensor
    own_M: Tensor


def supervoxel_nce(query_MD: Tensor, keys: Keys, temperature: float) -> Tensor:
    """Cross-entropy of finding the own key, mean over the supervoxels of all ranks.

    M equal supervoxels leave a guess among M, here of 8:

    >>> one, same = torch.ones(8, 4), torch.ones(8, 8, dtype=torch.bool)
    >>> round(supervoxel_nce(one, Keys(one, same, torch.arange(8)), 0.07).item(), 4)
    2.0794
    """
    query_MD, key_ND = unit(query_MD), unit(keys.key_ND)
    with no_autocast(query_MD):
        logits_MN = query_MD @ key_ND.T / temperature
    logits_MN = logits_MN.masked_fill(~keys.allowed_MN, -torch.inf)
    summed = F.cross_entropy(logits_MN, keys.own_M, reduction="sum")
    return summed * world() / total(summed.new_tensor(len(query_MD))).clamp(min=1)


class Objective(TaskModule):
    """``supervoxel`` wired to an encoder."""

    decoder = None

    def __init__(self, encoder: Encoder, config: Config, setting: Setting) -> None:
        super().__init__()
        if encoder.kind != "volume":
            what = (
                f"an image teacher has nothing to tell {encoder.kind} encoders: takes a volume one"
            )
            raise ConfigError(what, fix="encoder=resenc-s")
        encoder.check_size(setting.crop)
        self.encoder, self.config, self.crop = encoder, config, setting.crop
        self.teacher = SliceTeacher(
            config.teacher, encoder.in_channels, every=config.every, zoom=config.zoom
        )
        width = encoder.token_width
        if not encoder.returns_tokens:
            width = sum(channels for channels, *_ in map_shapes(encoder, setting.crop))
        self.query = nn.Linear(width, config.out, bias=False)
        self.key = nn.Linear(self.teacher.width, config.out, bias=False)

    def views(self) -> ViewSpec:
        """The crop as it is, with supervoxels, for the teacher; and the same for the encoder."""
        c = self.config
        clean = View(crop=self.crop, spatial=c.spatial, segments=c.segments)
        changed = View(crop=self.crop, spatial=c.spatial, intensity=c.intensity, twin=True)
        return ViewSpec(views=(clean, changed), min_tissue=0.2)

    def step(self, batch: Batch) -> StepOutput:
        """The contrast; logs how often the own supervoxel is found, and how many there are."""
        query_MD, keys = self._compared(batch)
        loss = supervoxel_nce(query_MD, keys, self.config.temperature)
        return StepOutput(loss, {"contrast": loss, **_told(query_MD, keys, len(batch["record"]))})

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """The contrast."""
        query_MD, keys = self._compared(batch)
        return {"contrast": supervoxel_nce(query_MD, keys, self.config.temperature)}

    def _compared(self, batch: Batch) -> tuple[Tensor, Keys]:
        clean, changed = batch["views"]
        regions = regions_of(clean["segments"])
        query_MD = self.query(self._student(self.encoder(changed["x"]), regions))
        seen = [self.teacher(clean["x"], batch["spacing_mm"], axis) for axis in AXES]
        planes = [pooled(one.cells_ND, one.cell_BV, regions) for one in seen]
        key_MD = self.key(torch.stack(planes).mean(0))
        if self.config.negatives == "volume":
            same_MM = regions.sample_M[:, None] == regions.sample_M
            return query_MD, Keys(key_MD, same_MM, torch.arange(len(key_MD), device=key_MD.device))
        part_B = (clean["position"][:, 0] * self.config.parts).floor()
        part_B = part_B.clamp(0, self.config.parts - 1).long()
        return query_MD, _keys_of_batch(key_MD, regions, batch["record"], part_B)

    def _student(self, features: Features, regions: Regions) -> Tensor:
        """Mean of the tokens, or of all maps side by side, over each supervoxel."""
        maps = features.pyramid
        if features.tokens_BND is not None:
            tokens_BDN = features.tokens_BND.transpose(1, 2)
            grid = self.encoder.grid(self.crop)
            maps = [tokens_BDN.reshape(*tokens_BDN.shape[:2], *grid)]
        return torch.cat([pooled_map(m, self.crop, regions) for m in maps], 1)


def _keys_of_batch(key_MD: Tensor, regions: Regions, record_B: Tensor, part_B: Tensor) -> Keys:
    """Keys of all ranks; each rank's are padded to the same number, and padding is no negative."""
    count = len(key_MD)
    most = int(largest(torch.tensor(count, device=key_MD.device)))
    sample_M = regions.sample_M + rank() * len(record_B)  # of all samples of the step
    told_M3 = torch.stack([sample_M, *(x[regions.sample_M] for x in (record_B, part_B))], 1)
    key_ND = gather(F.pad(key_MD, (0, 0, 0, most - count)))
    sample_N, record_N, part_N = gather(F.pad(told_M3, (0, 0, 0, most - count), value=-1)).T
    sample_M, record_M, part_M = (x[:, None] for x in told_M3.T)
    other_MN = (record_M != record_N) & (part_M != part_N) & (sample_N >= 0)
    allowed_MN = (sample_M == sample_N) | other_MN
    own_M = torch.arange(count, device=key_MD.device) + rank() * most
    return Keys(key_ND, allowed_MN, own_M)


@torch.no_grad()
def _told(query_MD: Tensor, keys: Keys, samples: int) -> dict[str, Tensor]:
    similar_MN = (unit(query_MD) @ unit(keys.key_ND).T).masked_fill(~keys.allowed_MN, -torch.inf)
    found = similar_MN.argmax(1) == keys.own_M if len(query_MD) else query_MD.new_zeros(1)
    return {
        "found": found.to(query_MD.dtype).mean(),
        "supervoxels": query_MD.new_tensor(len(query_MD) / samples),
        "embedding_std": spread(query_MD) if len(query_MD) else query_MD.new_zeros(()),
    }
