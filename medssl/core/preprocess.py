"""The preprocessing contract: one set of rules for the store and for predict.

A volume is turned to RAS+ order, resampled to ``spacing_mm`` and its intensities are mapped by
the rule of its modality. The contract is recorded in the card of every checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medssl.core.config import Config, Versioned
from medssl.core.errors import ReadError
from medssl.core.geometry import FloatArray, Geometry, Reorientation, resized_affine, spacing_of
from medssl.core.sample import UNKNOWN

# Spacings closer than this (relative) are one spacing: resampling would only blur.
SPACING_TOLERANCE = 1e-3


class IntensityRule(Config):
    """How raw values become network input.

    ``window``: [low, high] -> [0, 1], clipped (CT: HU).
    ``percentile``: clipped at the ``low`` and ``high`` percentile, then z-scored (MR).
    ``range``: ``low`` and ``high`` as fractions of the whole range of the stored integers
    -> [0, 1], clipped (pictures: 0-255). The same for every frame of every clip, so that
    brightness and colour keep their meaning.
    """

    kind: Literal["window", "percentile", "range"]
    low: float
    high: float
    air: float
    """Values below are air or padding, never a reconstruction target: raw value (HU) for
    ``window``, fraction of the clipped range for ``percentile`` and ``range``."""


CT_RULE = IntensityRule(kind="window", low=-1024.0, high=1024.0, air=-900.0)
MR_RULE = IntensityRule(kind="percentile", low=1.0, high=99.0, air=0.1)
# Radiographs and angiograms: detector units of any gain. The tails are collimator edges, markers
# and direct exposure; there is no level that is always air.
PROJECTION_RULE = IntensityRule(kind="percentile", low=0.5, high=99.5, air=0.0)
# PET and scintigrams: counts or Bq/ml from zero; the few hottest voxels (bladder, injection site)
# must not set the scale.
EMISSION_RULE = IntensityRule(kind="percentile", low=0.0, high=99.5, air=0.02)
# Ultrasound: the machine has already compressed its echoes to 0-255; exactly 0 lies outside the
# sector (half a level of 255).
ULTRASOUND_RULE = IntensityRule(kind="range", low=0.0, high=1.0, air=0.5 / 255)
# Photographs, endoscopy, video: levels as stored.
PICTURE_RULE = IntensityRule(kind="range", low=0.0, high=1.0, air=0.0)

_RULES = {
    "CT": CT_RULE,
    "MR": MR_RULE,
    UNKNOWN: MR_RULE,
    **dict.fromkeys(("CR", "DX", "MG", "IO", "PX", "XA", "RF"), PROJECTION_RULE),
    **dict.fromkeys(("PT", "NM"), EMISSION_RULE),
    **dict.fromkeys(("US", "IVUS"), ULTRASOUND_RULE),
    **dict.fromkeys(("ES", "GM", "OP", "XC"), PICTURE_RULE),
}


class Contract(Versioned):
    """What a network expects of its input."""

    orientation: Literal["RAS"] = "RAS"
    spacing_mm: tuple[float, float, float] | None = None
    """(D, H, W) in mm; ``None`` keeps each volume's own spacing."""
    rules: dict[str, IntensityRule] = _RULES
    """Intensity rule by modality; modalities without one use ``unknown``'s."""

    def rule(self, modality: str) -> IntensityRule:
        return self.rules.get(modality, self.rules[UNKNOWN])


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A volume that follows a contract, and the way back to its input grid.

    Attributes:
        array: (C, D, H, W) float16.
        affine: of the prepared grid.
        air: (C,) normalised level below which a voxel is air or padding.
    """

    array: npt.NDArray[np.float16]
    affine: npt.NDArray[np.float64]
    air: tuple[float, ...]
    turn: Reorientation
    turned_DHW: tuple[int, int, int]


def prepare(
    array_CDHW: npt.NDArray[Any], geometry: Geometry, modality: str, contract: Contract
) -> Prepared:
    """Bring a volume into the contract.

    Raises:
        ReadError: ``geometry_unknown``, ``nan_voxels`` or ``constant``.
    """
    if geometry.affine is None:
        raise ReadError("geometry_unknown", "the file does not say where its voxels lie")
    x_CDHW = np.asarray(array_CDHW, dtype=np.float32)
    if not np.isfinite(x_CDHW).all():
        bad = int(np.size(x_CDHW) - np.isfinite(x_CDHW).sum())
        raise ReadError("nan_voxels", f"{bad} voxels are NaN or infinite")
    turn = Reorientation.to_ras(geometry.affine)
    affine = turn.affine(geometry.affine, x_CDHW.shape[1:])
    x_CDHW = turn.apply(x_CDHW)
    turned_DHW: tuple[int, int, int] = x_CDHW.shape[1:]
    new_DHW = target_shape(turned_DHW, spacing_of(affine), contract.spacing_mm)
    rule = contract.rule(modality)
    scaled = [normalise(x_DHW, rule, np.asarray(array_CDHW).dtype) for x_DHW in x_CDHW]
    resampled = [resize_linear(x_DHW, new_DHW) for x_DHW, _ in scaled]
    return Prepared(
        array=np.ascontiguousarray(np.stack(resampled)).astype(np.float16),
        affine=resized_affine(affine, turned_DHW, new_DHW),
        air=tuple(air for _, air in scaled),
        turn=turn,
        turned_DHW=turned_DHW,
    )


def target_shape(
    shape_DHW: tuple[int, ...],
    spacing_mm: tuple[float, float, float],
    wanted_mm: tuple[float, float, float] | None,
) -> tuple[int, int, int]:
    """Shape of the grid with the wanted spacing over the same field of view."""
    d, h, w = shape_DHW
    if wanted_mm is None:
        return d, h, w
    scale = np.array(spacing_mm) / np.array(wanted_mm)
    scale[np.abs(scale - 1) < SPACING_TOLERANCE] = 1.0
    new = np.maximum(np.round(np.array([d, h, w]) * scale), 1).astype(int)
    return int(new[0]), int(new[1]), int(new[2])


def resize_linear(x_DHW: FloatArray, new_DHW: tuple[int, int, int]) -> FloatArray:
    """Linear resampling over the same field of view, low-pass filtered when it shrinks."""
    if x_DHW.shape == new_DHW:
        return x_DHW
    step = np.array(x_DHW.shape) / np.array(new_DHW)
    # Half the excess of the new voxel over the old one, as a Gaussian: no aliasing.
    sigma = np.where(step > 1, 0.5 * np.sqrt(np.maximum(step**2 - 1, 0)), 0.0)
    smooth = ndimage.gaussian_filter(x_DHW, sigma, mode="nearest") if sigma.any() else x_DHW
    offset = (step - 1) / 2
    out = ndimage.affine_transform(
        smooth, step, offset=offset, output_shape=new_DHW, order=1, mode="nearest"
    )
    return np.asarray(out, dtype=x_DHW.dtype)


def prepare_labels(
    labels_DHW: npt.NDArray[np.integer[Any]], geometry: Geometry, contract: Contract
) -> npt.NDArray[np.uint8]:
    """Labels on the prepared grid: each class resampled linearly, the largest share wins."""
    if geometry.affine is None:
        raise ReadError("geometry_unknown", "the label file does not say where its voxels lie")
    turn = Reorientation.to_ras(geometry.affine)
    affine = turn.affine(geometry.affine, labels_DHW.shape)
    turned = np.ascontiguousarray(turn.apply(labels_DHW)).astype(np.uint8)
    new_DHW = target_shape(turned.shape, spacing_of(affine), contract.spacing_mm)
    if turned.shape == new_DHW:
        return turned
    best = np.zeros(new_DHW, dtype=np.float32)
    out = np.zeros(new_DHW, dtype=np.uint8)
    for value in np.unique(turned):
        share = resize_linear((turned == value).astype(np.float32), new_DHW)
        out[share > best] = value
        np.maximum(best, share, out=best)
    return out


def restore_labels(scores_KDHW: FloatArray, prepared: Prepared) -> npt.NDArray[np.uint8]:
    """Class scores on the prepared grid -> label map on the input grid, class by class."""
    best = np.full(prepared.turned_DHW, -np.inf, dtype=np.float32)
    out = np.zeros(prepared.turned_DHW, dtype=np.uint8)
    for value, score_DHW in enumerate(scores_KDHW):
        score = resize_linear(score_DHW.astype(np.float32), prepared.turned_DHW)
        out[score > best] = value
        np.maximum(best, score, out=best)
    return np.ascontiguousarray(prepared.turn.undo(out))


def normalise(
    x: FloatArray, rule: IntensityRule, stored: np.dtype[Any]
) -> tuple[FloatArray, float]:
    """One channel by a rule, and the normalised level below which a value is air.

    Args:
        x: values of any shape.
        rule: the rule of the modality.
        stored: type that the values had in the file; ``range`` needs its limits, for fractional
            types it takes those of the values.

    Raises:
        ReadError: ``constant``.
    """
    if rule.kind != "percentile":
        low, high, air = _levels(x, rule, stored)
        scaled = (np.clip(x, low, high) - low) / (high - low)
        _refuse_constant(scaled)
        return scaled, (air - low) / (high - low)
    low, high = np.percentile(x, [rule.low, rule.high])
    clipped = np.clip(x, low, high)
    _refuse_constant(clipped)
    mean, std = float(clipped.mean(dtype=np.float64)), float(clipped.std(dtype=np.float64))
    air = low + rule.air * (high - low)
    return ((clipped - mean) / std).astype(np.float32), float((air - mean) / std)


def _levels(
    x: FloatArray, rule: IntensityRule, stored: np.dtype[Any]
) -> tuple[float, float, float]:
    """Raw values that become 0 and 1, and the raw level of air."""
    if rule.kind == "window":
        return rule.low, rule.high, rule.air
    if stored.kind in "iu":
        bottom, top = float(np.iinfo(stored).min), float(np.iinfo(stored).max)
    else:
        bottom, top = float(x.min()), float(x.max())
        _refuse_constant(x)
    low, high = (bottom + share * (top - bottom) for share in (rule.low, rule.high))
    return low, high, low + rule.air * (high - low)


def _refuse_constant(x_DHW: FloatArray) -> None:
    if x_DHW.max() - x_DHW.min() <= 0:
        raise ReadError("constant", "all voxels have one value after the intensity rule")
