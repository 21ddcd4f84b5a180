"""How an objective or head asks for its views: as data, so that a stage can build them.

A sample is a mapping of

- ``views``: a list,
- ``record``, ``patient`` (int): numbers of the record and of its patient in this run,
- ``spacing_mm`` (3,) float32: (d, h, w) of the stored record, 1 where it is unknown,
- ``replaced`` (float): 1 where another record stands in for an unreadable one,
- ``target`` (int), where a whole sample has a label,
- ``partner``, where the spec asks for one: ``{"record": int, "patient": int, "score": float,
  "kept": bool}``. The partner's views follow the sample's own, as many of them in the same order. A
  pair whose score is below the threshold is not ``kept``: objectives leave it out, and count it.
  A sample that has no partner is its own, with the score -1, and not ``kept``.

Each view is a mapping of

- ``x`` (C, *crop) float32,
- ``tissue`` (C, *crop) bool, False = air or padding,
- ``place`` (3, 4) float64: output voxel (d, h, w, 1) -> voxel of the stored record, flips included
  (a picture is a record of one slice; elastic bending is not part of it),
- ``position`` (3,) float32: centre of the view in body coordinates, (d, h, w): 0 and 1 are the ends
  of the record's tissue along its axes (0.5 along an axis of one voxel),
- ``part`` (int), where the spec has ``partitions``: for which one the view was drawn; the first
  view of each part has its centre in it,
- ``inside`` (stack,) bool and ``offset_mm`` (stack,) float32, where the spec has a ``stack``:
  slices that the record has, and where they lie along the cut, 0 = the middle of the stack,
- ``segments`` (*crop) int64, where the view asks for them: 1 .. K supervoxels, 0 = air,
- ``mask`` (N,) bool, True = hidden, raster order, where the view has a ``mask``,
- ``targets`` (T, K) int64, token ids of target blocks, where the view has ``targets``; its
  ``mask`` then hides all but the context, which shares no token with them,
- ``time_s`` (T,) float32, where the spec has a ``clip``: when each frame was shown, in seconds from
  the record's start. Frames that repeat (``short``) repeat their time,
- ``label`` (*crop) uint8 where the record has a label map.

Views of clips are (T, H, W): T frames of one shot, from first to last. Where they are cut, how they
are turned and bent, and how their grey values change, noise included, is the same for all frames of
a view: what stands still in the record stands still in the view. ``place`` and ``position`` count
time like an axis of voxels; in ``place`` it is the line from the first frame to the last.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Self, cast, get_args

from pydantic import AfterValidator, Field, model_validator

from medssl.core.config import Config
from medssl.core.geometry import Kind, Plane


def _low_to_high(ends: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= ends[0] <= ends[1]:
        raise ValueError("has to be [low, high], from 0 up")
    return ends


def _at_most_one(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[1] > 1:
        raise ValueError("has to be at most 1")
    return ends


def _above_zero(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] <= 0:
        raise ValueError("has to be above 0")
    return ends


Range = Annotated[tuple[float, float], AfterValidator(_low_to_high)]
Share = Annotated[Range, AfterValidator(_at_most_one)]
Factor = Annotated[Range, AfterValidator(_above_zero)]
MaskKind = Literal["random", "block", "column", "tube", "blocks"]


class MaskSpec(Config):
    """Which tokens of a view are hidden."""

    token_size: tuple[int, ...]
    """Voxels per token, array order."""
    ratio: Share = (0.75, 0.75)
    """Share hidden, drawn between these."""
    kind: MaskKind = "random"
    """``random`` tokens; ``block``: rectangles until the share is reached; ``column``: random
    columns along the first axis of a volume; ``tube``: the same tokens in every time step of a
    clip; ``blocks``: cubes of ``cell`` tokens, the same on every coarser level of a pyramid."""
    cell: int = Field(default=2, ge=1)
    """Tokens per edge of a cube (``blocks``)."""
    probability: float = Field(default=1.0, ge=0, le=1)
    """Share of samples with a mask; the others hide nothing."""


class TargetSpec(Config):
    """Target blocks and their context, equally many tokens in every sample (I-JEPA)."""

    token_size: tuple[int, ...]
    """Voxels per token, array order."""
    count: int = Field(default=4, ge=1)
    """Target blocks per sample."""
    share: float = Field(default=0.175, gt=0, lt=1)
    """Tokens of each target, as a share of all."""
    elongation: float = Field(default=1.5, ge=1)
    """Largest ratio of two edges of a block."""
    context: Share = (0.85, 1.0)
    """Context block before the targets are taken out, as a share of all tokens."""
    full_time: bool = False
    """Blocks in the plane, through all frames of a clip (V-JEPA): one target, of all tokens that
    the context leaves; ``share`` is of the tokens of one time step."""
    visible: float = Field(default=0.1, gt=0, lt=1)
    """``full_time``: context, in place of a block, as a share of all tokens. The edge of the union
    of blocks moves until exactly so many lie outside."""


class Spatial(Config):
    """Where a crop is taken and how it is bent; angles and lengths in the patient's space."""

    rotate_deg: float = Field(default=0.0, ge=0)
    """Largest rotation about each axis, in mm space: thick slices do not shear."""
    scale: Factor = (1.0, 1.0)
    """Zoom; 2 shows half the field of view."""
    elastic_mm: float = Field(default=0.0, ge=0)
    """Largest displacement of a smooth random field, in pixels where spacing is unknown; at most a
    tenth of the crop's edge along each axis, so that it never folds."""
    probability: float = Field(default=1.0, ge=0, le=1)
    """Of rotation and zoom together, and of bending."""
    flip: bool | None = None
    """Mirror at random: ``None`` = only where left and right are equal (endoscopy, photographs)."""


