"""Label maps as DICOM Segmentation objects that refer to the images they were made from.

One binary segment per known label (absent labels have no frames), empty slices left out. Patient
and study are those of the source; nothing else of its header is copied. Where nothing was found
the object holds every slice, empty: it still says that the scan was looked at.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds

from medssl import __version__
from medssl.core.errors import ReadError
from medssl.core.geometry import RAS_FROM_LPS, line_tolerance_mm
from medssl.core.runlog import write_bytes

SourceFrames = Sequence[tuple[Any, int]]
"""Header and frame (from 0) behind each slice of a volume, in the order of its array."""

# Slices that lean more than this against their normal: a gantry tilt.
TILT_TOLERANCE_DEG = 0.1
MAX_NAME = 64
# Series numbers of results follow those of the scans.
_SERIES_OFFSET = 1000
_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
_STAND_IN = "2.25."
_UTF8 = "ISO_IR 192"
# Patient and study, type 2 of the standard: always there, if empty. Checks keep out what a
# later reader would refuse.
_COPIED = {
    "PatientID": r"(?s).*",
    "PatientName": r"(?s).*",
    "PatientBirthDate": r"\d{8}",
    "PatientSex": r"[MFO]",
    "StudyID": r"(?s).*",
    "StudyDate": r"\d{8}",
    "StudyTime": r"\d{2,6}(\.\d{1,6})?",
    "AccessionNumber": r"(?s).*",
    "ReferringPhysicianName": r"(?s).*",
}
_ERRORS = (ValueError, TypeError, AttributeError, LookupError, OverflowError)


def tilt_problem(affine: npt.NDArray[np.float64]) -> str:
    """Why a grid cannot be written as a segmentation; empty if it can."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    off = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if off <= np.sin(np.radians(TILT_TOLERANCE_DEG)):
        return ""
    return f"the axes of the grid lean {np.degrees(np.arcsin(min(off, 1))):.1f} degrees (tilt)"


def write_seg(
    path: Path,
    labels_DHW: npt.NDArray[np.uint8],
    affine: npt.NDArray[np.float64],
    sources: SourceFrames,
    names: Mapping[int, str],
    *,
    weights_sha256: str,
) -> None:
    """Write a label map as a DICOM SEG.

    Segments are numbered 1, 2, ... in the order of the label values.

    Args:
        path: the file; written whole or not at all.
        labels_DHW: label of each voxel, on the grid of the source.
        affine: voxel (W, H, D) -> RAS+ mm.
        sources: source of each slice; classic or multi-frame headers, pixels not needed.
        names: label values and names, background (0) included.
        weights_sha256: of the model, kept as parameter of the algorithm.

    Raises:
        ReadError: ``seg_not_possible`` if the grid or the source cannot be referred to.
        ResourceError: the disk is full.

    Standard: PS3.3 A.51 (Segmentation), C.8.20 (Segmentation modules).
    """
    if problem := tilt_problem(affine) or _source_problem(sources, labels_DHW.shape, affine):
        raise _not_possible(problem)
    values = sorted(set(names) - {0})
    table = np.zeros(256, dtype=np.uint8)
    table[values] = np.arange(1, len(values) + 1)
    try:
        with _quiet():
            stand_ins = [_stand_in(source, k, affine) for k, source in enumerate(sources)]
            titles = [names[value] for value in values]
            seg = _segmentation(stand_ins, table[labels_DHW], titles, weights_sha256)
            _refer(seg, sources)
            file = io.BytesIO()
            seg.save_as(file)
    except _ERRORS as error:
        what = f"the source's header does not fit a segmentation ({type(error).__name__})"
        raise _not_possible(what) from None
    write_bytes(path, file.getvalue())


def _segmentation(
    sources: list[Dataset], labels_DHW: npt.NDArray[np.uint8], names: list[str], weights: str
) -> Any:
    import highdicom as hd
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.sr.codedict import codes

    algorithm = hd.AlgorithmIdentificationSequence(
        name="medssl",
        family=codes.cid7162.ArtificialIntelligence,
        version=__version__,
        parameters={"weights_sha256": weights},
    )
    described = [
        SegmentDescription(
            segment_number=number,
            segment_label=_title(name),
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )
        for number, name in enumerate(names, start=1)
    ]
    return Segmentation(
        sources,
        labels_DHW,
        "BINARY",
        described,
        series_instance_uid=hd.UID(),
        series_number=_series_number(sources[0]),
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="medssl",
        manufacturer_model_name="medssl",
        software_versions=__version__,
        device_serial_number="none",
        content_label="SEGMENTATION",
        content_description="automatic segmentation, not reviewed",
        series_description="medssl segmentation",
        specific_character_set=_UTF8,
    )


