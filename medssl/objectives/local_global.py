"""Contrast of body parts, then of places in a slice, for segmentation from few labels.

Volumes are divided along the body into a few parts, and a view is taken from each. The encoder
learns to tell parts apart, within a patient and across patients: views of the same part are never
negatives, and those of two patients are a positive pair. Then the decoder learns to tell places of
a view apart that lie beside each other, from two versions that differ in grey values only.

Algorithm:
    per sample and part: view a, its twin a' (same voxels, other grey values), another view b
    global stage:  z = head(encoder(a, b)), all ranks gathered
                   loss = contrast of pairs of rows, negatives of other parts only
    local stage:   f, f' = local head(first blocks of the decoder(encoder(a, a')))
                   loss = contrast of each of 13 regions (volumes: 35) with 5 beside it
    joint stage:   both, all weights

Loss:
    G: -log( e^{s_ab/t} / (e^{s_ab/t} + sum_{n of other parts} e^{s_an/t}) ), s = cosine; pairs
       (a, b) of one view, and with G_D (a_i, a_j), (b_i, b_j) of two volumes i, j, same part
    L: -log( e^{f_p.f'_p/t} / (e^{f_p.f'_p/t} + sum_{n beside p} (e^{f_p.f_n/t} + e^{f_p.f'_n/t})) )

When to use:
    Volumes of one body region in similar pose, to be segmented from a handful of labels; slices
    with an image encoder, or crops with a volume encoder. Parts are of the tissue that a volume
    shows, so that fields of view should match roughly. Not for pictures: they have no parts
    (``where: kind == 'volume'`` leaves them out).

Source:
    Chaitanya et al. 2020, "Contrastive learning of global and local features for medical image
    segmentation with limited annotations".
    Departures: one run and one schedule for all stages; the head sees the mean of the deepest map,
    not all of it; gentle medical views in place of windows of half the side; the twins of the
    local stage are turned and zoomed alike; pairs of two volumes also have to lie at about the
    same place (``reach``), which slices that show the whole body do by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from medssl.core.config import Config as BaseConfig
from medssl.core.features import Features
from medssl.core.task import Batch, StepOutput
from medssl.core.taskmodule import TaskModule
from medssl.core.viewspec import Setting, View, ViewSpec
from medssl.encoders._base import Decoder, Encoder
from medssl.objectives._parts.clips import refuse_clips
from medssl.objectives._parts.distributed import gather
from medssl.objectives._parts.first_blocks import keep_first_blocks, map_after
from medssl.objectives._parts.grid_regions import region_layout, region_nce, region_vectors
from medssl.objectives._parts.heads import Norm, Projector, cell_projector
from medssl.objectives._parts.pair import spread
from medssl.objectives._parts.partitions import (
    GlobalMode,
    Rows,
    across_records,
    by_sample,
    negatives,
    own_pairs,
    pair_nce,
    rows_of,
    within,
)
from medssl.objectives._parts.views import ViewOptions

# B samples, S parts, N rows, R regions, D width

Stage = Literal["global", "local", "joint"]
# Kinds of views that pass the encoder in a stage; the losses compare the first one with another.
_KINDS = {
    "global": ("first", "second"),
    "local": ("first", "twin"),
    "joint": ("first", "twin", "second"),
}


class Config(BaseConfig):
    """Options of ``local_global``."""

    views: ViewOptions = ViewOptions()
    """How views differ; twins in ``intensity`` only."""
    partitions: int = Field(default=4, ge=1)
    """S, parts per volume. With 1 there are no negatives but in G_R."""
    global_mode: GlobalMode = "G_D"
    """Negatives are all other slices (``G_R``) or those of other parts (``G_D-``); ``G_D`` has
    positives across volumes too."""
    local_mode: Literal["L_R", "L_D"] = "L_R"
    """Positives of one view, or (``L_D``) of two volumes too."""
    global_share: float = Field(default=0.5, ge=0, le=1)
    """Share of all steps that train the encoder with the global loss."""
    local_share: float = Field(default=0.5, ge=0, le=1)
    """Share, after those, that trains the decoder with the local loss; the rest trains all."""
    freeze_encoder: bool = True
    """Leave the encoder as it is in the local stage."""
    decoder_blocks: int | None = Field(default=None, ge=1)
    """Blocks of the decoder below the map that is compared; default: 3, or all there are."""
    temperature: float = Field(default=0.1, gt=0)
    """t of both losses."""
    reach: float = Field(default=0.25, ge=0)
    """Largest distance of two volumes' crops of one part, along each axis and as a share of the
    body, at which they still are a positive pair."""
    hidden: int = Field(default=1024, ge=1)
    """Width of the head's hidden layer."""
    out: int = Field(default=128, ge=2)
    """Width of the embedding."""
    norm: Norm = "batch"
    """Norm in the head: ``batch`` (over all devices), ``layer`` or ``none`` (as published)."""

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.global_share + self.local_share > 1:
            raise ValueError("global_share and local_share have to be at most 1 together")
        return self


