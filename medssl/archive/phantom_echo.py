"""Hearts that beat, seen by ultrasound: what is hidden is how much of its blood a heart ejects.

The left ventricle is an ellipsoid whose volume falls and rises with the beat; its ejection fraction
is drawn by itself. Everything that one sees at a glance is drawn independently of it: gain, dynamic
range, speckle, size, depth, place, tilt, heart rate, phase of the beat, frame rate, text. The
atrium fills as the ventricle empties and the wall keeps its area, so that brightness does not beat:
only motion tells. Speckle moves with the tissue.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage

from medssl.archive._phantom_video import write_video
from medssl.core.seeding import generator

SHAPE_HW = (128, 144)
SECONDS = 2.5
# The sector: its tip in pixels, its radii, half its angle.
_TIP_HW, _RADII_PX, _HALF_DEG = (10.0, 72.0), (8.0, 112.0), 42.0
# Semi-axes of the ventricle in pixels at the end of diastole (long, short), and of its wall.
_LONG_PX, _SHORT_PX, _WALL_PX = 26.0, 15.0, 6.0
# The long axis shortens by this power of the short axis' factor: V = L * S^2.
_LONG_POWER = 0.5
_SYSTOLE = 0.38
# Echo of blood, wall and what is around, as amplitudes.
_BLOOD, _WALL, _AROUND = 0.02, 0.6, 0.12
# Echo that is shown white, in decibels below that of amplitude 1.
_WHITE_DB = -8.0
_EDGE_PX = 1.0

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Heart:
    """One heart, and how it is seen; no value depends on another.

    Attributes:
        ejection_fraction: share of the end-diastolic volume.
        phase: share of the beat that has passed at the first frame.
    """

    ejection_fraction: float
    rate_bpm: float
    phase: float
    size: float
    depth: float
    tilt_deg: float
    shift_h_px: float
    shift_w_px: float
    gain_db: float
    range_db: float
    speckle_px: float
    wall_echo: float
    fps: float


def draw_heart(rng: np.random.Generator) -> Heart:
    """Each factor by itself."""
    return Heart(
        ejection_fraction=rng.uniform(0.15, 0.75),
        rate_bpm=rng.uniform(55, 100),
        phase=rng.uniform(0, 1),
        size=rng.uniform(0.8, 1.15),
        depth=rng.uniform(0.9, 1.1),
        tilt_deg=rng.uniform(-15, 15),
        shift_h_px=rng.uniform(-4, 4),
        shift_w_px=rng.uniform(-5, 5),
        gain_db=rng.uniform(-8, 8),
        range_db=rng.uniform(45, 65),
        speckle_px=rng.uniform(0.7, 1.4),
        wall_echo=rng.uniform(0.6, 1.4),
        fps=float(rng.choice([24, 30, 40, 50])),
    )


def volume_share(heart: Heart, time_s: float) -> float:
    """Volume of the ventricle as a share of its largest: systole falls, diastole refills.

    >>> heart = draw_heart(np.random.default_rng(0))
    >>> times = np.linspace(0, 120 / heart.rate_bpm, 2000)
    >>> least = min(volume_share(heart, t) for t in times)
    >>> abs(1 - least - heart.ejection_fraction) < 1e-4
    True
    """
    beat = (heart.phase + time_s * heart.rate_bpm / 60) % 1.0
    if beat < _SYSTOLE:
        emptied = 0.5 - 0.5 * np.cos(np.pi * beat / _SYSTOLE)
    else:
        emptied = 0.5 + 0.5 * np.cos(np.pi * (beat - _SYSTOLE) / (1 - _SYSTOLE))
    return float(1 - heart.ejection_fraction * emptied)


def frames_of(heart: Heart, rng: np.random.Generator, seconds: float = SECONDS) -> Iterator[Array]:
    """Grey frames (H, W) in 0-255, before the text is put in."""
    speckle = _speckle(rng, heart.speckle_px)
    sector = _sector()
    gain = _gain(rng)
    for number in range(round(seconds * heart.fps)):
        short = volume_share(heart, number / heart.fps) ** (1 / (2 + _LONG_POWER))
        echo, back_2HW = _tissue(heart, short)
        texture = ndimage.map_coordinates(speckle, back_2HW, order=1, mode="wrap")
        amplitude = echo * texture * gain + 0.004 * np.abs(rng.normal(size=SHAPE_HW))
        level_db = 20 * np.log10(np.maximum(amplitude, 1e-6)) + heart.gain_db + _WHITE_DB
        grey = 255 * np.clip(1 + level_db / heart.range_db, 0, 1)
        yield np.where(sector, np.maximum(grey, 1), 0).astype(np.float32)


def cavity(heart: Heart, time_s: float) -> npt.NDArray[np.bool_]:
    """Pixels of the ventricle's blood."""
    short = volume_share(heart, time_s) ** (1 / (2 + _LONG_POWER))
    along, across = _axes(heart)
    long_px, short_px = _semi_axes(heart, short)
    return np.asarray((along / long_px) ** 2 + (across / short_px) ** 2 < 1)


def write_hearts(out: Path, *, hearts: int = 200, seed: int = 0) -> Path:
    """Write ``out/videos`` and the truth, ``out/hearts.csv``: a line per video with every factor.

    The same arguments give the same files.
    """
    rows = []
    for number in range(hearts):
        rng = generator(seed, "heart", number)
        heart = draw_heart(rng)
        name = f"heart{number:04d}.mp4"
        frames = (_with_text(grey, heart, number) for grey in frames_of(heart, rng))
        write_video(out / "videos" / name, frames, heart.fps)
        rows.append({"video": name, **{k: f"{v:.6g}" for k, v in asdict(heart).items()}})
    table = out / "hearts.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return table


