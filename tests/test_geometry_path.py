"""The whole path keeps its place: read -> store -> predict -> write, judged by SimpleITK."""

import itertools

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from medssl.archive.scan import scan_folder
from medssl.archive.store import Store
from medssl.core.preprocess import Contract, prepare
from medssl.readers._dispatch import sample
from medssl.stages._cases import Case
from medssl.stages._predict_case import (
    Window,
    label_paths,
    outputs_of,
    predict_case,
    write_case,
)
from tests.scans import (
    LABELS,
    SHAPE_DHW,
    SPACING_WHD_MM,
    Threshold,
    blob_hu,
    centre_mm,
    oblique,
    save_dicom,
    save_nifti,
    stored_as,
    threshold_card,
)

sitk = pytest.importorskip("SimpleITK")

TURNS = list(
    itertools.product(itertools.permutations((0, 1, 2)), itertools.product((False, True), repeat=3))
)
OTHER_SPACING = (1.1, 1.0, 0.7)
LARGEST_ERROR_VOXELS = 0.1
LPS = np.array([-1.0, -1.0, 1.0])


def through(folder, out, spacing_mm):
    """Predict the one scan of a folder and write it; returns the file."""
    (found,) = scan_folder(folder).found
    card = threshold_card(spacing_mm)
    case = Case(record_id="id", name="case", channels=(found,))
    prediction = predict_case(Threshold(), card, case.channels, Window())
    outputs, _ = outputs_of(case, "nifti")
    write_case(out, case, prediction, outputs, card)
    return label_paths(out, case)[0]


def corners_lps(image):
    sides = [(0, n - 1) for n in image.GetSize()]
    return np.array([image.TransformIndexToPhysicalPoint(c) for c in itertools.product(*sides)])


def centroid_ras(image):
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(image)
    return np.array(shape.GetCentroid(1)) * LPS


def check(scan, result, wanted_mm):
    assert result.GetSize() == scan.GetSize()
    np.testing.assert_allclose(corners_lps(result), corners_lps(scan), atol=1e-3)
    error_mm = np.linalg.norm(centroid_ras(result) - wanted_mm)
    assert error_mm < LARGEST_ERROR_VOXELS * min(SPACING_WHD_MM)


@pytest.mark.parametrize("spacing_mm", [None, OTHER_SPACING])
@pytest.mark.parametrize("turn", TURNS)
def test_all_48_orientations_of_an_oblique_nifti(tmp_path, turn, spacing_mm):
    affine = oblique()
    path = save_nifti(tmp_path / "in" / "a.nii", *stored_as(turn, blob_hu(affine), affine))
    result = through(tmp_path / "in", tmp_path / "out", spacing_mm)
    check(sitk.ReadImage(str(path)), sitk.ReadImage(str(result)), centre_mm(affine))
    assert nib.load(path).affine.tobytes() == nib.load(result).affine.tobytes()


@pytest.mark.parametrize("spacing_mm", [None, OTHER_SPACING])
@pytest.mark.parametrize("degrees", [(0, 0, 0), (40, -44, 43), (88, 3, -91), (178, -60, 20)])
def test_any_angle(tmp_path, degrees, spacing_mm):
    affine = oblique(degrees)
    path = save_nifti(tmp_path / "in" / "a.nii.gz", blob_hu(affine), affine)
    result = through(tmp_path / "in", tmp_path / "out", spacing_mm)
    check(sitk.ReadImage(str(path)), sitk.ReadImage(str(result)), centre_mm(affine))


@pytest.mark.parametrize("spacing_mm", [None, OTHER_SPACING])
@pytest.mark.parametrize("turn", TURNS[::5])
def test_dicom_series_in_any_orientation(tmp_path, turn, spacing_mm):
    affine = oblique((21.0, -13.0, 33.0))
    folder = save_dicom(tmp_path / "in" / "series", *stored_as(turn, blob_hu(affine), affine))
    result = through(tmp_path / "in", tmp_path / "out", spacing_mm)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    scan, written = reader.Execute(), sitk.ReadImage(str(result))
    # GDCM and medssl may stack the slices from opposite ends: corners match as a set.
    assert cdist(corners_lps(scan), corners_lps(written)).min(axis=1).max() < 1e-3
    np.testing.assert_allclose(centroid_ras(written), centre_mm(affine), atol=0.08)
    found = sitk.Resample(written, scan, sitk.Transform(), sitk.sitkNearestNeighbor)
    above = sitk.GetArrayFromImage(scan) > -50
    assert (sitk.GetArrayFromImage(found).astype(bool) == above).mean() > 0.995


def test_sheared_nifti_keeps_its_place(tmp_path):
    # Gantry tilt: SimpleITK refuses it, nibabel does not.
    affine = oblique()
    affine[:3, 2] += 0.4 * affine[:3, 1]
    save_nifti(tmp_path / "in" / "a.nii", blob_hu(affine), affine, codes=(1, 0))
    written = nib.load(through(tmp_path / "in", tmp_path / "out", OTHER_SPACING))
    index = np.argwhere(np.asarray(written.dataobj) == 1).mean(axis=0)
    error_mm = written.affine[:3, :3] @ index + written.affine[:3, 3] - centre_mm(affine)
    assert np.linalg.norm(error_mm) < LARGEST_ERROR_VOXELS * min(SPACING_WHD_MM)


@pytest.mark.parametrize("spacing_mm", [None, OTHER_SPACING])
def test_store_holds_what_predict_sees(tmp_path, spacing_mm):
    affine = oblique()
    save_nifti(tmp_path / "in" / "a.nii", *stored_as(TURNS[29], blob_hu(affine), affine))
    (found,) = scan_folder(tmp_path / "in").found
    contract = Contract(spacing_mm=spacing_mm)
    scan = sample(found)
    prepared = prepare(scan.array, scan.geometry, "CT", contract)
    store = Store(tmp_path / "store", contract)
    store.put("key", prepared, "hash")
    size = prepared.array.shape[1:]
    assert np.array_equal(store.read("key", (0, 0, 0), size), prepared.array.astype(np.float32))
    assert np.array_equal(store.entry("key").affine, prepared.affine)
    # The blob in the store lies where it lies in the world, to a tenth of a voxel.
    weight = np.clip(prepared.array[0].astype(np.float64) - 0.05, 0, None)
    index = [(weight * i).sum() / weight.sum() for i in np.indices(weight.shape)][::-1]
    place = prepared.affine[:3, :3] @ index + prepared.affine[:3, 3]
    assert np.linalg.norm(place - centre_mm(affine)) < 0.1 * min(SPACING_WHD_MM)


def test_the_blob_is_a_ball_of_the_right_volume(tmp_path):
    affine = oblique()
    save_nifti(tmp_path / "in" / "a.nii", blob_hu(affine), affine)
    found = np.asarray(nib.load(through(tmp_path / "in", tmp_path / "out", None)).dataobj)
    assert found.shape == SHAPE_DHW[::-1]
    assert set(np.unique(found)) == set(LABELS)
    radius_mm = 6.0 * np.sqrt(2 * np.log(2))
    ball_mm3 = 4 / 3 * np.pi * radius_mm**3
    assert found.sum() * np.prod(SPACING_WHD_MM) == pytest.approx(ball_mm3, rel=0.02)
