"""Pairs of records, or of slices, that show the same anatomy: which, where, and how sure.

A pair is a landmark of one record, the place that shows it in another, and a score. Both records'
first views are centred there. Landmarks are tissue, away from the ends of the body, and where the
first view's crop lies inside the record, if it can.

- ``anatomy``: a record of another patient; a :class:`Matcher` finds the place and gives the score.
- ``patient``: another record of the same patient, at equal body coordinates (catalogs do not keep
  frames of reference). The score is the smallest ratio, over the axes, of the lengths of their
  tissue in mm: two records of one body differ in it where one of them shows less of the body, and
  that is where body coordinates go wrong.
- ``neighbour``: another slice of the same volume, at the same pixel. The score is 1 minus the
  distance as a share of ``reach_mm``.
- ``study``: another clip of the same study (another view of one heart). In place of a landmark both
  have a moment, one time since their first frames unless they are not ``synchronous``. The score is
  the share of the view's time that both clips show.

Pictures pair with pictures and volumes with volumes. A sample without any such partner is its own
stand-in with the score -1, and never kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ConfigError, NothingUsableError
from medssl.core.viewspec import PartnerSpec, ViewSpec
from medssl.views.build import Landmark, axis_of
from medssl.views.clips import Moment, draw_moment, draw_together
from medssl.views.crops import size_of, tissue_of
from medssl.views.planes import in_record
from medssl.views.source import Source
from medssl.views.spatial import Vector

# Share of the tissue's length, at each end, where no landmark lies; one voxel at least.
_BORDER = 1 / 16
# Draws until a landmark is tissue.
_TRIES = 32
# The score of samples without a partner.
_NONE = -1.0


class Sources(Protocol):
    """The records of a run by number."""

    @property
    def patients(self) -> npt.NDArray[np.int64]:
        """(N,) number of each record's patient."""

    @property
    def pictures(self) -> npt.NDArray[np.bool_]:
        """(N,) whether a record is one slice."""

    @property
    def clips(self) -> npt.NDArray[np.bool_]:
        """(N,) whether a record is a clip."""

    @property
    def studies(self) -> npt.NDArray[np.int64]:
        """(N,) number of the study that each record is of."""

    def source(self, record: int) -> Source:
        """A record to cut views from."""


class Match(NamedTuple):
    """A place in another record, (d, h, w), maybe between voxels; its score: 1 = the same place."""

    voxel: Vector
    score: float


class Matcher(Protocol):
    """Finds landmarks of one record in another."""

    def match(self, record: int, voxel: Vector, other: int) -> Match:
        """The place in record ``other`` that shows what ``voxel`` of ``record`` shows."""


@dataclass(frozen=True, eq=False)
class Pair:
    """A landmark or moment, the record that shows it too, and where or when."""

    here: Landmark | Moment
    record: int
    there: Landmark | Moment
    score: float
    kept: bool


def draw_pair(
    spec: ViewSpec,
    rng: np.random.Generator,
    sources: Sources,
    record: int,
    matcher: Matcher | None,
) -> Pair:
    """The first of ``tries`` pairs whose score reaches the threshold, else the best of them."""
    partner = spec.partner
    assert partner is not None
    if partner.kind == "study":
        return _draw_clips(spec, partner, rng, sources, record)
    source = sources.source(record)
    axis = axis_of(spec, source)
    size = in_record(np.array(size_of(spec.views[0].crop)), axis)
    find = _finder(partner, rng, sources, record, matcher)
    best: Pair | None = None
    for _ in range(partner.tries):
        here = Landmark(_landmark(rng, source, size), axis)
        found = find(here)
        if found is None:
            return Pair(here, record, here, _NONE, kept=False)
        other, match = found
        kept = match.score >= partner.threshold
        if best is None or match.score > best.score:
            there = Landmark(np.rint(match.voxel), axis)
            best = Pair(here, other, there, match.score, kept)
        if kept:
            break
    assert best is not None
    return best


def check_partners(spec: ViewSpec, sources: Sources) -> None:
    """Refuse a spec that no record of a run can fulfil.

    Raises:
        ConfigError: partners beside partitions or a stack; neighbours of whole volumes; parts of
            pictures; any of them of clips, but for those of a study, which are of clips only.
        NothingUsableError: no record has a partner.
    """
    flat = len(spec.views[0].crop) == 2
    if spec.partitions and sources.pictures.any():
        what = f"{int(sources.pictures.sum())} records are pictures, which have no parts"
        raise ConfigError(what, fix="leave them out: --where \"kind == 'volume'\"")
    of_study = spec.partner is not None and spec.partner.kind == "study"
    if of_study and not (spec.clip and sources.clips.all()):
        what = "partners of one study are for clips and encoders of clips"
        raise ConfigError(what, fix="partner.kind=patient, or encoder=video_vit-s")
    if (spec.partitions or spec.stack or (spec.partner and not of_study)) and sources.clips.any():
        what = f"{int(sources.clips.sum())} records are clips, which have no parts, slices, partner"
        raise ConfigError(what, fix="leave them out: --where \"kind != 'clip'\"")
    if spec.partner is None:
        return
    kind = spec.partner.kind
    if spec.partitions or spec.stack:
        what = f"partner.kind={kind} beside {'partitions' if spec.partitions else 'a stack'}"
        raise ConfigError(what, fix="choose one of the two")
    if kind == "neighbour":
        if not flat:
            what, fix = "neighbouring slices for a volume encoder", "partner.kind=patient"
            raise ConfigError(what, fix=fix)
        if sources.pictures.all():
            raise NothingUsableError("pictures have no neighbouring slices", fix="use volumes")
        return
    if not any(len(_candidates(kind, sources, n)) for n in _one_of_each(sources)):
        among = {"anatomy": "of other patients", "study": "in its study"}
        among_them = among.get(kind, "of the same patient")
        what = f"no record has a partner {among_them}"
        raise NothingUsableError(what, fix="add records, or choose another objective")


