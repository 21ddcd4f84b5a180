"""Pictures of rooms and of tissue under white light, from random numbers; no real scene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from medssl.core.seeding import generator
from medssl.readers._clip_quality import IN_BODY_SCORE, body_scores, thumbnails

# sRGB of what stands in an endoscopy suite: walls, floors, steel, drapes, wood, skin, screens.
_MATERIALS = np.array(
    [
        *((235, 235, 230), (200, 210, 215), (245, 240, 225), (180, 185, 180), (150, 160, 170)),
        *((90, 140, 130), (60, 110, 160), (40, 80, 60), (120, 170, 200), (30, 30, 35)),
        *((160, 110, 70), (224, 172, 145), (141, 95, 70), (200, 60, 50), (250, 220, 60)),
    ],
    float,
)
_WALLS = 5
_SKIN = (11, 12)


def room(rng: np.random.Generator, size: int = 128, skin: float = 0.0) -> npt.NDArray[np.uint8]:
    """(3, H, W): a wall, up to 25 things before it, a light, a camera's colour and noise.

    ``skin`` is the share of the picture that a face before the lens covers.
    """
    x_HWC = np.empty((size, size, 3))
    x_HWC[:] = _MATERIALS[rng.integers(_WALLS)]
    for _ in range(int(rng.integers(6, 26))):
        top, left = rng.integers(0, size, 2)
        height, width = rng.integers(size // 12, size // 2, 2)
        x_HWC[top : top + height, left : left + width] = _MATERIALS[rng.integers(len(_MATERIALS))]
    x_HWC[:, : round(skin * size)] = _MATERIALS[rng.choice(_SKIN)]
    light = _light(rng, size, 0.35, 1.1)
    white = rng.normal(1, 0.05, 3)
    return _camera(rng, x_HWC * light[..., None] * white)


def tissue(rng: np.random.Generator, size: int = 128) -> npt.NDArray[np.uint8]:
    """(3, H, W): pink to red mucosa with vessels and glare in the round field of an endoscope."""
    base = np.array([rng.uniform(170, 230), rng.uniform(80, 125), rng.uniform(55, 105)])
    base[2] = min(base[2], base[1])
    folds = ndimage.gaussian_filter(rng.normal(size=(size, size)), size / 16)
    vessels = ndimage.gaussian_filter(rng.normal(size=(size, size)), 1.5)
    x_HWC = base * (1 + 0.25 * folds / folds.std())[..., None]
    x_HWC[vessels > 2 * vessels.std()] *= [0.8, 0.5, 0.5]
    x_HWC *= _light(rng, size, 0.3, 1.2)[..., None]
    glare = ndimage.gaussian_filter(rng.normal(size=(size, size)), 2)
    x_HWC[glare > 2.6 * glare.std()] = 250
    rows, columns = np.mgrid[:size, :size] - size / 2
    x_HWC[rows**2 + columns**2 > (0.48 * size) ** 2] = 3
    return _camera(rng, x_HWC)


def _light(
    rng: np.random.Generator, size: int, dim: float, bright: float
) -> npt.NDArray[np.float64]:
    """A lamp somewhere in the picture."""
    rows, columns = np.mgrid[:size, :size] / size
    centre = rng.uniform(0.2, 0.8, 2)
    distance = np.hypot(rows - centre[0], columns - centre[1])
    return np.asarray(dim + (bright - dim) * np.exp(-((distance / 0.6) ** 2)))


def _camera(rng: np.random.Generator, x_HWC: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    noisy = x_HWC + rng.normal(0, 4, x_HWC.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8).transpose(2, 0, 1)


def body_rows(real: Path, n: int = 500) -> list[list[object]]:
    """How made and real pictures are scored: name, n, percentiles, share in the body."""
    files = sorted(real.glob("*"))
    sets: dict[str, list[npt.NDArray[Any]]] = {
        "real endoscopy (polyps)": [_picture(f) for f in files],
        "made tissue": [tissue(generator(i, "tissue")) for i in range(n)],
        "made rooms": [room(generator(i, "room")) for i in range(n)],
    }
    for skin in (0.5, 0.7, 0.9):
        pictures = [room(generator(i, f"skin{skin}"), skin=skin) for i in range(n)]
        sets[f"made rooms, a face over {skin:.0%} of the picture"] = pictures
    rows: list[list[object]] = []
    for name, pictures in sets.items():
        if not pictures:
            continue
        scores = np.concatenate([body_scores(thumbnails(x[:, None])) for x in pictures])
        percentiles = [f"{q:.2f}" for q in np.nanquantile(scores, [0.01, 0.5, 0.99])]
        inside = f"{float((scores >= IN_BODY_SCORE).mean()):.1%}"
        rows.append([name, len(scores), *percentiles, inside])
    return rows


def _picture(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