def _stand_in(
    source_frame: tuple[Any, int], number: int, affine: npt.NDArray[np.float64]
) -> Dataset:
    """A single-frame image in place of a slice: only what the segmentation may know of it.

    Its UID is replaced by that of the true source afterwards (:func:`_refer`).
    """
    source, frame = source_frame
    lps = RAS_FROM_LPS @ affine
    spacing_mm = np.linalg.norm(lps[:3, :3], axis=0)
    one = Dataset()
    one.ImagePositionPatient = _ds(_position_mm(source, frame))
    for keyword, pattern in _COPIED.items():
        value = source.get(keyword)
        fits = value is not None and re.fullmatch(pattern, str(value))
        setattr(one, keyword, value if fits else "")
    one.SOPClassUID, one.SOPInstanceUID = _CT_IMAGE, f"{_STAND_IN}{number + 1}"
    one.StudyInstanceUID, one.SeriesInstanceUID = source.StudyInstanceUID, source.SeriesInstanceUID
    one.FrameOfReferenceUID = source.FrameOfReferenceUID
    one.SeriesNumber = source.get("SeriesNumber")
    one.Modality = "OT"
    one.Rows, one.Columns = source.Rows, source.Columns
    one.ImageOrientationPatient = _ds(
        [*(lps[:3, 0] / spacing_mm[0]), *(lps[:3, 1] / spacing_mm[1])]
    )
    one.PixelSpacing = _ds([spacing_mm[1], spacing_mm[0]])
    # The extent along the normal that a segmented slice stands for is its distance to the next.
    one.SliceThickness = one.SpacingBetweenSlices = _ds([spacing_mm[2]])[0]
    return one


def _refer(seg: Any, sources: SourceFrames) -> None:
    """Put the true sources in place of the stand-ins."""
    true = {f"{_STAND_IN}{k + 1}": source for k, source in enumerate(sources)}
    for item in seg.PerFrameFunctionalGroupsSequence:
        for derivation in item.get("DerivationImageSequence", ()):
            for reference in derivation.SourceImageSequence:
                _point_to(reference, true, with_frame=True)
    for series in seg.ReferencedSeriesSequence:
        once: dict[str, Any] = {}
        for reference in series.ReferencedInstanceSequence:
            _point_to(reference, true, with_frame=False)
            once.setdefault(reference.ReferencedSOPInstanceUID, reference)
        series.ReferencedInstanceSequence = list(once.values())


def _point_to(reference: Any, true: Mapping[str, tuple[Any, int]], *, with_frame: bool) -> None:
    # Frames of several segments share their references: a second visit finds them done.
    if reference.ReferencedSOPInstanceUID not in true:
        return
    dataset, frame = true[reference.ReferencedSOPInstanceUID]
    reference.ReferencedSOPClassUID = _uid(dataset, "SOPClassUID")
    reference.ReferencedSOPInstanceUID = _uid(dataset, "SOPInstanceUID")
    if with_frame and int(dataset.get("NumberOfFrames") or 1) > 1:
        reference.ReferencedFrameNumber = frame + 1


def _source_problem(
    sources: SourceFrames, shape_DHW: tuple[int, ...], affine: npt.NDArray[np.float64]
) -> str:
    """Why the slices cannot be referred to; empty if they can."""
    if len(sources) != shape_DHW[0]:
        return f"{shape_DHW[0]} slices come from {len(sources)} frames (resampled)"
    needed = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
    lps = RAS_FROM_LPS @ affine
    allowed_mm = line_tolerance_mm(float(np.linalg.norm(lps[:3, 2])))
    for k, (dataset, frame) in enumerate(sources):
        for keyword in (*needed, "FrameOfReferenceUID"):
            if not _uid(dataset, keyword):
                return f"the source has no {keyword}"
        if (dataset.get("Rows"), dataset.get("Columns")) != shape_DHW[1:]:
            return "the source is tiled: one image holds several slices"
        position = _position_mm(dataset, frame)
        if position is None:
            return "a frame of the source does not say where it lies"
        if np.linalg.norm(position - (lps[:3, :3] @ [0, 0, k] + lps[:3, 3])) > allowed_mm:
            return "the slices of the source lie elsewhere than the volume's"
    return ""


def _uid(dataset: Any, keyword: str) -> Any:
    """A UID of the data set; some anonymisers leave class and instance in the file meta only."""
    return dataset.get(keyword) or dataset.file_meta.get(f"MediaStorage{keyword}")


def _position_mm(dataset: Any, frame: int) -> Any:
    """ImagePositionPatient of a frame; ``None`` if it is missing."""
    position = dataset.get("ImagePositionPatient")
    groups = [
        *dataset.get("PerFrameFunctionalGroupsSequence", ())[frame : frame + 1],
        *dataset.get("SharedFunctionalGroupsSequence", ())[:1],
    ]
    for group in groups:
        for item in group.get("PlanePositionSequence", ())[:1]:
            position = item.get("ImagePositionPatient", position)
    return None if not position else np.array(position, dtype=np.float64)


def _series_number(source: Dataset) -> int:
    number = int(source.get("SeriesNumber") or 0)
    return min(max(number, 0) + _SERIES_OFFSET, 2**31 - 1)


def _title(name: str) -> str:
    """A label as LO: at most 64 characters, no backslash."""
    return name.replace("\\", "/")[:MAX_NAME]


def _ds(numbers: Any) -> list[str]:
    """Decimal strings of at most 16 characters."""
    return [format_number_as_ds(float(number)) for number in numbers]


@contextmanager
def _quiet() -> Iterator[None]:
    """Highdicom and pydicom log values that they find odd, a patient's name among them."""
    loggers = [logging.getLogger(name) for name in ("highdicom", "pydicom")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _not_possible(what: str) -> ReadError:
    return ReadError("seg_not_possible", what, fix="the NIfTI result lies on the scan's own grid")
