"""The preprocessing contract: one set of rules for the store and for predict.

A volume is turned to RAS+ order, resampled to ``spacing_mm`` and its intensities are mapped by
the rule of its modality. A picture keeps its axes and becomes a record of one slice, with its
shorter side of ``size_px``. Clips are prepared frame by frame (:mod:`medssl.core.clips`): at most
``fps`` of them, with their times, and with a shorter side of ``short_side_px``. The contract is
recorded in the card of every checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import ndimage

from medssl.core.config import Versioned
from medssl.core.errors import ReadError
from medssl.core.geometry import (
    AnyArray,
    FloatArray,
    Geometry,
    Reorientation,
    resized_affine,
    spacing_of,
)
from medssl.core.intensity import PICTURE, RULES, IntensityRule, normalise
from medssl.core.sample import UNKNOWN

# Spacings closer than this (relative) are one spacing: resampling would only blur.
SPACING_TOLERANCE = 1e-3
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)


class Contract(Versioned):
    """What a network expects of its input."""

    orientation: Literal["RAS"] = "RAS"
    spacing_mm: tuple[float, float, float] | None = None
    """(D, H, W) in mm; ``None`` keeps each volume's own spacing. Pictures follow (H, W) of it
    unless ``size_px`` is given."""
    size_px: int | None = None
    """Shorter side of a picture, aspect kept; ``None`` keeps each picture's own pixels."""
    fps: float | None = Field(default=None, gt=0)
    """Frames of a clip per second, at most; ``None`` keeps every frame."""
    short_side_px: int | None = Field(default=None, ge=1)
    """Shorter side of a clip's frames, aspect kept; ``None`` keeps each clip's own pixels."""
    picture_channels: Literal[1, 3] | None = None
    """Grey pictures and frames are copied to 3 channels, colour becomes luminance; ``None``: as
    stored."""
    rules: dict[str, IntensityRule] = RULES
    """Intensity rule by modality; modalities without one use ``unknown``'s, or ``picture``'s for
    pictures of 8 bits."""

    def rule(self, modality: str) -> IntensityRule:
        return self.rules.get(modality, self.rules[UNKNOWN])

    def picture_rule(self, modality: str, stored: np.dtype[Any]) -> IntensityRule:
        """As :meth:`rule`; 8 bits of unknown origin are levels of a picture, as shown."""
        known = modality in self.rules and modality != UNKNOWN
        return self.rule(PICTURE if stored == np.uint8 and not known else modality)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A volume or picture that follows a contract, and the way back to its input grid.

    Attributes:
        array: (C, D, H, W) float16; D = 1 for a picture.
        affine: of the prepared grid; ``None`` for a picture.
        spacing_mm: of the prepared grid, (D, H, W), or (H, W) of a picture; ``None`` = unknown.
        air: (C,) normalised level below which a voxel is air or padding.
        modality: whose rule was used.
    """

    array: npt.NDArray[np.float16]
    affine: npt.NDArray[np.float64] | None
    spacing_mm: tuple[float, ...] | None
    air: tuple[float, ...]
    modality: str
    turn: Reorientation
    turned_DHW: tuple[int, int, int]

    @property
    def fill(self) -> tuple[float, ...]:
        """(C,) value of what lies outside: the lowest inside, and never above air."""
        return tuple(min(float(x.min()), a) for x, a in zip(self.array, self.air, strict=True))


def prepare(
    array_CDHW: npt.NDArray[Any], geometry: Geometry, modality: str, contract: Contract
) -> Prepared:
    """Bring a volume (C, D, H, W) or a picture (C, H, W) into the contract.

    Raises:
        ReadError: ``geometry_unknown``, ``nan_voxels`` or ``constant``; of pictures also
            ``spacing_unknown`` or ``channel_mismatch``.
    """
    if geometry.kind == "image":
        return _prepare_picture(array_CDHW, geometry, modality, contract)
    if geometry.affine is None:
        raise ReadError("geometry_unknown", "the file does not say where its voxels lie")
    x_CDHW = _finite(array_CDHW)
    turn = Reorientation.to_ras(geometry.affine)
    affine = turn.affine(geometry.affine, x_CDHW.shape[1:])
    x_CDHW = turn.apply(x_CDHW)
    turned_DHW: tuple[int, int, int] = x_CDHW.shape[1:]
    new_DHW = target_shape(turned_DHW, spacing_of(affine), contract.spacing_mm)
    rule = contract.rule(modality)
    scaled = [normalise(x_DHW, rule, np.asarray(array_CDHW).dtype) for x_DHW in x_CDHW]
    resampled = [resize_linear(x_DHW, new_DHW) for x_DHW, _ in scaled]
    affine = resized_affine(affine, turned_DHW, new_DHW)
    return Prepared(
        array=np.ascontiguousarray(np.stack(resampled)).astype(np.float16),
        affine=affine,
        spacing_mm=spacing_of(affine),
        air=tuple(air for _, air in scaled),
        modality=modality,
        turn=turn,
        turned_DHW=turned_DHW,
    )


def _prepare_picture(
    array_CHW: npt.NDArray[Any], geometry: Geometry, modality: str, contract: Contract
) -> Prepared:
    """As a record of one slice; channels share one rule, so that colours stay colours."""
    x_CHW = as_channels(_finite(array_CHW), contract.picture_channels)
    stored = np.asarray(array_CHW).dtype
    x_CHW, air = normalise(x_CHW, contract.picture_rule(modality, stored), stored)
    old_HW: tuple[int, int] = x_CHW.shape[1:]
    h, w = picture_shape(old_HW, geometry.spacing_mm, contract)
    resized = [resize_linear(x_HW[None], (1, h, w)) for x_HW in x_CHW]
    spacing_mm = geometry.spacing_mm
    if spacing_mm is not None:
        spacing_mm = (spacing_mm[0] * old_HW[0] / h, spacing_mm[1] * old_HW[1] / w)
    return Prepared(
        array=np.ascontiguousarray(np.stack(resized)).astype(np.float16),
        affine=None,
        spacing_mm=spacing_mm,
        air=(air,) * len(x_CHW),
        modality=modality,
        turn=Reorientation((0, 1, 2), (False, False, False)),
        turned_DHW=(1, *old_HW),
    )


def as_channels(x_CHW: FloatArray, channels: int | None) -> FloatArray:
    """Grey to colour by copying, colour to luminance (ITU-R BT.601), or as it is.

    Raises:
        ReadError: ``channel_mismatch`` for any other count.
    """
    if channels in (None, len(x_CHW)):
        return x_CHW
    if (len(x_CHW), channels) == (1, 3):
        return np.repeat(x_CHW, 3, axis=0)
    if (len(x_CHW), channels) == (3, 1):
        return np.tensordot(_LUMINANCE, x_CHW, axes=1)[None]
    what = f"a picture of {len(x_CHW)} channels becomes none of {channels}"
    raise ReadError("channel_mismatch", what)


def picture_shape(
    shape_HW: tuple[int, int], spacing_mm: tuple[float, ...] | None, contract: Contract
) -> tuple[int, int]:
    """Pixels of a prepared picture.

    Raises:
        ReadError: ``spacing_unknown`` if the contract asks for a spacing that the file lacks.
    """
    if contract.size_px is not None:
        scale = contract.size_px / min(shape_HW)
        h, w = (max(round(side * scale), 1) for side in shape_HW)
        return h, w
    if contract.spacing_mm is None:
        return shape_HW
    if spacing_mm is None:
        what = "the picture does not say how large its pixels are"
        raise ReadError("spacing_unknown", what, fix="give size_px instead of spacing_mm")
    _, h, w = target_shape((1, *shape_HW), (1.0, *spacing_mm), (1.0, *contract.spacing_mm[1:]))  # type: ignore[arg-type]
    return h, w


def _finite(array: AnyArray) -> npt.NDArray[np.float32]:
    x = np.asarray(array, dtype=np.float32)
    if not np.isfinite(x).all():
        bad = int(np.size(x) - np.isfinite(x).sum())
        raise ReadError("nan_voxels", f"{bad} voxels are NaN or infinite")
    return x


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
    """Labels on the prepared grid: each class resampled linearly, the largest share wins.

    Labels of a picture are (1, H, W), with the geometry of the picture.
    """
    if geometry.kind == "image":
        h, w = labels_DHW.shape[1:]
        new_HW = picture_shape((h, w), geometry.spacing_mm, contract)
        return resize_labels(labels_DHW.astype(np.uint8), (1, *new_HW))
    if geometry.affine is None:
        raise ReadError("geometry_unknown", "the label file does not say where its voxels lie")
    turn = Reorientation.to_ras(geometry.affine)
    affine = turn.affine(geometry.affine, labels_DHW.shape)
    turned = np.ascontiguousarray(turn.apply(labels_DHW)).astype(np.uint8)
    new_DHW = target_shape(turned.shape, spacing_of(affine), contract.spacing_mm)
    return resize_labels(turned, new_DHW)


def resize_labels(
    labels_DHW: npt.NDArray[np.uint8], new_DHW: tuple[int, int, int]
) -> npt.NDArray[np.uint8]:
    """Each class resampled linearly over the same field of view, the largest share wins."""
    if labels_DHW.shape == new_DHW:
        return labels_DHW
    best = np.zeros(new_DHW, dtype=np.float32)
    out = np.zeros(new_DHW, dtype=np.uint8)
    for value in np.unique(labels_DHW):
        share = resize_linear((labels_DHW == value).astype(np.float32), new_DHW)
        out[share > best] = value
        np.maximum(best, share, out=best)
    return out


def restore_scores(scores_KDHW: FloatArray, prepared: Prepared) -> FloatArray:
    """Class scores on the prepared grid -> class scores on the input grid."""
    each = (resize_linear(x_DHW.astype(np.float32), prepared.turned_DHW) for x_DHW in scores_KDHW)
    return np.stack([np.ascontiguousarray(prepared.turn.undo(x_DHW)) for x_DHW in each])


def restore_labels(scores_KDHW: FloatArray, prepared: Prepared) -> npt.NDArray[np.uint8]:
    """Class scores on the prepared grid -> label map on the input grid, class by class."""
    best = np.full(prepared.turned_DHW, -np.inf, dtype=np.float32)
    out = np.zeros(prepared.turned_DHW, dtype=np.uint8)
    for value, score_DHW in enumerate(scores_KDHW):
        score = resize_linear(score_DHW.astype(np.float32), prepared.turned_DHW)
        out[score > best] = value
        np.maximum(best, score, out=best)
    return np.ascontiguousarray(prepared.turn.undo(out))
