"""Gentle changes of grey values; strengths are in units of the crop's own spread."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medssl.core.viewspec import Intensity


@dataclass(frozen=True)
class IntensityDraw:
    """Numbers of one change; neutral values leave the crop as it is."""

    gamma: float = 1.0
    brightness: float = 0.0
    contrast: float = 1.0
    noise: float = 0.0
    noise_seed: int = 0


def draw_intensity(rng: np.random.Generator, spec: Intensity) -> IntensityDraw:
    """Each kind of change happens with its probability, independently."""
    happens = rng.random(4) < np.array([spec.probability] * 3 + [spec.noise_probability])
    gamma, brightness, contrast, noise = (
        rng.uniform(*spec.gamma),
        rng.uniform(-spec.brightness, spec.brightness),
        rng.uniform(*spec.contrast),
        rng.uniform(0.0, spec.noise),
    )
    return IntensityDraw(
        gamma=gamma if happens[0] else 1.0,
        brightness=brightness if happens[1] else 0.0,
        contrast=contrast if happens[2] else 1.0,
        noise=noise if happens[3] else 0.0,
        noise_seed=int(rng.integers(2**31)),
    )


def apply_intensity(
    x_CDHW: npt.NDArray[np.float32], draw: IntensityDraw
) -> npt.NDArray[np.float32]:
    """Equal draws give equal voxels; the input is not changed."""
    if draw == IntensityDraw(noise_seed=draw.noise_seed):
        return x_CDHW
    low, high = float(x_CDHW.min()), float(x_CDHW.max())
    span = max(high - low, 1e-6)
    mean, std = float(x_CDHW.mean()), float(x_CDHW.std())
    x = x_CDHW
    if draw.gamma != 1.0:
        x = ((x - low) / span) ** np.float32(draw.gamma) * span + low
    x = (x - mean) * draw.contrast + mean + draw.brightness * std
    if draw.noise:
        noise = np.random.default_rng(draw.noise_seed).standard_normal(x.shape, np.float32)
        x = x + noise * (draw.noise * std)
    return np.asarray(x, dtype=np.float32)
