"""DICOM files of made-up scans: classic slices, enhanced multi-frame objects, Siemens mosaics."""

import math
import struct

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

from medssl.core.errors import ReadError
from medssl.readers._base import DEFAULT_POLICY
from medssl.readers._dispatch import group_headers, read_header, walk

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
AXIAL = RAS_FROM_LPS @ np.array(
    [[0.7, 0, 0, -40.0], [0, 1.3, 0, -30.0], [0, 0, 2.5, 100.0], [0, 0, 0, 1]]
)


def voxels(seed=1, shape=(5, 8, 10)):
    return np.random.default_rng(seed).integers(0, 4000, shape).astype(np.int16)


def grouped(folder, policy=DEFAULT_POLICY):
    """Records, and refused files by reason; files whose header cannot be read among them."""
    headers, reasons = [], {}
    for file in walk(folder):
        try:
            headers.append(read_header(file))
        except ReadError as error:
            reasons.setdefault(error.reason, []).append(str(file))
    found, refused = group_headers(headers, policy)
    for one in refused:
        reasons.setdefault(one.reason, []).extend(one.files)
    return sorted(found, key=lambda one: one.part), reasons


def place(affine, k=0):
    """Position, orientation and pixel spacing of slice k, LPS."""
    lps = RAS_FROM_LPS @ affine
    width_mm, height_mm, _ = np.linalg.norm(lps[:3, :3], axis=0)
    position = lps[:3, 3] + k * lps[:3, 2]
    cosines = [*(lps[:3, 0] / width_mm), *(lps[:3, 1] / height_mm)]
    return (
        [f"{v:.9g}" for v in position],
        [f"{v:.11f}" for v in cosines],
        [f"{height_mm:.8f}", f"{width_mm:.8f}"],
    )


def image(values, sop_class=MRImageStorage):
    """A data set with these stored values and no place."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    dataset.Modality, dataset.SeriesNumber = "MR", 7
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    dataset.Rows, dataset.Columns = values.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.PixelData = values.astype("<u2").tobytes()
    return dataset


def set_tags(dataset, **tags):
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    return dataset


def write_slices(folder, x_DHW, affine=AXIAL, skip=(), **tags):
    """One MR file per slice; a callable among the tags is asked for the value of slice k."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for k, values in enumerate(x_DHW):
        if k in skip:
            continue
        dataset = image(values)
        position, orientation, spacing = place(affine, k)
        dataset.ImagePositionPatient, dataset.ImageOrientationPatient = position, orientation
        dataset.PixelSpacing = spacing
        set_tags(dataset, **{n: v(k) if callable(v) else v for n, v in tags.items()})
        files.append(folder / f"{len(list(folder.iterdir())):04d}.dcm")
        dataset.save_as(files[-1], enforce_file_format=True)
    return files


def group_of(**tags):
    return Sequence([set_tags(Dataset(), **tags)])


def frame(affine=AXIAL, k=0, *, echo=None, slope=None, kind=None, **content):
    """Functional groups of one frame."""
    position, orientation, spacing = place(affine, k)
    groups = Dataset()
    groups.PlanePositionSequence = group_of(ImagePositionPatient=position)
    groups.PlaneOrientationSequence = group_of(ImageOrientationPatient=orientation)
    groups.PixelMeasuresSequence = group_of(PixelSpacing=spacing, SliceThickness="9")
    groups.FrameContentSequence = group_of(**content)
    if echo is not None:
        groups.MREchoSequence = group_of(EffectiveEchoTime=echo)
    if slope is not None:
        scale = group_of(RescaleSlope=slope[0], RescaleIntercept=slope[1], RescaleType="US")
        groups.PixelValueTransformationSequence = scale
    if kind is not None:
        groups.MRImageFrameTypeSequence = group_of(FrameType=kind, ComplexImageComponent="MIXED")
    return groups


def write_enhanced(path, x_THW, frames, shared=None, **tags):
    """An enhanced MR object."""
    dataset = image(x_THW, EnhancedMRImageStorage)
    dataset.NumberOfFrames = len(x_THW)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    dataset.SharedFunctionalGroupsSequence = Sequence([shared or Dataset()])
    set_tags(dataset, **tags).save_as(path, enforce_file_format=True)
    return path


def csa_header(values, *, second_form=True):
    """A Siemens CSA header with these texts by name."""
    out = b"SV10\4\3\2\1" if second_form else b""
    out += struct.pack("<2I", len(values), 77)
    first_count = len(next(iter(values.values())))
    for name, texts in values.items():
        out += struct.pack("<64si4s3i", name.encode(), 0, b"DS\0\0", 0, len(texts), 77)
        for text in texts:
            item = text.encode() + b"\0"
            length = len(item) if second_form else len(item) + first_count
            out += struct.pack("<4i", length, len(item), 77, length)
            out += item.ljust(math.ceil(len(item) / 4) * 4, b"\0")
    return out


def write_mosaic(path, x_DHW, affine=AXIAL, *, second_form=True, normal=None, n=None, **tags):
    """The slices tiled row by row; the header's position is that of the large image."""
    d, h, w = x_DHW.shape
    grid = math.ceil(math.sqrt(d))
    tiled = np.zeros((grid * h, grid * w), x_DHW.dtype)
    for k, values in enumerate(x_DHW):
        top, left = k // grid * h, k % grid * w
        tiled[top : top + h, left : left + w] = values
    dataset = image(tiled)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    shift = np.eye(4)
    shift[:2, 3] = [-(grid - 1) * w / 2, -(grid - 1) * h / 2]
    position, orientation, spacing = place(affine @ shift)
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = position, orientation
    dataset.PixelSpacing = spacing
    step = (RAS_FROM_LPS @ affine)[:3, 2]
    dataset.SpacingBetweenSlices = f"{np.linalg.norm(step):.8g}"
    normal = step / np.linalg.norm(step) if normal is None else normal
    csa = {
        "EchoLinePosition": ["42", "7"],
        "NumberOfImagesInMosaic": [str(n or d)],
        "SliceNormalVector": [f"{v:.8f}" for v in normal],
    }
    block = dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", csa_header(csa, second_form=second_form))
    set_tags(dataset, **tags).save_as(path, enforce_file_format=True)
    return path
