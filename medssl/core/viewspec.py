"""How an objective or head asks for its views: as data, so that a stage can build them."""

from __future__ import annotations

from medssl.core.config import Config


class ViewSpec(Config):
    """Views of one volume.

    A sample holds ``x`` (C, *crop) float32, ``tissue`` (C, *crop) bool (False = air or padding),
    with ``mask_ratio`` also ``mask`` (N,) bool, True = hidden.
    """

    crop: tuple[int, int, int]
    """Voxels (D, H, W)."""
    token_size: tuple[int, int, int] | None = None
    """Voxels per mask token; needed with ``mask_ratio``."""
    mask_ratio: float | None = None
    min_tissue: float = 0.0
    """Smallest wanted share of tissue in a crop; the fullest of a few draws is taken."""
    flip: bool = False
    """Mirror axes at random. Off: left and right, and the heart's apex, carry meaning."""
    rotate_deg: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    spatial_probability: float = 0.0
    gamma: tuple[float, float] = (1.0, 1.0)
    brightness: float = 0.0
    """Largest shift, in units of the crop's standard deviation."""
    contrast: tuple[float, float] = (1.0, 1.0)
    noise: float = 0.0
    """Largest standard deviation of added noise, in units of the crop's."""
    intensity_probability: float = 0.0
    foreground: float = 0.0
    """Share of labelled crops centred on a random foreground voxel."""
