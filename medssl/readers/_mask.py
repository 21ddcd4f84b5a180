"""Label masks stored as pictures: PNG, TIFF, and JPEG under a rule of its own.

Values are labels as they are stored; a palette's entry is its number, its colour only for show.
Three equal channels are one. JPEG does not keep whole numbers: a mask of two levels, black and
white, is cut at half of 255 and flagged :data:`THRESHOLDED`; any other JPEG is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError
from medssl.readers._label_grid import whole_values
from medssl.readers.image import SUFFIXES, opened

THRESHOLDED = "mask_thresholded"
"""Flag of masks with two levels that a lossy coding had smeared."""
# Levels this near to 0 or 255 are black or white.
_NEAR = 48
# Least share of black and white pixels in a mask of two levels, edges of small objects apart.
_TWO_LEVELS = 0.97
_LOSSLESS_LEVELS = 16
_HALF = 127


def is_picture(path: Path) -> bool:
    """Whether a file is a picture by its name."""
    return path.suffix.lower() in SUFFIXES


def read_mask(path: Path) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    """Labels (H, W) of a mask, and remarks on them.

    Raises:
        ReadError: ``colour_label``, ``soft_label``, ``non_integer_labels``,
            ``unknown_label_values``, or the picture's own reason.
    """
    where = str(path)
    with opened(path) as picture:
        lossy = picture.format in {"JPEG", "MPO"}
        values = _one_channel(np.asarray(picture), where)
    if lossy:
        if _extreme_share(values) < _TWO_LEVELS:
            what = "a JPEG mask has more levels than black and white, and JPEG does not keep them"
            raise ReadError("soft_label", what, where=where, fix="export the masks as PNG")
        return np.where(values > _HALF, 255, 0).astype(np.uint8), (THRESHOLDED,)
    whole_values(values, where)
    levels = len(np.unique(values))
    if levels > _LOSSLESS_LEVELS and _extreme_share(values) >= _TWO_LEVELS:
        what = f"the mask is black and white with soft edges ({levels} levels)"
        fix = "resize masks by nearest neighbour, or cut them at a threshold"
        raise ReadError("soft_label", what, where=where, fix=fix)
    return values.astype(np.uint8), ()


def _one_channel(pixels: npt.NDArray[Any], where: str) -> npt.NDArray[Any]:
    if pixels.ndim == 2:
        return pixels
    colours = pixels[..., : 3 if pixels.shape[-1] > 2 else 1]  # what is left is alpha
    if (colours != colours[..., :1]).any():
        what = "the mask holds colours, and colours are no label numbers"
        fix = "save it as grey or palette PNG with the values 0, 1, 2 ..."
        raise ReadError("colour_label", what, where=where, fix=fix)
    return np.asarray(colours[..., 0])


def _extreme_share(values: npt.NDArray[Any]) -> float:
    """Share of pixels that are nearly black or nearly white."""
    return float(((values <= _NEAR) | (values >= 255 - _NEAR)).mean())
