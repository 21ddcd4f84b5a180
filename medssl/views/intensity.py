"""Gentle changes of grey values and colours; strengths are in units of the crop's own spread.

Order: bias field, blur, low resolution, window, gamma, contrast and brightness, colour, noise.
All frames of a clip change by the same numbers, and noise has the same pattern in each.
What makes no sense for a record is not applied to it: the bias field is for MR, the window for
CT, hue and saturation are for colour pictures (:mod:`medssl.views.guard`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from medssl.core.preprocess import resize_linear
from medssl.core.viewspec import Intensity
from medssl.views import pictures
from medssl.views.guard import Levels
from medssl.views.resample import smoothed
from medssl.views.smooth import control_shape, smooth_field

Crop = npt.NDArray[np.float32]


@dataclass(frozen=True)
class IntensityDraw:
    """Numbers of one change; neutral values leave the crop as it is.

    Attributes:
        brightness, noise: in standard deviations of the crop.
        bias_field: relative strength; its form comes from ``seed``, as the noise does.
        blur: standard deviation in voxels.
        low_resolution: factor.
        window_hu: shifts of the lower and upper end.
        hue: turn of the colour circle, 1 is once around.
    """

    gamma: float = 1.0
    brightness: float = 0.0
    contrast: float = 1.0
    bias_field: float = 0.0
    window_hu: tuple[float, float] = (0.0, 0.0)
    hue: float = 0.0
    saturation: float = 1.0
    noise: float = 0.0
    blur: float = 0.0
    low_resolution: float = 1.0
    seed: int = 0

    @property
    def neutral(self) -> bool:
        return self == IntensityDraw(seed=self.seed)


def draw_intensity(rng: np.random.Generator, spec: Intensity) -> IntensityDraw:
    """Each kind of change happens with its probability, independently."""
    shift = spec.window_jitter_hu
    often = {
        "gamma": rng.uniform(*spec.gamma),
        "brightness": rng.uniform(-spec.brightness, spec.brightness),
        "contrast": rng.uniform(*spec.contrast),
        "bias_field": rng.uniform(0.0, spec.bias_field),
        "window_hu": (rng.uniform(-shift, shift), rng.uniform(-shift, shift)),
        "hue": rng.uniform(-spec.hue, spec.hue),
        "saturation": rng.uniform(*spec.saturation),
    }
    rarely = {
        "noise": rng.uniform(0.0, spec.noise),
        "blur": rng.uniform(*spec.blur),
        "low_resolution": rng.uniform(*spec.low_resolution),
    }
    happens = {name: rng.random() < spec.probability for name in often}
    happens |= {name: rng.random() < spec.noise_probability for name in rarely}
    chosen = {name: value for name, value in (often | rarely).items() if happens[name]}
    return IntensityDraw(seed=int(rng.integers(2**31)), **chosen)  # type: ignore[arg-type]


def apply_intensity(x_CDHW: Crop, draw: IntensityDraw, levels: Levels) -> Crop:
    """Equal draws give equal voxels; the input is not changed."""
    draw = sensible(draw, levels)
    if draw.neutral:
        return x_CDHW
    x = x_CDHW
    if draw.bias_field:
        x = _bias_field(x, draw, levels)
    if draw.blur:
        x = smoothed(x, np.where(_in_space(x, levels), draw.blur, 0.0))
    if draw.low_resolution != 1.0:
        x = _low_resolution(x, np.where(_in_space(x, levels), draw.low_resolution, 1.0))
    if draw.window_hu != (0.0, 0.0):
        x = _window(x, draw.window_hu, levels)
    x = _curve(x, draw, levels)
    if draw.hue or draw.saturation != 1.0:
        rows = x.reshape(len(x), -1, x.shape[-1])  # of all frames: each pixel changes by itself
        x = pictures.colour(rows, draw.hue, draw.saturation, draw.seed).reshape(x.shape)
    if draw.noise:
        shape = (len(x), 1, *x.shape[2:]) if levels.picture else x.shape
        noise = np.random.default_rng(draw.seed).standard_normal(shape, np.float32)
        x = x + noise * (draw.noise * _spread(x, levels)[1])
    return np.asarray(x, dtype=np.float32)


def sensible(draw: IntensityDraw, levels: Levels) -> IntensityDraw:
    """The draw without the changes that make no sense for the record."""
    if not levels.receive_field:
        draw = replace(draw, bias_field=0.0)
    if levels.window_hu is None:
        draw = replace(draw, window_hu=(0.0, 0.0))
    if not levels.colour:
        draw = replace(draw, hue=0.0, saturation=1.0)
    return draw


def _bias_field(x: Crop, draw: IntensityDraw, levels: Levels) -> Crop:
    """Signal times 1 + a smooth field of at most the strength; no signal stays no signal."""
    control = np.random.default_rng((draw.seed, 1)).uniform(-1, 1, control_shape(x.shape[1:]))
    field = 1 + smooth_field(draw.bias_field * control[None], x.shape[1:])
    zero = np.array(levels.zero, dtype=np.float32)[:, None, None, None]
    return (x - zero) * field + zero


def _low_resolution(x: Crop, factor: npt.NDArray[np.float64]) -> Crop:
    if x.shape[1] == 1:
        return pictures.low_resolution(x[:, 0], float(factor[1]))[:, None]
    d, h, w = x.shape[1:]
    small = np.maximum(np.rint(np.array(x.shape[1:]) / factor), 1).astype(int)
    less = (int(small[0]), int(small[1]), int(small[2]))
    return np.stack([resize_linear(resize_linear(one, less), (d, h, w)) for one in x])


def _in_space(x: Crop, levels: Levels) -> npt.NDArray[np.bool_]:
    """Which axes of a crop may be smoothed: not one of a single voxel, nor time."""
    axes = np.array(x.shape[1:]) > 1
    axes[0] &= not levels.picture
    return axes


def _window(x: Crop, shifts_hu: tuple[float, float], levels: Levels) -> Crop:
    """Stored values as if the window had been [low + shift, high + shift] HU.

    A wider window shows nothing beyond the stored one: that was clipped when it was stored.
    """
    assert levels.window_hu is not None  # ``sensible`` took care
    low_hu, high_hu = levels.window_hu
    low, high = (shift / (high_hu - low_hu) for shift in shifts_hu)
    return np.asarray(np.clip((x - np.float32(low)) / np.float32(1 + high - low), 0.0, 1.0))


def _curve(x: Crop, draw: IntensityDraw, levels: Levels) -> Crop:
    """Gamma over the crop's range, then contrast and brightness about its mean."""
    if draw.gamma != 1.0:
        axes = _together(levels)
        low, high = x.min(axes, keepdims=True), x.max(axes, keepdims=True)
        span = np.maximum(high - low, np.float32(1e-6))
        x = ((x - low) / span) ** np.float32(draw.gamma) * span + low
    if draw.contrast != 1.0 or draw.brightness:
        mean, std = _spread(x, levels)
        x = (x - mean) * np.float32(draw.contrast) + mean + np.float32(draw.brightness) * std
    return x


def _spread(x: Crop, levels: Levels) -> tuple[Crop, Crop]:
    axes = _together(levels)
    return x.mean(axes, keepdims=True), x.std(axes, keepdims=True)


def _together(levels: Levels) -> tuple[int, ...]:
    """Channels of a picture change together, others (MR sequences) each by its own spread."""
    return (0, 1, 2, 3) if levels.picture else (1, 2, 3)
