"""Synthetic torsos: ellipsoid organs in one layout, varied per patient, and what scanners see.

Everything is a function of world position (RAS+ mm), so any grid can be laid over a patient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medssl.core.geometry import to_array_order

Array = npt.NDArray[np.float32]
Rng = np.random.Generator
LABELS = {0: "background", 1: "liver", 2: "kidney", 3: "spleen"}


class Organ(NamedTuple):
    """An ellipsoid: centre and radii in mm, CT value in HU, MR signal relative to fat = 1."""

    name: str
    centre_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]
    hu: float
    signal: float


# Later organs lie on top of earlier ones. Right is +x, front +y, head +z. Liver, spleen, kidney
# and muscle have neighbouring values on purpose: a threshold does not tell them apart.
_LAYOUT = (
    Organ("fat", (0, 0, 0), (142, 100, 400), -100, 1.00),
    Organ("muscle", (0, 0, 0), (128, 87, 400), 48, 0.42),
    Organ("right lung", (62, 5, 62), (42, 58, 72), -820, 0.04),
    Organ("left lung", (-62, 5, 62), (42, 58, 72), -820, 0.04),
    Organ("heart", (-14, 22, 30), (38, 36, 40), 42, 0.34),
    Organ("liver", (52, 10, -42), (60, 58, 44), 60, 0.62),
    Organ("spleen", (-80, -22, -40), (24, 34, 38), 52, 0.54),
    Organ("right kidney", (50, -44, -76), (19, 18, 32), 38, 0.57),
    Organ("left kidney", (-50, -44, -70), (19, 18, 32), 38, 0.57),
    Organ("spine", (0, -62, 0), (20, 18, 400), 320, 0.74),
    Organ("cord", (0, -70, 0), (7, 7, 400), 35, 0.30),
)
_LABEL_OF = {"liver": 1, "right kidney": 2, "left kidney": 2, "spleen": 3}
_AIR_HU = -1000.0
_TABLE_Y_MM = (-124.0, -118.0)
_TABLE_HU = -250.0
_CT_NOISE_HU = 18.0
_MR_NOISE = 0.035
_BIAS = 0.3
# Width of the soft edge of an organ, as a fraction of its radius: partial volume.
_EDGE = 0.06


@dataclass(frozen=True)
class Patient:
    """Organs of one patient and the pose of the whole body on the table."""

    organs: tuple[Organ, ...]
    rotation: npt.NDArray[np.float64]
    shift_mm: npt.NDArray[np.float64]


def draw_patient(rng: Rng) -> Patient:
    """A patient: body size, organ sizes and places, and a pose up to 8 degrees and 10 mm off."""
    size = rng.uniform(0.88, 1.08, 3)
    organs = []
    for organ in _LAYOUT:
        outer = organ.name in {"fat", "muscle"}
        jitter_mm = np.zeros(3) if outer else rng.normal(0, 4, 3)
        growth = np.ones(3) if outer else rng.uniform(0.85, 1.15, 3)
        centre = tuple(np.array(organ.centre_mm) * size + jitter_mm)
        radii = tuple(np.array(organ.radii_mm) * size * growth)
        organs.append(organ._replace(centre_mm=centre, radii_mm=radii))
    return Patient(tuple(organs), rotation(rng.uniform(-8, 8, 3)), rng.uniform(-10, 10, 3))


def rotation(angles_deg: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Rotation matrix about x, then y, then z."""
    out = np.eye(3)
    for axis, angle in enumerate(np.radians(np.asarray(angles_deg, dtype=float))):
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        out = turn @ out
    return out


def label_map(
    patient: Patient, affine: npt.NDArray[np.float64], shape_WHD: tuple[int, int, int]
) -> npt.NDArray[np.uint8]:
    """Labels (D, H, W): 1 liver, 2 kidney, 3 spleen; an organ on top hides one below."""
    body = _body_coordinates(patient, world_mm(affine, shape_WHD))
    labels = np.zeros(body.shape[1:], dtype=np.uint8)
    for organ in patient.organs:
        labels[_radius(organ, body) < 1] = _LABEL_OF.get(organ.name, 0)
    return labels


def ct_scan(
    patient: Patient, affine: npt.NDArray[np.float64], shape_WHD: tuple[int, int, int], rng: Rng
) -> Array:
    """CT (D, H, W) in HU: organs, table below the patient, noise correlated like a kernel's."""
    world = world_mm(affine, shape_WHD)
    table = (world[1] > _TABLE_Y_MM[0]) & (world[1] < _TABLE_Y_MM[1]) & (np.abs(world[0]) < 150)
    hu = np.where(table, _TABLE_HU, _AIR_HU).astype(np.float32)
    body = _body_coordinates(patient, world)
    for organ in patient.organs:
        share = _share(organ, body)
        hu += share * (organ.hu - hu)
    hu += _CT_NOISE_HU * _smooth_noise(rng, hu.shape, 0.6)
    return np.clip(np.round(hu), -1024, 3071).astype(np.float32)


def mr_scan(
    patient: Patient, affine: npt.NDArray[np.float64], shape_WHD: tuple[int, int, int], rng: Rng
) -> Array:
    """MR magnitude (D, H, W), arbitrary units: organs x smooth coil bias, Rician noise."""
    body = _body_coordinates(patient, world_mm(affine, shape_WHD))
    signal = np.zeros(body.shape[1:], dtype=np.float32)
    for organ in patient.organs:
        signal += _share(organ, body) * (organ.signal - signal)
    signal *= 1 + 0.05 * _smooth_noise(rng, signal.shape, 1.5)
    signal *= np.exp(_BIAS * _smooth_noise(rng, signal.shape, min(signal.shape) / 4))
    real, imaginary = rng.normal(0, _MR_NOISE, (2, *signal.shape))
    gain = rng.uniform(300, 1500)
    magnitude: Array = (gain * np.hypot(signal + real, imaginary)).round().astype(np.float32)
    return magnitude


def world_mm(affine: npt.NDArray[np.float64], shape_WHD: tuple[int, int, int]) -> Array:
    """World position (3, D, H, W) of every voxel centre."""
    index = np.indices(shape_WHD, dtype=np.float32).reshape(3, -1)
    world = affine[:3, :3] @ index + affine[:3, 3:]
    axes = [to_array_order(axis.reshape(shape_WHD)) for axis in world]
    out: Array = np.stack(axes).astype(np.float32)
    return out


def _body_coordinates(patient: Patient, world: Array) -> Array:
    shifted = world.reshape(3, -1) - patient.shift_mm[:, None]
    return (patient.rotation.T @ shifted).reshape(world.shape).astype(np.float32)


def _radius(organ: Organ, body: Array) -> Array:
    """Distance from the centre in units of the radius along that direction."""
    parts = zip(body, organ.centre_mm, organ.radii_mm, strict=True)
    squares = sum(((axis - np.float32(c)) / np.float32(r)) ** 2 for axis, c, r in parts)
    return np.sqrt(np.asarray(squares, dtype=np.float32))


def _share(organ: Organ, body: Array) -> Array:
    share: Array = np.clip((1 - _radius(organ, body)) / _EDGE + 0.5, 0, 1)
    return share


def _smooth_noise(rng: Rng, shape: tuple[int, ...], sigma_vox: float) -> Array:
    """Unit-variance noise with a Gaussian correlation of ``sigma_vox`` voxels."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), sigma_vox, mode="wrap")
    return np.asarray(noise / noise.std(), dtype=np.float32)