def _finder(
    partner: PartnerSpec,
    rng: np.random.Generator,
    sources: Sources,
    record: int,
    matcher: Matcher | None,
) -> Callable[[Landmark], tuple[int, Match] | None]:
    """Draws a partner for a landmark; ``None`` where there is none."""
    source = sources.source(record)

    def neighbour(here: Landmark) -> tuple[int, Match] | None:
        match = _neighbour(rng, source, here, partner.reach_mm, partner.threshold)
        return None if match is None else (record, match)

    def another(here: Landmark) -> tuple[int, Match] | None:
        others = _candidates(partner.kind, sources, record)
        if not len(others):
            return None
        other = int(others[rng.integers(len(others))])
        if partner.kind == "patient":
            return other, _same_body(source, here.voxel, sources.source(other))
        assert matcher is not None
        return other, matcher.match(record, here.voxel, other)

    return neighbour if partner.kind == "neighbour" else another


def _candidates(kind: str, sources: Sources, record: int) -> npt.NDArray[np.int64]:
    """Records that may be the partner of one."""
    same = sources.patients == sources.patients[record]
    allowed = (~same if kind == "anatomy" else same) & (
        sources.pictures == sources.pictures[record]
    )
    if kind == "study":
        allowed &= sources.studies == sources.studies[record]
    allowed[record] = False
    return np.flatnonzero(allowed)


def _draw_clips(
    spec: ViewSpec, partner: PartnerSpec, rng: np.random.Generator, sources: Sources, record: int
) -> Pair:
    """Another clip of the study, and the moments that the first views show."""
    assert spec.clip is not None
    source, count = sources.source(record), spec.views[0].crop[0]
    best: Pair | None = None
    others = rng.permutation(_candidates(partner.kind, sources, record))
    for other in others[: partner.tries].tolist():
        clips = source, sources.source(other)
        if partner.synchronous:
            found = draw_together(rng, clips, count, spec.clip)
        else:
            here, there = (draw_moment(rng, clip, count, spec.clip) for clip in clips)
            found = (here, there), 1.0
        if found is None:
            continue
        moments, score = found
        kept = score >= partner.threshold
        if best is None or score > best.score:
            best = Pair(moments[0], other, moments[1], score, kept)
        if kept:
            break
    if best is None:
        alone = draw_moment(rng, source, count, spec.clip)
        best = Pair(alone, record, alone, _NONE, kept=False)
    return best


def _one_of_each(sources: Sources) -> npt.NDArray[np.int64]:
    """A record of each patient, study and kind: the others have as many partners."""
    groups = np.stack([sources.patients, sources.studies, sources.pictures], 1)
    return np.asarray(np.unique(groups, axis=0, return_index=True)[1])


def _neighbour(
    rng: np.random.Generator, source: Source, here: Landmark, reach_mm: float, threshold: float
) -> Match | None:
    """Another slice of the body within reach, at the same pixel; if there is, a near enough one."""
    low, high = (source.body + 0.5)[:, here.axis]
    there = np.arange(low, high)
    far_mm = np.abs(there - here.voxel[here.axis]) * source.spacing_mm[here.axis]
    score = 1 - far_mm / reach_mm
    near = np.flatnonzero((far_mm > 0) & (far_mm <= reach_mm))
    if not len(near):
        return None
    good = near[score[near] >= threshold]
    chosen = rng.choice(good if len(good) else near)
    voxel = here.voxel.copy()
    voxel[here.axis] = there[chosen]
    return Match(voxel, float(score[chosen]))


def _same_body(source: Source, voxel: Vector, other: Source) -> Match:
    """Equal body coordinates; the score tells how alike the lengths of both bodies are."""
    here, there = (_lengths_mm(one) for one in (source, other))
    ratio = np.minimum(here, there) / np.maximum(here, there)
    return Match(other.voxel(source.position(voxel)), float(ratio.min()))


def _lengths_mm(source: Source) -> Vector:
    low, high = source.body
    return np.asarray((high - low) * source.spacing_mm)


def _landmark(rng: np.random.Generator, source: Source, size: Vector) -> Vector:
    """A voxel of tissue; the last of many draws where none is."""
    low, high = source.body[0] + 0.5, source.body[1] - 0.5
    border = np.minimum(np.maximum(1, np.rint(_BORDER * (high - low + 1))), (high - low) // 2)
    shape = np.array(source.shape_DHW)
    slack = np.maximum(shape - size, 0) / 2
    inside = (shape - 1) / 2 - slack, (shape - 1) / 2 + slack
    low, high = (np.clip(end, *inside) for end in (low + border, high - border))
    for _ in range(_TRIES):
        voxel = rng.integers(np.ceil(low), np.maximum(np.floor(high), np.ceil(low)) + 1)
        start = tuple(map(int, voxel))
        stop = tuple(n + 1 for n in start)
        if tissue_of(source, source.read(start, stop)).any():
            break
    return np.asarray(voxel, dtype=float)
