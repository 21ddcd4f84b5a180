"""A synthetic hospital: CT as DICOM, MR as NIfTI, a few labels, and files that are broken.

The same torso anatomy (ellipsoids, varied per patient) underlies both modalities, so that a model
can learn it from unlabelled scans and use it with few labels. Patients of the labelled part are
not in the archive.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from medssl.archive._phantom_body import (
    LABELS,
    Patient,
    ct_scan,
    draw_patient,
    label_map,
    mr_scan,
    rotation,
)
from medssl.archive._phantom_dicom import write_ct_series
from medssl.core.geometry import to_voxel_order
from medssl.core.seeding import generator

SHAPE_WHD = (64, 64, 48)
SPACING_MM = (5.0, 4.0, 5.0)
"""(W, H, D)."""


@dataclass
class PhantomArchive:
    """Where things lie.

    Attributes:
        archive: unlabelled scans and broken files, unsorted.
        labelled: MSD layout: ``imagesTr``, ``labelsTr``, ``imagesTs``, ``labelsTs``.
        broken: path relative to ``archive`` -> reason the ledger gives for it.
    """

    archive: Path
    labelled: Path
    broken: dict[str, str] = field(default_factory=dict)

    @property
    def test_images(self) -> Path:
        return self.labelled / "imagesTs"

    @property
    def test_labels(self) -> Path:
        return self.labelled / "labelsTs"


def write_archive(
    out: Path, *, patients: int = 12, seed: int = 0, labelled: str = "MR"
) -> PhantomArchive:
    """Write ``out/archive`` and ``out/labelled``; the same arguments give the same scans.

    Args:
        out: folder, created.
        patients: patients of the archive, each with a CT and an MR; half as many (at least 4)
            labelled scans and a quarter (at least 3) for testing come on top.
        seed: of every random number.
        labelled: what the labelled scans are, ``MR`` or ``CT``.
    """
    phantom = PhantomArchive(archive=out / "archive", labelled=out / "labelled")
    (phantom.archive / "mr").mkdir(parents=True)
    for number in range(patients):
        rng = generator(seed, "patient", number)
        patient = draw_patient(rng)
        name = f"PH{number:04d}"
        ct_affine = grid(rng, max_tilt_deg=0)
        hu_DHW = ct_scan(patient, ct_affine, SHAPE_WHD, rng)
        folder = phantom.archive / "ct" / name
        write_ct_series(folder, hu_DHW, ct_affine, patient=name, series_number=2, rng=rng)
        _write_mr(phantom.archive / "mr" / f"{name}.nii.gz", patient, rng)
    description = {"modality": {"0": "MRI"}, "labels": {"0": "background"}, "training": []}
    _write_json(phantom.archive / "mr" / "dataset.json", description)
    cases = [max(4, patients // 2), max(3, patients // 4)]
    _write_labelled(phantom.labelled, cases, seed, labelled)
    phantom.broken = write_broken(phantom.archive / "broken", seed)
    return phantom


def grid(rng: np.random.Generator, *, max_tilt_deg: float) -> npt.NDArray[np.float64]:
    """Affine of a scan: the body's centre in the middle, turned by up to ``max_tilt_deg``."""
    affine = np.eye(4)
    turn = rotation(rng.uniform(-max_tilt_deg, max_tilt_deg, 3))
    affine[:3, :3] = turn @ np.diag(SPACING_MM) @ np.diag([-1, -1, 1])  # LPS rows, as scanners do
    middle = (np.array(SHAPE_WHD) - 1) / 2
    affine[:3, 3] = rng.uniform(-8, 8, 3) - affine[:3, :3] @ middle
    return affine


def write_broken(folder: Path, seed: int) -> dict[str, str]:
    """Files that go wrong in ways seen in practice; returns path -> expected reason."""
    folder.mkdir(parents=True)
    rng = generator(seed, "broken")
    patient = draw_patient(rng)
    whole = folder / "truncated.nii.gz"
    _write_mr(whole, patient, rng)
    whole.write_bytes(whole.read_bytes()[:-2000])
    (folder / "empty.nii.gz").write_bytes(b"")
    (folder / "notes.dcm").write_text("Dictated but not read.\n")
    affine = grid(rng, max_tilt_deg=0)
    _write_nan_affine(folder / "nan_affine.nii.gz", affine)
    scout = ct_scan(patient, affine, (SHAPE_WHD[0], SHAPE_WHD[1], 2), rng)
    write_ct_series(folder / "scout", scout, affine, patient="PH-scout", series_number=1, rng=rng)
    constant = np.full(SHAPE_WHD[::-1], 7, dtype=np.float32)
    save_nifti(folder / "constant.nii.gz", constant, affine, np.int16)
    return {
        "broken/truncated.nii.gz": "truncated",
        "broken/empty.nii.gz": "empty_file",
        "broken/notes.dcm": "not_dicom",
        "broken/nan_affine.nii.gz": "bad_geometry",
        "broken/scout": "too_few_slices",
        "broken/constant.nii.gz": "constant",
    }


def save_nifti(
    path: Path, x_DHW: npt.NDArray[Any], affine: npt.NDArray[np.float64], dtype: npt.DTypeLike
) -> None:
    """Write (D, H, W) with its affine as sform and qform, byte for byte reproducible."""
    image = nib.Nifti1Image(to_voxel_order(x_DHW).astype(dtype), affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))


def _write_mr(path: Path, patient: Patient, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    affine = grid(rng, max_tilt_deg=12)
    save_nifti(path, mr_scan(patient, affine, SHAPE_WHD, rng), affine, np.int16)
    return affine


def _write_ct(path: Path, patient: Patient, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    affine = grid(rng, max_tilt_deg=0)
    save_nifti(path, ct_scan(patient, affine, SHAPE_WHD, rng), affine, np.int16)
    return affine


def _write_labelled(folder: Path, cases: list[int], seed: int, modality: str) -> None:
    """So many cases to train on and to test on."""
    n_train, n_test = cases
    write = {"MR": _write_mr, "CT": _write_ct}[modality]
    for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (folder / part).mkdir(parents=True)
    names = [f"PL{number:04d}.nii.gz" for number in range(n_train + n_test)]
    for number, name in enumerate(names):
        rng = generator(seed, "labelled", number)
        patient = draw_patient(rng)
        part = "Tr" if number < n_train else "Ts"
        affine = write(folder / f"images{part}" / name, patient, rng)
        labels_DHW = label_map(patient, affine, SHAPE_WHD)
        save_nifti(folder / f"labels{part}" / name, labels_DHW, affine, np.uint8)
    description = {
        "name": "medssl phantom",
        "modality": {"0": {"MR": "MRI"}.get(modality, modality)},
        "labels": {str(value): name for value, name in LABELS.items()},
        "numTraining": n_train,
        "training": [
            {"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"}
            for name in names[:n_train]
        ],
        "test": [f"./imagesTs/{name}" for name in names[n_train:]],
    }
    _write_json(folder / "dataset.json", description)


def _write_nan_affine(path: Path, affine: npt.NDArray[np.float64]) -> None:
    image = nib.Nifti1Image(np.zeros(SHAPE_WHD, dtype=np.int16), affine)
    image.header["srow_x"][0] = np.nan
    image.header["sform_code"] = 1
    content = image.header.binaryblock + b"\0" * 4 + bytes(image.get_fdata().size * 2)
    path.write_bytes(gzip.compress(content, compresslevel=1, mtime=0))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