class Intensity(Config):
    """Changes of grey values, each with its own chance; neutral by default.

    Strengths are in units of the crop's own spread, so that they mean the same for every modality.
    """

    gamma: Factor = (1.0, 1.0)
    brightness: float = Field(default=0.0, ge=0)
    """Largest shift, in standard deviations of the crop."""
    contrast: Range = (1.0, 1.0)
    bias_field: float = Field(default=0.0, ge=0)
    """Largest relative strength of a smooth multiplicative field (MR only)."""
    noise: float = Field(default=0.0, ge=0)
    """Largest standard deviation of added noise, in standard deviations of the crop."""
    blur: Range = (0.0, 0.0)
    """Standard deviation of a Gaussian, in voxels."""
    low_resolution: Factor = (1.0, 1.0)
    """Sampled down and up again by this factor."""
    window_jitter_hu: float = Field(default=0.0, ge=0)
    """Largest shift of each end of the window (CT only)."""
    hue: float = Field(default=0.0, ge=0, le=0.5)
    """Largest turn of the colour circle; refused for modalities without colour."""
    saturation: Range = (1.0, 1.0)
    """Colour pictures only."""
    probability: float = Field(default=0.0, ge=0, le=1)
    """Of gamma, brightness, contrast, bias field, window and colour, each."""
    noise_probability: float = Field(default=0.0, ge=0, le=1)
    """Of noise, blur and low resolution, each."""


PartnerKind = Literal["anatomy", "patient", "neighbour", "study"]


class PartnerSpec(Config):
    """A second record (or slice) that shows the same anatomy as a sample."""

    kind: PartnerKind
    """``anatomy``: a record of another patient, at the matching landmark; ``patient``: another
    record of the same patient (sequence, prior study), at the same place; ``neighbour``: another
    slice of the same volume, image encoders only; ``study``: another clip of the same study."""
    embedding: Path | None = None
    """Run of ``pretrain objective=anatomy`` whose dense embedding finds the landmark; without one,
    places are matched by body coordinates (``anatomy`` only)."""
    threshold: float = Field(default=0.7, ge=-1, le=1)
    """Smallest score of a pair that is kept. ``anatomy``: the cosine of embeddings, or without one
    the correlation of the two crops, averaged over eighths; ``patient``: the smallest ratio of the
    lengths of both bodies; ``neighbour``: 1 minus the distance as a share of ``reach_mm``;
    ``study``: the share of a view's time that both clips show."""
    tries: int = Field(default=5, ge=1)
    """Places and partners tried for one sample until a pair is good enough; the best one counts."""
    reach_mm: float = Field(default=10.0, gt=0)
    """Largest distance of neighbouring slices."""
    synchronous: bool = True
    """First views of two clips of a ``study`` start at one time of both; else each anywhere."""


class ClipSpec(Config):
    """Which frames of a clip a view shows; ``crop[0]`` of them, never across a cut."""

    stride_ms: Factor = (66.0, 66.0)
    """Time between frames, drawn between these for each view. The stored frame closest to each
    time is shown, so a stride below the time between stored frames repeats them."""
    short: Literal["hold", "tighten", "refuse"] = "hold"
    """If no shot of a record is long enough, its longest one is taken. ``hold`` repeats the last
    frame; ``tighten`` takes a shorter stride, and holds where even that is too long; ``refuse``
    takes another record in its place."""