class Seen(NamedTuple):
    """What passed the encoder in a step: kind by kind, part by part, sample by sample."""

    x: Tensor
    features: Features
    views: dict[str, list[Mapping[str, Any]]]
    record_B: Tensor

    def compared(
        self, rows: Tensor, kind: str, join: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Rows]:
        """Rows of the first views and those of another kind, (N, ...), and what they show."""
        kinds = list(self.views)
        pair = [self.views["first"], self.views[kind]]
        chosen = by_sample(rows, len(self.record_B), len(pair[0]), [0, kinds.index(kind)])
        return join(chosen).flatten(0, 2), rows_of(pair, self.record_B, join)


class Objective(TaskModule):
    """``local_global`` wired to an encoder."""

    progress: Tensor
    cells_RC: Tensor
    near_RK: Tensor

    def __init__(self, encoder: Encoder, config: Config, setting: Setting) -> None:
        super().__init__()
        refuse_clips("local_global", encoder)
        encoder.check_size(setting.crop)
        self.encoder, self.config, self.crop = encoder, config, setting.crop
        self.stages = _stages(config)
        found = {name for name, _ in self.stages}
        self.head: Projector | None = None
        self.decoder: Decoder | None = None
        if found != {"local"}:
            self.head = Projector(encoder.width, config.hidden, config.out, norm=config.norm)
        if found != {"global"}:
            self._add_decoder(encoder.make_decoder(encoder.in_channels))
        self.kinds = _KINDS["joint" if self.head and self.decoder else self.stages[0][0]]
        self.register_buffer("progress", torch.zeros(()))

    def _add_decoder(self, decoder: Decoder) -> None:
        shape = keep_first_blocks(self.encoder, decoder, self.crop, self.config.decoder_blocks)
        layout = region_layout(shape.size)
        self.decoder, self.blocks = decoder, shape.blocks
        self.local_head = cell_projector(shape.channels, len(self.crop))
        self.register_buffer("cells_RC", layout.cells_RC, persistent=False)
        self.register_buffer("near_RK", layout.near_RK, persistent=False)

    @property
    def stage(self) -> Stage:
        """What the next step trains."""
        done = float(self.progress)
        return next((name for name, end in self.stages if done < end), self.stages[-1][0])

    def in_stages(self) -> bool:
        """Whether there are several; one alone lasts from the first step to the last."""
        return len(self.stages) > 1

    def views(self) -> ViewSpec:
        """Per part a view, its twin for the local loss, and another view for the global one."""
        c = self.config
        look = View(crop=self.crop, spatial=c.views.spatial, intensity=c.views.intensity)
        return ViewSpec(
            views=tuple(look.model_copy(update={"twin": kind == "twin"}) for kind in self.kinds),
            overlap=c.views.overlap,
            min_tissue=0.2,
            style=c.views.style,
            partitions=c.partitions,
        )

    def step(self, batch: Batch) -> StepOutput:
        """The loss of the stage; devices wait for a gradient of all weights: 0 where they rest."""
        terms, log = self._compare(batch)
        still = sum((p.sum() for p in self.resting()), start=self.progress.new_zeros(()))
        loss = torch.stack(list(terms.values())).sum() + 0.0 * still
        return StepOutput(loss, {**terms, **log})

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Terms of the stage's loss."""
        return self._compare(batch)[0]

    def resting(self) -> list[nn.Parameter]:
        """Weights of another stage."""
        stage, parts = self.stage, list[nn.Module | None]()
        if stage == "global" and self.decoder:
            parts = [self.decoder, self.local_head]
        if stage == "local":
            parts = [self.head, self.encoder if self.config.freeze_encoder else None]
        return [p for part in parts if part for p in part.parameters() if p.requires_grad]

    def before_update(self, progress: float) -> None:  # noqa: ARG002
        """Without a gradient neither momentum nor weight decay moves weights that rest."""
        for weight in self.resting():
            weight.grad = None

    def after_update(self, progress: float) -> None:
        """The clock of the stages."""
        self.progress.fill_(progress)

    def _compare(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Terms of the stage's loss, and what else is logged."""
        stage = self.stage
        seen = self._look(batch, stage)
        terms, log = dict[str, Tensor](), dict[str, Tensor]()
        if self.head:
            with torch.set_grad_enabled(torch.is_grad_enabled() and stage != "local"):
                z = self.head(seen.features.global_BD)
            log["embedding_std"] = spread(z)
            if stage != "local":
                terms["global"], found = self._global(z, seen)
                log |= found
        if stage != "global":
            vectors = self._regions(seen)
            log.setdefault("embedding_std", spread(vectors.flatten(0, 1)))
            terms["local"], found = self._local(vectors, seen)
            log |= found
        return terms, log

    def _look(self, batch: Batch, stage: Stage) -> Seen:
        """All views of the stage through the encoder at once: batch norms see them together."""
        kinds, every = _KINDS[stage], len(self.kinds)
        views = {kind: batch["views"][self.kinds.index(kind) :: every] for kind in kinds}
        x = torch.cat([view["x"] for kind in kinds for view in views[kind]])
        if stage == "local" and self.config.freeze_encoder:
            training = self.encoder.training
            with torch.no_grad():
                features = self.encoder.eval()(x)
            self.encoder.train(training)
        else:
            features = self.encoder(x)
        return Seen(x, features, views, batch["record"])

    def _global(self, z: Tensor, seen: Seen) -> tuple[Tensor, dict[str, Tensor]]:
        c = self.config
        z_ND, rows = seen.compared(z, "second", gather)
        if c.global_mode == "G_D":
            positive_NN, log = self._positives(rows, "pairs_dropped")
        else:
            positive_NN, log = own_pairs(rows), {}
        return pair_nce(z_ND, positive_NN, negatives(rows, c.global_mode), c.temperature), log

    def _regions(self, seen: Seen) -> Tensor:
        """Vectors (N, R, D) of the regions of first views and twins, which come first."""
        assert self.decoder is not None  # stages with a local loss have one
        count = 2 * len(seen.x) // len(seen.views)
        features = seen.features
        maps = [level[:count] for level in features.pyramid]
        cut = Features(features.global_BD[:count], None, None, maps)
        found = self.local_head(map_after(self.decoder, self.blocks, seen.x[:count], cut))
        return region_vectors(found, self.cells_RC)

    def _local(self, vectors: Tensor, seen: Seen) -> tuple[Tensor, dict[str, Tensor]]:
        if self.config.local_mode == "L_D":
            z_NRD, rows = seen.compared(vectors, "twin", gather)
            positive_NN, log = self._positives(rows, "local_pairs_dropped")
        else:  # no image looks at another one: the mean over ranks is that of the whole batch
            z_NRD, rows = seen.compared(vectors, "twin", lambda x: x)
            positive_NN, log = own_pairs(rows), {}
        pairs = positive_NN.nonzero()
        return region_nce(z_NRD, pairs, self.near_RK, self.config.temperature), log

    def _positives(self, rows: Rows, name: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Positive pairs (N, N), those of two volumes included; logs how many lie too far apart."""
        wanted_NN, near_NN = across_records(rows), within(rows, self.config.reach)
        dropped = (wanted_NN & ~near_NN).sum() / wanted_NN.sum().clamp(min=1)
        return own_pairs(rows) | (wanted_NN & near_NN), {name: dropped}


def _stages(config: Config) -> list[tuple[Stage, float]]:
    """Stages that take part, with the share of all steps at which each ends."""
    both = round(config.global_share + config.local_share, 6)
    starts = (0.0, config.global_share, both)
    ends = (config.global_share, both, 1.0)
    names: tuple[Stage, ...] = ("global", "local", "joint")
    # Rounded as ``progress`` is, so that a stage ends where its share is reached.
    return [
        (name, torch.tensor(end, device="cpu").item())
        for name, start, end in zip(names, starts, ends, strict=True)
        if end > start
    ]
