"""Intensity rules: how raw values of a modality become network input."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from medssl.core.config import Config
from medssl.core.errors import ReadError
from medssl.core.geometry import AnyArray, FloatArray
from medssl.core.sample import UNKNOWN


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

# Key of the rule for 8-bit pictures of unknown modality.
PICTURE = "picture"
RULES = {
    "CT": CT_RULE,
    "MR": MR_RULE,
    UNKNOWN: MR_RULE,
    **dict.fromkeys(("CR", "DX", "MG", "IO", "PX", "XA", "RF"), PROJECTION_RULE),
    **dict.fromkeys(("PT", "NM"), EMISSION_RULE),
    **dict.fromkeys(("US", "IVUS"), ULTRASOUND_RULE),
    **dict.fromkeys(("ES", "GM", "OP", "XC", PICTURE), PICTURE_RULE),
}


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


def clip_levels(
    x: AnyArray, rule: IntensityRule, stored: np.dtype[Any]
) -> tuple[float, float, float]:
    """Raw values that are clipped at, and the raw level of air, of all frames of a clip.

    Raises:
        ReadError: ``constant``.
    """
    if rule.kind != "percentile":
        return _levels(x, rule, stored)
    low, high = (float(level) for level in np.percentile(x, [rule.low, rule.high]))
    return low, high, low + rule.air * (high - low)


def _levels(x: AnyArray, rule: IntensityRule, stored: np.dtype[Any]) -> tuple[float, float, float]:
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


def _refuse_constant(x_DHW: AnyArray) -> None:
    if x_DHW.max() - x_DHW.min() <= 0:
        raise ReadError("constant", "all voxels have one value after the intensity rule")
