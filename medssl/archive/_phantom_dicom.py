"""Writes a volume as a single-frame CT series, the way scanners and PACS leave it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_INTERCEPT_HU = -1024


def write_ct_series(
    folder: Path,
    hu_DHW: npt.NDArray[Any],
    affine: npt.NDArray[np.float64],
    *,
    patient: str,
    series_number: int,
    rng: np.random.Generator,
) -> list[Path]:
    """Write one file per slice; file names and InstanceNumber follow no order.

    Args:
        folder: is created.
        hu_DHW: (D, H, W) in HU, -1024 to 3071.
        affine: voxel (W, H, D) -> RAS+ mm with orthogonal columns.
        patient: PatientID; ids of study, series and images derive from it.
        series_number: SeriesNumber.
        rng: draws the order.

    Returns:
        The files, in slice order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names, instances = (rng.permutation(len(hu_DHW)) + 1 for _ in range(2))
    files = []
    for index, slice_HW in enumerate(hu_DHW):
        path = folder / f"IM{names[index]:04d}.dcm"
        dataset = _slice(slice_HW, affine, index)
        dataset.PatientID = patient
        dataset.PatientName = f"{patient}^Phantom"
        dataset.StudyInstanceUID = generate_uid(entropy_srcs=[patient, "study"])
        series = [patient, "series", str(series_number)]
        dataset.SeriesInstanceUID = generate_uid(entropy_srcs=series)
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=[*series, str(index)])
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.SeriesNumber = series_number
        dataset.InstanceNumber = int(instances[index])
        dataset.save_as(path, enforce_file_format=True)
        files.append(path)
    return files


def _slice(hu_HW: npt.NDArray[Any], affine: npt.NDArray[np.float64], index: int) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = CTImageStorage
    dataset.Modality = "CT"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    lps = _LPS_FROM_RAS @ affine
    width_mm, height_mm, depth_mm = np.linalg.norm(lps[:3, :3], axis=0)
    cosines = [*(lps[:3, 0] / width_mm), *(lps[:3, 1] / height_mm)]
    dataset.ImageOrientationPatient = [f"{v:.9f}" for v in cosines]
    dataset.ImagePositionPatient = [f"{v:.6f}" for v in lps[:3, 3] + index * lps[:3, 2]]
    dataset.PixelSpacing = [f"{height_mm:.8f}", f"{width_mm:.8f}"]
    dataset.SliceThickness = f"{1.5 * depth_mm:.3f}"  # overlapping slices: thickness is no spacing
    dataset.Rows, dataset.Columns = hu_HW.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.RescaleSlope, dataset.RescaleIntercept = "1", str(_INTERCEPT_HU)
    dataset.PixelData = (hu_HW - _INTERCEPT_HU).astype("<u2").tobytes()
    return dataset
