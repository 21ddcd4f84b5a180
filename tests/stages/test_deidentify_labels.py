"""Labels still belong to their scan after both were de-identified."""

import numpy as np
import pydicom

import medssl
from medssl.core.geometry import Geometry
from medssl.readers._dispatch import group_headers, read_header, walk
from medssl.readers.labels import labels_on_grid
from tests.readers.label_files import series, write_rtstruct, write_seg
from tests.scans import oblique, save_dicom

SHAPE, AFFINE = (9, 8, 7), oblique()
LABELS = np.zeros(SHAPE, np.uint8)
LABELS[2:5, 1:6, 2:5], LABELS[4:7, 5:8, 1:3] = 1, 2
GRID = Geometry.of_volume(AFFINE)


def copies_by_modality(tmp_path):
    medssl.deidentify(tmp_path / "in", out=tmp_path / "out", workers=0)
    found = {}
    for path in sorted((tmp_path / "out" / "files").rglob("*.dcm")):
        found.setdefault(pydicom.dcmread(path).Modality, []).append(path)
    return found


def test_a_seg_lies_on_the_copied_scan_and_refers_to_it(tmp_path):
    sources = series(save_dicom(tmp_path / "in" / "ct", np.zeros(SHAPE), AFFINE), AFFINE)
    write_seg(tmp_path / "in" / "seg.dcm", sources, LABELS)
    copies = copies_by_modality(tmp_path)
    (seg,) = copies["SEG"]
    np.testing.assert_array_equal(labels_on_grid(seg, GRID, SHAPE).labels_DHW, LABELS)
    found, _ = group_headers(map(read_header, walk(tmp_path / "out" / "files")))
    (scan,) = [one for one in found if one.role == "image"]
    (label,) = [one for one in found if one.role == "label"]
    assert label.references == (scan.series,)
    named = {i.ReferencedSOPInstanceUID for i in referenced(pydicom.dcmread(seg))}
    assert named <= {pydicom.dcmread(p).SOPInstanceUID for p in copies["CT"]}


def referenced(seg):
    return seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence


def test_a_structure_set_is_copied_without_the_names_of_its_structures(tmp_path):
    sources = series(save_dicom(tmp_path / "in" / "ct", np.zeros(SHAPE), AFFINE), AFFINE)
    square = np.array([[0, 0, 0], [5, 0, 0], [5, 5, 0], [0, 5, 0]], float)
    write_rtstruct(tmp_path / "in" / "rt.dcm", {"Kunigunde": [square]}, sources[0])
    copies = copies_by_modality(tmp_path)
    old = pydicom.dcmread(tmp_path / "in" / "rt.dcm")
    new = pydicom.dcmread(copies["RTSTRUCT"][0])
    assert new.StructureSetROISequence[0].ROIName == ""  # action Z of the profile
    contours = [d.ROIContourSequence[0].ContourSequence[0].ContourData for d in (old, new)]
    assert contours[0] == contours[1]
    assert b"Kunigunde" not in copies["RTSTRUCT"][0].read_bytes()
