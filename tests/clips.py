"""Clips in memory that count what is decoded of them."""

import numpy as np

from medssl.core.geometry import Geometry
from medssl.core.sample import Sample


class Decoded:
    """A clip whose ``frames`` are made when asked for; ``asked`` lists the numbers of each call."""

    def __init__(self, make, total):
        self.make, self.total, self.asked = make, total, []

    def __call__(self, frames=None):
        numbers = list(range(self.total)) if frames is None else list(frames)
        self.asked.append(numbers)
        return np.stack([self.make(n) for n in numbers], axis=1)


def clip(make, total, *, fps=25.0, times_s=None, modality="ES", spacing_mm=None):
    """A sample of ``total`` frames ``make(number)`` (C, H, W), at a steady rate unless told."""
    first = make(0)
    if times_s is None and fps:
        times_s = tuple(n / fps for n in range(total))
    geometry = Geometry(kind="clip", frame_times_s=times_s, spacing_mm=spacing_mm)
    shape = (len(first), total, *first.shape[1:])
    decoded = Decoded(make, total)
    return Sample(decoded, geometry, shape, itemsize=first.dtype.itemsize, modality=modality)


def of_array(x_CTHW, **how):
    """A sample of these frames."""
    return clip(lambda n: x_CTHW[:, n], x_CTHW.shape[1], **how)


def noise(number, shape=(3, 24, 32), seed=0):
    """A frame of 8 bits that differs from all others a little."""
    base = np.random.default_rng(seed).integers(40, 200, shape)
    own = np.random.default_rng((seed, number)).integers(-6, 7, shape)
    return (base + own).astype(np.uint8)
