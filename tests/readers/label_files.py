"""SEG and RTSTRUCT files of known content, made by highdicom and pydicom."""

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def series(folder, affine):
    """Headers of a series in the order of the slices of its array."""
    found = [pydicom.dcmread(file, stop_before_pixels=True) for file in folder.iterdir()]
    for one in found:  # type 2: highdicom wants them there, if empty
        for keyword in ("PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
            setattr(one, keyword, one.get(keyword, ""))
        one.StudyDate, one.StudyTime = one.get("StudyDate"), one.get("StudyTime")
    along = (LPS @ affine)[:3, 2]
    return sorted(found, key=lambda one: along @ np.array(one.ImagePositionPatient, float))


def write_seg(path, sources, array, kind="BINARY", names=("alpha", "beta"), **more):
    """A SEG of highdicom: array (D, H, W) of numbers, or (D, H, W, S), on the sources' slices."""
    count = array.shape[3] if array.ndim == 4 else int(array.max())
    described = [
        SegmentDescription(
            segment_number=n,
            segment_label=names[n - 1] if n <= len(names) else f"s{n}",
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type="MANUAL",
        )
        for n in range(1, count + 1)
    ]
    seg = Segmentation(
        sources, array, kind, described, generate_uid(), 9, generate_uid(), 1, "m", "m", "1", "1",
        **more,
    )  # fmt: skip
    seg.save_as(path)
    return path


def write_rtstruct(path, structures, source, kind="CLOSED_PLANAR"):
    """An RTSTRUCT: {name: [(N, 3) contour in RAS mm, ...]}, drawn on the series of ``source``."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = RTStructureSetStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    one.SOPClassUID, one.SOPInstanceUID = RTStructureSetStorage, meta.MediaStorageSOPInstanceUID
    one.PatientID, one.PatientName, one.Modality = "DOE^JOHN", "DOE^JOHN", "RTSTRUCT"
    one.StudyInstanceUID, one.SeriesInstanceUID = source.StudyInstanceUID, generate_uid()
    of_series = Dataset()
    of_series.SeriesInstanceUID = source.SeriesInstanceUID
    study, frame = Dataset(), Dataset()
    study.RTReferencedSeriesSequence = [of_series]
    frame.FrameOfReferenceUID = source.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    one.ReferencedFrameOfReferenceSequence = [frame]
    one.StructureSetROISequence, one.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(structures.items(), start=1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        roi.ReferencedFrameOfReferenceUID = source.FrameOfReferenceUID
        drawn.ReferencedROINumber = number
        drawn.ContourSequence = [contour_item(points, kind) for points in contours]
        one.StructureSetROISequence.append(roi)
        one.ROIContourSequence.append(drawn)
    one.save_as(path, enforce_file_format=True)
    return path


def contour_item(points_ras_mm, kind):
    """One contour; NaN and the like are written as they are."""
    item = Dataset()
    item.ContourGeometricType = kind
    item.NumberOfContourPoints = len(points_ras_mm)
    lps_mm = np.asarray(points_ras_mm, float) * [-1, -1, 1]
    with pydicom.config.disable_value_validation():
        item.ContourData = [f"{v:.4f}" for v in lps_mm.ravel()]
    return item


def circle(centre_HW, radius, place, affine, n=720):
    """A circle in one slice, in voxel units, as RAS mm points."""
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    w, h = centre_HW[1] + radius * np.cos(angle), centre_HW[0] + radius * np.sin(angle)
    return in_mm(np.stack([w, h, np.full(n, place)], axis=1), affine)


def in_mm(points_WHD, affine):
    """Voxel coordinates to RAS mm."""
    return np.asarray(points_WHD, float) @ affine[:3, :3].T + affine[:3, 3]


def highdicom_volume(path):
    """What highdicom reads, as a NIfTI image of segment numbers."""
    volume = hd.seg.segread(path).get_volume(combine_segments=True, allow_missing_positions=True)
    return nib.Nifti1Image(volume.array.astype(np.uint8), LPS @ volume.affine)


def canonical(array_DHW, affine):
    """Voxels in RAS+ order and their affine, by nibabel."""
    image = nib.as_closest_canonical(nib.Nifti1Image(array_DHW.transpose(), affine))
    return np.asarray(image.dataobj), image.affine
