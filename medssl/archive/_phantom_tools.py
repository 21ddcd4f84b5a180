"""What a phantom operation looks like: tissue, light, and instruments drawn as strokes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

TOOLS = ("Grasper", "Bipolar", "Hook", "Scissors", "Clipper", "Irrigator", "SpecimenBag")
# Tissue around the picture, for a camera that shakes.
_MARGIN = 12

Array = npt.NDArray[np.float32]
Point = npt.NDArray[np.float64]

# Strokes of each tool's end, from the tip on: (along the shaft, across it) in pixels, and width.
_ENDS: dict[str, tuple[tuple[tuple[float, float], tuple[float, float], float], ...]] = {
    "Grasper": (((0, -5), (9, 0), 1.5), ((0, 5), (9, 0), 1.5)),
    "Bipolar": (((0, -2), (14, -2), 1.2), ((0, 2), (14, 2), 1.2)),
    "Hook": (((0, 0), (12, 0), 1.2), ((0, 0), (3, 6), 1.2)),
    "Scissors": (((0, -6), (14, 4), 1.0), ((0, 6), (14, -4), 1.0)),
    "Clipper": (((0, -6), (0, 6), 2.5), ((0, 0), (8, 0), 2.0)),
    "Irrigator": (((2, 0), (16, 0), 4.0),),
}
_COLOURS = {
    "Grasper": (150, 150, 155),
    "Bipolar": (90, 110, 190),
    "Hook": (170, 160, 130),
    "Scissors": (185, 185, 190),
    "Clipper": (120, 165, 130),
    "Irrigator": (205, 205, 210),
}
_SHAFT = (95, 95, 100)
_BAG = (225, 225, 215)


class Tissue(NamedTuple):
    """Range of each colour, and how near the camera is."""

    red: tuple[float, float] = (140, 200)
    green: tuple[float, float] = (50, 95)
    blue: tuple[float, float] = (45, 85)
    zoom: tuple[float, float] = (0.85, 1.25)


RED = Tissue()
PALE = Tissue((165, 210), (120, 160), (75, 115), (1.25, 1.6))


@dataclass(frozen=True, eq=False)
class Look:
    """What one video looks like.

    Attributes:
        ground: tissue, larger than the picture, (H, W, 3).
        light: share of it that each pixel gets.
        tint: factor on the colours of the instruments.
        zoom: of the instruments.
    """

    ground: Array
    light: Array
    tint: Array
    zoom: float

    def tissue(self, shake_hw_px: Point) -> Array:
        """The picture without instruments, the camera moved a little."""
        h, w = self.light.shape
        top, left = (int(np.clip(_MARGIN + s, 0, 2 * _MARGIN)) for s in np.rint(shake_hw_px))
        return self.ground[top : top + h, left : left + w].copy()


def draw_look(rng: np.random.Generator, shape_HW: tuple[int, int], tissue: Tissue = RED) -> Look:
    """Of a video."""
    h, w = shape_HW
    size = (h + 2 * _MARGIN, w + 2 * _MARGIN)
    texture = sum(
        ndimage.gaussian_filter(rng.normal(size=size), grain) * grain for grain in (1.5, 4, 12)
    )
    base = np.array([rng.uniform(*colour) for colour in tissue[:3]])
    ground = base * (1 + 0.25 * np.asarray(texture)[..., None])
    rows, columns = np.indices(shape_HW)
    middle = np.array(shape_HW) / 2 + rng.uniform(-8, 8, 2)
    far = np.hypot(rows - middle[0], columns - middle[1]) / (0.75 * w)
    light = rng.uniform(0.75, 1.15) * np.clip(1.15 - far**2, 0.15, 1)
    return Look(
        ground=ground.astype(np.float32),
        light=light.astype(np.float32),
        tint=rng.uniform(0.85, 1.15, 3).astype(np.float32),
        zoom=float(rng.uniform(*tissue.zoom)),
    )


def paint(picture: Array, look: Look, tool: str, tip: Point) -> None:
    """Draw an instrument that comes in from the lower edge, its end at the tip."""
    h, w = look.light.shape
    foot = np.array([1.3 * h, w / 2 + 1.6 * (tip[1] - w / 2)])
    along = (foot - tip) / np.linalg.norm(foot - tip)
    across = np.array([-along[1], along[0]])
    _stroke(picture, tip + 9 * look.zoom * along, foot, 3.5 * look.zoom, look.tint * _SHAFT)
    colour = look.tint * np.array(_COLOURS[tool], np.float32)
    for start, end, width in _ENDS[tool]:
        places = [tip + look.zoom * (a * along + b * across) for a, b in (start, end)]
        _stroke(picture, places[0], places[1], width * look.zoom, colour)


def paint_bag(picture: Array, look: Look, tip: Point) -> None:
    """A bag through which tissue is seen a little."""
    rows, columns = np.indices(look.light.shape)
    radius = 16 * look.zoom
    inside = np.hypot((rows - tip[0]) / 0.8, columns - tip[1]) < radius
    picture[inside] = 0.3 * picture[inside] + 0.7 * look.tint * np.array(_BAG, np.float32)


def _stroke(picture: Array, start: Point, end: Point, width: float, colour: Array) -> None:
    """A line with soft edges."""
    h, w, _ = picture.shape
    low = np.clip(np.floor(np.minimum(start, end) - width - 1), 0, (h, w)).astype(int)
    high = np.clip(np.ceil(np.maximum(start, end) + width + 2), 0, (h, w)).astype(int)
    if (high <= low).any():
        return
    rows, columns = np.mgrid[low[0] : high[0], low[1] : high[1]].astype(np.float32)
    step = end - start
    t = ((rows - start[0]) * step[0] + (columns - start[1]) * step[1]) / max(step @ step, 1e-6)
    t = np.clip(t, 0, 1)
    far = np.hypot(rows - start[0] - t * step[0], columns - start[1] - t * step[1])
    share = np.clip(width + 0.5 - far, 0, 1)[..., None].astype(np.float32)
    part = picture[low[0] : high[0], low[1] : high[1]]
    part += share * (colour.astype(np.float32) - part)
