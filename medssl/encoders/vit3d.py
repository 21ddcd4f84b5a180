"""Vision transformer for volumes; with a mask it computes visible tokens only (true MAE).

Source: Dosovitskiy et al. 2021; He et al. 2022; registers: Darcet et al. 2024. Positions are fixed
sines and cosines of the token's place along each axis (in mm where ``spacing_mm`` is known), so
that any input size works.
"""

from __future__ import annotations

from medssl.encoders._base import Encoder
from medssl.encoders._tokens import relative_pitch
from medssl.encoders._vit3d import ViT3D, ViTConfig

VARIANTS = ("xs", "s", "b")


class Config(ViTConfig):
    """Options of the volume transformer."""

    token_size: tuple[int, int, int] = (8, 8, 8)
    """Voxels per patch (D, H, W); powers of two. Use e.g. (4, 16, 16) for thick slices."""
    spacing_mm: tuple[float, float, float] | None = None
    """Voxels' spacing (D, H, W), for positions in mm: units of the smallest distance of tokens;
    default: the spacing that the run resamples to, else positions count tokens."""


def build(variant: str, config: Config, in_channels: int) -> Encoder:
    """The encoder of ``vit3d-<variant>``."""
    pitch = relative_pitch(config.token_size, config.spacing_mm)
    return ViT3D(variant, config, in_channels, pitch)