class View(Config):
    """One kind of view; ``count`` of them are drawn."""

    crop: tuple[int, ...]
    """Voxels (D, H, W), pixels (H, W) for an image encoder, or frames and pixels (T, H, W)."""
    count: int = Field(default=1, ge=1)
    spatial: Spatial = Spatial()
    intensity: Intensity = Intensity()
    mask: MaskSpec | None = None
    targets: TargetSpec | None = None
    """Instead of ``mask``."""
    twin: bool = False
    """Show the same voxels as the view before (place, turn, bend), with grey values drawn anew."""
    tiles: tuple[int, ...] = ()
    """Crops side by side, so many along each axis, in place of ``count``; the first tiles of a spec
    are put at random, and every other view lies within them (VoCo's base crops)."""
    segments: int | None = Field(default=None, ge=2)
    """About so many supervoxels per crop."""


class ViewSpec(Config):
    """All views of a sample, in the order of the batch."""

    views: tuple[View, ...]
    overlap: float = Field(default=0.0, ge=0, le=1)
    """Smallest share, per axis, of a view's extent that the first view shows too; turns, zooms and
    bends are allowed for. A view whose crop is larger than that shows all of the first one."""
    min_tissue: float = Field(default=0.0, ge=0, le=1)
    """Smallest wanted share of tissue in each view; the fullest of a few draws is taken."""
    foreground: float = Field(default=0.0, ge=0, le=1)
    """Share of labelled crops centred on a random foreground voxel."""
    style: Share | None = None
    """Batch style standardisation: side of the window of low frequencies whose amplitudes all
    samples of a step share, as a share of the spectrum, drawn between these (per view index)."""
    plane: Plane = "acquired"
    """Slices of volumes for image encoders; ``acquired`` = across the largest spacing."""
    partitions: int = Field(default=0, ge=0)
    """Parts of equal length along the body axis (the cut of image encoders, else feet to head);
    all views come once per part, part by part (Chaitanya et al. 2020). 0 = anywhere, once."""
    partner: PartnerSpec | None = None
    """Whose views follow the sample's own."""
    stack: int | None = Field(default=None, ge=2)
    """Image encoders: every view is so many slices of a volume, evenly spaced over a random share
    of it, ``x`` (C, stack, H, W), all cut alike; what a picture or a short volume lacks is not
    ``inside``. All views take slices of one grid, and ``overlap`` holds for slices too. A mask
    hides whole slices: its ``token_size`` is (1, *crop), its share is of those inside."""
    clip: ClipSpec | None = None
    """Clip encoders: views of clips. ``overlap`` holds for time too: 1 = all views show the time
    of the first one, 0 = any time of its shot."""

    @model_validator(mode="after")
    def _stacks_are_plain(self) -> Self:
        if self.stack is None:
            return self
        for view in self.views:
            whole = view.mask is None or view.mask.token_size == (1, *view.crop)
            if len(view.crop) != 2 or view.targets or view.twin or view.tiles or view.segments:
                raise ValueError("a stack has views (H, W) without targets, twin, tiles, segments")
            if not whole:
                raise ValueError("masks of a stack hide whole slices: token_size (1, *crop)")
        if self.foreground or self.style or self.partitions or self.partner:
            raise ValueError("a stack has neither foreground, style, partitions nor partner")
        return self

    @model_validator(mode="after")
    def _clips_are_plain(self) -> Self:
        for view in self.views:
            tubes = view.mask is not None and view.mask.kind == "tube"
            full_time = view.targets is not None and view.targets.full_time
            if self.clip is None and (tubes or full_time):
                raise ValueError("tube masks and full_time targets are for clips")
            if self.clip and (len(view.crop) != 3 or view.tiles or view.segments):
                raise ValueError("clips have views (T, H, W) without tiles and segments")
        if self.clip and (self.foreground or self.style or self.partitions or self.stack):
            raise ValueError("clips have neither foreground, style, partitions nor stack")
        return self


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a stage tells an objective about its data.

    Attributes:
        crop: voxels of a full view, (D, H, W), (H, W) or (T, H, W).
        records: number of records; ``record`` of a batch is below it.
        kind: of the encoder's input; by default a volume for three axes, an image for two.
        clip: how frames are chosen where the input is a clip; else it says nothing.
    """

    crop: tuple[int, ...]
    records: int
    kind: Kind = field(default_factory=lambda: cast("Kind", ""))
    clip: ClipSpec = field(default_factory=ClipSpec)

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            object.__setattr__(self, "kind", "volume" if len(self.crop) == 3 else "image")

    @property
    def frames(self) -> ClipSpec | None:
        """What a view spec says of clips: nothing where the input is none."""
        return self.clip if self.kind == "clip" else None
