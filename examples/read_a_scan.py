"""Read a scan and say where in the patient its brightest point lies.

Works on a NIfTI file or the folder of a DICOM series; here on a file made on the spot.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np

import medssl
from medssl.core.geometry import axis_codes
from medssl.core.sample import Sample


def make_scan(folder: Path) -> Path:
    """A sagittal scan with one bright voxel."""
    affine = np.array([[0, 0, 3.0, -60], [-0.8, 0, 0, 90], [0, -0.8, 0, 110], [0, 0, 0, 1]])
    voxels_WHD = np.random.default_rng(0).normal(100, 5, (120, 110, 40)).astype(np.float32)
    voxels_WHD[70, 30, 12] = 500
    path = folder / "scan.nii.gz"
    nib.save(nib.Nifti1Image(voxels_WHD, affine), path)
    return path


def brightest_mm(scan: Sample) -> np.ndarray:
    """RAS+ position in mm of the largest voxel."""
    affine = scan.geometry.affine
    if affine is None:
        raise SystemExit("the file does not say where its voxels lie")
    _, d, h, w = np.unravel_index(scan.array.argmax(), scan.array.shape)
    return np.asarray(affine @ [w, h, d, 1])[:3]  # the affine takes (W, H, D)


with tempfile.TemporaryDirectory() as temporary:
    scan = medssl.read(make_scan(Path(temporary)))
    affine = scan.geometry.affine
    assert affine is not None
    print("array (C, D, H, W):", scan.array.shape, scan.array.dtype)
    print("spacing (D, H, W):", scan.geometry.spacing_mm, "mm")
    print("voxel axes (W, H, D) run towards:", axis_codes(affine))
    print("brightest voxel at", brightest_mm(scan), "mm (right, anterior, superior)")
