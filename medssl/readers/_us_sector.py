"""The ultrasound sector, found from the pixels: where the picture moves or speckles.

Banners, depth scales, logos and ECG traces are thin strokes: the share of changing (or bright)
pixels around them stays below a half, within the sector it is above. The same functions serve
DICOM cines and video files; they are pure, deterministic and need no header.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy  # its parts load when they are used

AnyArray = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

SAMPLED_FRAMES = 16
# Grey levels (of 255) that noise of lossy compression stays below.
_CHANGE = 6
_BRIGHT = 6
# Shadows may divide a sector; a region takes at least this share of the image, a word does not.
_MIN_BLOB = 0.01
# A sector takes at least this share of the image; less is a logo or a small overlay.
_MIN_AREA = 0.05
# Share of its own outline that a sector fills; scattered overlays fill less.
_MIN_SOLIDITY = 0.6
# The arc of a curved probe dips by at most this share of the image's height.
_MAX_ARC = 0.12
# Where less than this share of the bright picture changes, the cine hardly moves; so few frames
# do not tell.
_MOVING = 0.4
_FEW = 4
# Levels between colour channels that are colour, not rounding of a colour model.
_COLOUR = 24
_COLOUR_AREA = 0.001


def sampled_frames(n_frames: int) -> list[int]:
    """Frames from which the sector of a clip is found: evenly spread, first and last included."""
    if n_frames <= SAMPLED_FRAMES:
        return list(range(n_frames))
    return [round(k * (n_frames - 1) / (SAMPLED_FRAMES - 1)) for k in range(SAMPLED_FRAMES)]


def sector_mask(clip_CTHW: AnyArray) -> Mask | None:
    """True inside the sector; ``None`` if none stands out.

    Args:
        clip_CTHW: a clip (C, T, H, W), or an image as a clip of one frame. All frames are used:
            pass those of :func:`sampled_frames` of a long clip.
    """
    grey_THW = _grey_levels(clip_CTHW)
    still_HW = grey_THW.mean(axis=0)
    bright = _blobs(np.abs(still_HW - _background(still_HW)) > _BRIGHT)
    moving = _blobs(np.ptp(grey_THW, axis=0) > _CHANGE)
    if not moving.any():
        return _outline(bright)
    hardly = len(grey_THW) < _FEW or moving.sum() < _MOVING * bright.sum()
    if hardly and (moving & bright).any():
        return _outline(moving | bright)
    return _outline(moving)


def mask_outside(clip_CTHW: AnyArray, mask: Mask) -> AnyArray:
    """A copy whose pixels outside the sector are 0 in every frame and channel."""
    return np.where(mask, clip_CTHW, np.zeros((), dtype=clip_CTHW.dtype))


def is_coloured(clip_CTHW: AnyArray, mask: Mask | None = None) -> bool:
    """Whether colour (Doppler, elastography) occurs, in the sector if one is given."""
    if clip_CTHW.shape[0] != 3:
        return False
    scale = 255.0 / _full_scale(clip_CTHW)
    spread = (clip_CTHW.max(axis=0).astype(np.float32) - clip_CTHW.min(axis=0)) * scale
    coloured = (spread > _COLOUR).any(axis=0)
    inside = coloured if mask is None else coloured & mask
    total = inside.size if mask is None else max(int(mask.sum()), 1)
    return bool(inside.sum() > _COLOUR_AREA * total)


def _grey_levels(clip_CTHW: AnyArray) -> npt.NDArray[np.float32]:
    """(T, H, W), 0-255."""
    grey = np.asarray(clip_CTHW.max(axis=0), dtype=np.float32)
    return np.multiply(grey, 255.0 / _full_scale(clip_CTHW), dtype=np.float32)


def _background(still_HW: npt.NDArray[np.float32]) -> float:
    """Level of the screen around the picture: black, or the grey of a panel."""
    edges = (still_HW[0], still_HW[-1], still_HW[:, 0], still_HW[:, -1])
    return float(np.median(np.concatenate(edges)))


def _full_scale(clip: AnyArray) -> float:
    return 255.0 if clip.dtype == np.uint8 else max(float(clip.max()), 1.0)


def _blobs(pixels: Mask) -> Mask:
    """Regions where most pixels of a neighbourhood are set, the large ones, filled."""
    width = 2 * round(0.012 * min(pixels.shape)) + 3
    dense = scipy.ndimage.uniform_filter(pixels.astype(np.float32), width, mode="nearest") > 0.5
    labels, _ = scipy.ndimage.label(dense)
    sizes = np.bincount(labels.ravel())
    large = sizes >= _MIN_BLOB * pixels.size
    large[0] = False
    return np.asarray(scipy.ndimage.binary_fill_holes(large[labels]), dtype=bool)


def _outline(blob: Mask) -> Mask | None:
    """The convex hull, without what lies above the arc of a curved probe."""
    if blob.sum() < _MIN_AREA * blob.size:
        return None
    hull = _convex_hull(blob)
    if hull is None or blob.sum() < _MIN_SOLIDITY * hull.sum():
        return None
    height, n_columns = blob.shape
    first = np.where(blob.any(axis=0), blob.argmax(axis=0), height)
    width = 2 * round(0.02 * n_columns) + 1
    arc = scipy.ndimage.minimum_filter1d(first, width, mode="nearest")
    # Deeper than any arc: a shadow at the edge.
    arc[arc - hull.argmax(axis=0) > _MAX_ARC * height] = 0
    return np.asarray(hull & (np.arange(height)[:, None] >= arc), dtype=bool)


def _convex_hull(blob: Mask) -> Mask | None:
    """Pixels whose centres lie in the convex hull of the blob's."""
    rows, columns = np.nonzero(blob & ~scipy.ndimage.binary_erosion(blob))
    try:
        hull = scipy.spatial.ConvexHull(np.stack([rows, columns], axis=1))
    except scipy.spatial.QhullError:
        return None
    r, c = np.ogrid[: blob.shape[0], : blob.shape[1]]
    inside = np.ones(blob.shape, dtype=bool)
    for normal_r, normal_c, offset in hull.equations:
        inside &= normal_r * r + normal_c * c + offset <= 1e-6
    return inside