def _tissue(heart: Heart, short: float) -> tuple[Array, Array]:
    """Echo amplitude of each pixel, and where its speckle comes from at the end of diastole."""
    along, across = _axes(heart)
    long_px, short_px = _semi_axes(heart, short)
    radius = np.sqrt((along / long_px) ** 2 + (across / short_px) ** 2)
    distance_px = (radius - 1) * np.sqrt(long_px * short_px)
    echo = np.full(SHAPE_HW, _AROUND, np.float32)
    wall_px = _wall_px(heart, long_px, short_px)
    echo += (heart.wall_echo * _WALL - echo) * _inside(distance_px - wall_px)
    echo += (_BLOOD - echo) * _inside(distance_px)
    echo += (_BLOOD - echo) * _inside(_atrium(heart, along, across, long_px, short_px))
    # Tissue near the cavity moves with its edge, far from it stays.
    near = np.exp(-np.maximum(distance_px, 0) / (2 * _WALL_PX))
    full_long, full_short = _semi_axes(heart, 1.0)
    tilt = np.deg2rad(heart.tilt_deg)
    back_along = along * near * (full_long / long_px - 1)
    back_across = across * near * (full_short / short_px - 1)
    rows, columns = np.indices(SHAPE_HW, dtype=np.float32)
    rows = rows + back_along * np.cos(tilt) - back_across * np.sin(tilt)
    columns = columns + back_along * np.sin(tilt) + back_across * np.cos(tilt)
    return echo, np.stack([rows, columns]).astype(np.float32)


def _atrium(heart: Heart, along: Array, across: Array, long_px: float, short_px: float) -> Array:
    """Distance from the edge of a round atrium below the ventricle, which keeps blood's area."""
    full_long, full_short = _semi_axes(heart, 1.0)
    least_px = 0.55 * full_short
    radius_px = float(np.sqrt(least_px**2 + full_long * full_short - long_px * short_px))
    middle = full_long + _WALL_PX * heart.size + 0.9 * full_short
    return np.asarray(np.hypot(along - middle, across) - radius_px, dtype=np.float32)


def _wall_px(heart: Heart, long_px: float, short_px: float) -> float:
    """Thickness at which the wall has the area that it has at the end of diastole."""
    full_long, full_short = _semi_axes(heart, 1.0)
    rest_px = _WALL_PX * heart.size
    # Around an ellipse of mean radius r, the ring of thickness w has about the area w (2 r + w).
    area = rest_px * (2 * np.sqrt(full_long * full_short) + rest_px)
    mean_px = np.sqrt(long_px * short_px)
    return float(np.sqrt(mean_px**2 + area) - mean_px)


def _semi_axes(heart: Heart, short: float) -> tuple[float, float]:
    scale = heart.size / heart.depth
    return _LONG_PX * scale * short**_LONG_POWER, _SHORT_PX * scale * short


def _axes(heart: Heart) -> tuple[Array, Array]:
    """Pixels along the ventricle's axis (away from its apex) and across, from its centre."""
    rows, columns = np.indices(SHAPE_HW, dtype=np.float32)
    h = rows - (48 + heart.shift_h_px)
    w = columns - (SHAPE_HW[1] / 2 + heart.shift_w_px)
    tilt = np.deg2rad(heart.tilt_deg)
    along = h * np.cos(tilt) + w * np.sin(tilt)
    return along.astype(np.float32), (w * np.cos(tilt) - h * np.sin(tilt)).astype(np.float32)


def _inside(distance_px: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """1 inside, 0 outside, soft over a pixel or so."""
    return np.asarray(1 / (1 + np.exp(np.clip(distance_px / (0.5 * _EDGE_PX), -30, 30))))


def _speckle(rng: np.random.Generator, grain_px: float) -> Array:
    """Rayleigh distributed, of mean square 1: the sum of many echoes of random phase."""
    waves = rng.normal(size=(2, *SHAPE_HW))
    smooth = ndimage.gaussian_filter(waves, (0, 0.6 * grain_px, grain_px), mode="wrap")
    power = (smooth**2).sum(0)
    return np.asarray(np.sqrt(power / power.mean()), dtype=np.float32)


def _gain(rng: np.random.Generator) -> Array:
    """How each depth is amplified: a smooth curve of a few decibels."""
    knots_db = rng.uniform(-3, 3, 5)
    depth = np.linspace(0, 4, SHAPE_HW[0])
    return (10 ** (np.interp(depth, np.arange(5), knots_db) / 20)).astype(np.float32)[:, None]


def _sector() -> npt.NDArray[np.bool_]:
    rows, columns = np.indices(SHAPE_HW)
    h, w = rows - _TIP_HW[0], columns - _TIP_HW[1]
    radius = np.hypot(h, w)
    inside = (radius > _RADII_PX[0]) & (radius < _RADII_PX[1])
    return np.asarray(inside & (np.abs(np.rad2deg(np.arctan2(w, h))) < _HALF_DEG))


def _with_text(grey: Array, heart: Heart, number: int) -> npt.NDArray[np.uint8]:
    """As colour, with a banner (a number, rate and gain) and a depth scale."""
    picture = Image.fromarray(np.rint(grey).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    draw.text((2, 1), f"#{number:04d}", fill=220)
    draw.text((88, 1), f"{heart.rate_bpm:.0f} bpm", fill=220)
    draw.text((2, 114), f"{heart.gain_db:+.0f} dB", fill=200)
    for tick in range(0, SHAPE_HW[0], round(12 * heart.depth)):
        draw.line([(139, tick), (143, tick)], fill=160)
    return np.repeat(np.asarray(picture)[..., None], 3, axis=2)
