"""Torsos of several patients with landmarks that are known, in any pose and field of view.

The anatomy is that of the phantom archive with the contrast of a portal venous CT, so that organs
can be told apart; poses, sizes and fields of view differ more than in the archive.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medssl.archive._phantom_body import Patient, ct_scan, draw_patient, rotation
from medssl.archive.phantom import save_nifti
from medssl.core.seeding import generator

SPACING_MM = 5.0
SHAPE_DHW = (48, 44, 60)
# Largest turn about each axis, range of sizes, largest shift of the field of view (x, y, z).
TURN_DEG, SIZES, SHIFT_MM = 10.0, (0.85, 1.15), (25.0, 15.0, 40.0)
_HU = {
    "heart": 170.0, "liver": 110.0, "spleen": 130.0, "right kidney": 210.0, "left kidney": 210.0,
}  # fmt: skip
_LUNGS = ("right lung", "left lung")
# Landmarks are an organ's centre and its poles: the ends of its three axes.
_POLES = np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)])


@dataclass(frozen=True, eq=False)
class Scan:
    """One patient's scan.

    Attributes:
        hu_DHW: CT values.
        affine: voxel (w, h, d) to mm.
        voxels_L3: landmarks (d, h, w); the same order in every scan.
        visible_L: which of them lie within the scan and are not hidden by another organ.
    """

    hu_DHW: npt.NDArray[np.float32]
    affine: npt.NDArray[np.float64]
    voxels_L3: npt.NDArray[np.float64]
    visible_L: npt.NDArray[np.bool_]


def draw_scans(part: str, count: int) -> list[Scan]:
    """Scans of so many patients; those of two parts are different people."""
    return [draw_scan(generator(0, "landmarks", part, number)) for number in range(count)]


def write_scans(folder: Path, scans: list[Scan]) -> Path:
    """One NIfTI file per patient."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, scan in enumerate(scans):
        save_nifti(folder / f"PT{number:03d}.nii.gz", scan.hu_DHW, scan.affine, np.int16)
    return folder


def draw_scan(rng: np.random.Generator) -> Scan:
    """A patient of random anatomy, pose, size and field of view."""
    drawn = draw_patient(rng)
    size = rng.uniform(*SIZES)
    organs = tuple(
        organ._replace(
            centre_mm=tuple(size * np.array(organ.centre_mm)),
            radii_mm=tuple(size * np.array(organ.radii_mm)),
            hu=_HU.get(organ.name, organ.hu),
        )
        for organ in drawn.organs
    )
    turn = rotation(rng.uniform(-TURN_DEG, TURN_DEG, 3))
    patient = Patient(organs, turn, rng.uniform(-1, 1, 3) * SHIFT_MM)
    affine = np.diag([SPACING_MM] * 3 + [1.0])
    affine[:3, 3] = -SPACING_MM * (np.array(SHAPE_DHW[::-1]) - 1) / 2
    d, h, w = SHAPE_DHW
    hu_DHW = ct_scan(patient, affine, (w, h, d), rng)
    points_L3, shown_L = _landmarks(patient)
    voxels_L3 = ((points_L3 - affine[:3, 3]) / SPACING_MM)[:, ::-1]
    inside_L = ((voxels_L3 >= 1) & (voxels_L3 <= np.array(SHAPE_DHW) - 2)).all(1)
    return Scan(hu_DHW, affine, voxels_L3, shown_L & inside_L)


def _landmarks(patient: Patient) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """World positions (L, 3) of all landmarks, and which no other organ hides."""
    points, shown = [], []
    for number, organ in enumerate(patient.organs):
        if organ.name not in (*_HU, *_LUNGS):
            continue
        body = np.array(organ.centre_mm) + _POLES * np.array(organ.radii_mm)
        points.append(body @ patient.rotation.T + patient.shift_mm)
        shown.append(~_covered(patient, number, body))
    return np.concatenate(points), np.concatenate(shown)


def _covered(
    patient: Patient, number: int, body_P3: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Whether an organ that lies on top of organ ``number`` holds the points."""
    covered = np.zeros(len(body_P3), dtype=bool)
    for organ in patient.organs[number + 1 :]:
        far = (body_P3 - np.array(organ.centre_mm)) / np.array(organ.radii_mm)
        covered |= (far**2).sum(1) < 1.1
    return covered
