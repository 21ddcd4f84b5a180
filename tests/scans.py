"""Small scans of a Gaussian blob, as NIfTI and DICOM, and a model that finds it."""

from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from torch import nn

from medssl.core.geometry import Reorientation, to_voxel_order
from medssl.core.preprocess import Contract
from medssl.encoders.card import Card

SHAPE_DHW = (26, 34, 30)
SPACING_WHD_MM = (0.9, 0.8, 1.4)
CENTRE_WHD = (14.37, 17.81, 12.43)
SIGMA_MM = 6.0
LOW_HU, HIGH_HU = -1000.0, 900.0
LABELS = {0: "background", 1: "blob"}


def oblique(
    degrees=(11.0, -17.0, 8.0), spacing_WHD_mm=SPACING_WHD_MM, origin_mm=(-31.0, 12.5, 77.0)
):
    """Affine of a turned grid."""
    a, b, c = np.radians(degrees)
    rx = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    ry = [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
    rz = [[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]]
    affine = np.eye(4)
    affine[:3, :3] = np.array(rx) @ ry @ rz @ np.diag(spacing_WHD_mm)
    affine[:3, 3] = [-31.0, 12.5, 77.0]
    return affine


def centre_mm(affine):
    """World position of the blob."""
    return affine[:3, :3] @ CENTRE_WHD + affine[:3, 3]


def blob_hu(affine, shape_DHW=SHAPE_DHW, centre=None):
    """A Gaussian blob in air, sampled at voxel centres in the world."""
    centre = centre_mm(affine) if centre is None else centre
    index = np.moveaxis(np.indices(shape_DHW), 0, -1)[..., ::-1]
    away_mm = index @ affine[:3, :3].T + affine[:3, 3] - centre
    blob = np.exp(-(away_mm**2).sum(axis=-1) / (2 * SIGMA_MM**2))
    return (LOW_HU + (HIGH_HU - LOW_HU) * blob).astype(np.float32)


def stored_as(turn, x_DHW, affine):
    """The same scan with its voxels in another order."""
    forward = Reorientation(*turn)
    return forward.apply(x_DHW), forward.affine(affine, x_DHW.shape)


def save_nifti(path: Path, x_DHW, affine, codes=(1, 1)):
    """One NIfTI with sform and qform."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(to_voxel_order(np.asarray(x_DHW)), affine)
    image.set_sform(affine, codes[0])
    image.set_qform(affine, codes[1])
    nib.save(image, path)
    return path


def save_dicom(folder: Path, x_DHW, affine, number=3, patient="DOE^JOHN", modality="CT", prefix=""):
    """One single-frame CT series; slices run along D, file names in no useful order."""
    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing_mm = np.linalg.norm(lps[:3, :3], axis=0)
    along_w, along_h = lps[:3, 0] / spacing_mm[0], lps[:3, 1] / spacing_mm[1]
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    names = np.random.default_rng(0).permutation(len(x_DHW))
    for k, x_HW in enumerate(np.round(x_DHW).astype(np.int16)):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MRImageStorage if modality == "MR" else CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        one.SOPClassUID = meta.MediaStorageSOPClassUID
        one.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        one.PatientID, one.PatientName, one.Modality = patient, patient, modality
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, series, frame
        one.SeriesNumber, one.InstanceNumber = number, int(names[k])
        one.ImageOrientationPatient = [f"{v:.10f}" for v in (*along_w, *along_h)]
        one.ImagePositionPatient = [f"{v:.8f}" for v in lps[:3, :3] @ [0, 0, k] + lps[:3, 3]]
        one.PixelSpacing = [float(spacing_mm[1]), float(spacing_mm[0])]
        one.SliceThickness = float(spacing_mm[2])
        one.Rows, one.Columns = x_HW.shape
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 1
        one.RescaleSlope, one.RescaleIntercept = 1, 0
        one.PixelData = np.ascontiguousarray(x_HW).tobytes()
        one.save_as(folder / f"{prefix}{names[k]:04d}.dcm", enforce_file_format=True)
    return folder


class Threshold(nn.Module):
    """Says blob where the window-scaled CT is above half height."""

    def forward(self, x):
        half = ((LOW_HU + HIGH_HU) / 2 + 1024) / 2048
        logit = 200 * (x[:, :1] - half)
        return torch.cat([torch.zeros_like(logit), logit], dim=1)


def threshold_card(spacing_mm=None, **more):
    """Card of :class:`Threshold`."""
    given = {
        "encoder": "resenc-xs",
        "in_channels": 1,
        "channels": ("CT",),
        "contract": Contract(spacing_mm=spacing_mm),
        "modality": "CT",
        "patch_size": (16, 24, 24),
        "head": "segmentation",
        "labels": LABELS,
        "weights_sha256": "0" * 64,
    }
    return Card(**{**given, **more})
