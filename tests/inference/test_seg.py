"""The SEG writer, read back by highdicom, SimpleITK and our own reader; checked by dciodvfy."""

import itertools
import logging
import subprocess

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from medssl.core.errors import ReadError
from medssl.inference.seg import tilt_problem, write_seg
from medssl.readers._dicom_sources import slice_sources
from medssl.readers._read import found_in
from medssl.readers.labels import labels_on_grid
from tests.readers.label_files import LPS, canonical
from tests.scans import oblique, save_dicom, stored_as

SHAPE = (9, 8, 7)
LABELS = np.zeros(SHAPE, np.uint8)
LABELS[2:5, 1:6, 2:5], LABELS[5:8, 5:8, 1:3] = 1, 2
NAMES = {0: "background", 1: "liver", 2: "spleen"}
AFFINE = oblique()
TURNS = list(
    itertools.product(itertools.permutations(range(3)), itertools.product((False, True), repeat=3))
)
MODEL = "ab" * 32


def scan(folder, affine=AFFINE, shape=SHAPE, **more):
    """A series as our reader sees it: record and sources."""
    (found,), _ = found_in(save_dicom(folder, np.zeros(shape), affine, **more))
    return found, slice_sources(found)


def write(path, labels, found, sources, names=NAMES):
    write_seg(path, labels, found.geometry.affine, sources, names, weights_sha256=MODEL)
    return path


def centroid_mm(labels_DHW, affine):
    w, h, d = np.argwhere(labels_DHW > 0).mean(axis=0)[::-1]
    return affine @ [w, h, d, 1]


@pytest.fixture
def written(tmp_path):
    found, sources = scan(tmp_path / "ct")
    return write(tmp_path / "seg.dcm", LABELS, found, sources)


@pytest.mark.parametrize("turn", TURNS[::4])
@pytest.mark.parametrize("tilt_deg", [(0, 0, 0), (11, -17, 8)])
def test_highdicom_reads_the_same_voxels_at_the_same_place(tmp_path, turn, tilt_deg):
    turned, affine = stored_as(turn, LABELS, oblique(tilt_deg))
    found, sources = scan(tmp_path / "ct", affine, turned.shape)
    # The reader orders slices along their normal: bring the labels there by another library.
    wanted, place = canonical(np.ascontiguousarray(turned), affine)
    forward = nib.orientations.ornt_transform(
        nib.io_orientation(place), nib.io_orientation(found.geometry.affine)
    )
    on_scan = nib.orientations.apply_orientation(wanted, forward).transpose()
    path = write(tmp_path / "seg.dcm", on_scan, found, sources)

    volume = hd.seg.segread(path).get_volume(combine_segments=True, allow_missing_positions=True)
    theirs = nib.as_closest_canonical(nib.Nifti1Image(volume.array, LPS @ volume.affine))
    read = np.asarray(theirs.dataobj)
    assert {k: (read == k).sum() for k in (1, 2)} == {1: 45, 2: 18}
    for k in (1, 2):
        ours_mm = centroid_mm(np.equal(LABELS, k), oblique(tilt_deg))
        theirs_mm = centroid_mm((read == k).transpose(), theirs.affine)
        np.testing.assert_allclose(theirs_mm, ours_mm, atol=1e-3)
    back = labels_on_grid(path, found.geometry, found.shape[1:])
    np.testing.assert_array_equal(back.labels_DHW, on_scan)
    assert back.residual_mm < 1e-3 and back.names == NAMES


def test_frames_refer_to_the_image_they_were_made_from(tmp_path):
    found, sources = scan(tmp_path / "ct")
    seg = pydicom.dcmread(write(tmp_path / "seg.dcm", LABELS, found, sources))
    by_uid = {one.SOPInstanceUID: one for one, _ in sources}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        (reference,) = frame.DerivationImageSequence[0].SourceImageSequence
        image = by_uid[reference.ReferencedSOPInstanceUID]
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(position, image.ImagePositionPatient, atol=1e-6)
    (series,) = seg.ReferencedSeriesSequence
    named = {one.ReferencedSOPInstanceUID for one in series.ReferencedInstanceSequence}
    assert named == by_uid.keys()
    image = sources[0][0]
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName"):
        assert seg[keyword].value == image[keyword].value
    assert series.SeriesInstanceUID == image.SeriesInstanceUID != seg.SeriesInstanceUID


def test_the_algorithm_names_itself(written):
    for segment in pydicom.dcmread(written).SegmentSequence:
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
        assert (algorithm.AlgorithmName, MODEL in algorithm.AlgorithmParameters) == ("medssl", True)
        assert algorithm.AlgorithmFamilyCodeSequence[0].CodeMeaning == "Artificial Intelligence"


def test_simpleitk_reads_the_frames(written):
    frames = sitk.GetArrayFromImage(sitk.ReadImage(written))
    assert (frames > 0).sum() == (LABELS > 0).sum()


@pytest.mark.debian("dciodvfy")
@pytest.mark.parametrize("empty", [False, True])
def test_a_validator_finds_no_error(tmp_path, empty):
    found, sources = scan(tmp_path / "ct")
    path = write(tmp_path / "seg.dcm", LABELS * (not empty), found, sources)
    said = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False)
    assert "Error" not in said.stderr and "Segmentation" in said.stderr


def test_nothing_found_is_a_valid_empty_segmentation(tmp_path):
    found, sources = scan(tmp_path / "ct")
    path = write(tmp_path / "seg.dcm", LABELS * 0, found, sources)
    back = labels_on_grid(path, found.geometry, SHAPE)
    assert not back.labels_DHW.any() and back.names == NAMES


def test_labels_with_holes_in_their_numbers_keep_their_names(tmp_path):
    found, sources = scan(tmp_path / "ct")
    names = {0: "background", 5: "liver", 9: "spleen"}
    path = write(tmp_path / "seg.dcm", np.array([0, 5, 9], np.uint8)[LABELS], found, sources, names)
    assert labels_on_grid(path, found.geometry, SHAPE).names == NAMES
    back = labels_on_grid(path, found.geometry, SHAPE, names=names)
    np.testing.assert_array_equal(back.labels_DHW, np.array([0, 5, 9])[LABELS])


def test_names_beyond_ascii_survive(tmp_path):
    found, sources = scan(tmp_path / "ct")
    for one, _ in sources:
        one.SpecificCharacterSet, one.PatientName = "ISO_IR 100", "Müller^Jürgen"
    names = {0: "background", 1: "Geschwür\\links", 2: "肝" * 70}
    path = write(tmp_path / "seg.dcm", LABELS, found, sources, names)
    assert pydicom.dcmread(path).PatientName == "Müller^Jürgen"
    read = labels_on_grid(path, found.geometry, SHAPE).names
    assert read == {0: "background", 1: "Geschwür/links", 2: "肝" * 64}


def test_odd_values_of_the_source_reach_neither_log_nor_result(tmp_path, capsys, caplog):
    found, sources = scan(tmp_path / "ct", patient="DOE JOHN")
    for one, _ in sources:
        one.PatientSex, one.PatientBirthDate = "DOE", "last spring"
        one.InstitutionName = "SECRET"
    with caplog.at_level(logging.DEBUG):
        path = write(tmp_path / "seg.dcm", LABELS * 0, found, sources)
    said = capsys.readouterr()
    assert "DOE" not in caplog.text + said.out + said.err
    seg = pydicom.dcmread(path)
    assert (seg.PatientSex, seg.PatientBirthDate) == ("", "")
    assert b"SECRET" not in path.read_bytes()


def reason(tmp_path, found, sources, labels=LABELS):
    with pytest.raises(ReadError) as caught:
        write(tmp_path / "seg.dcm", labels, found, sources)
    assert not (tmp_path / "seg.dcm").exists()
    return caught.value.reason, caught.value.what


@pytest.mark.parametrize("keyword", ["FrameOfReferenceUID", "SOPInstanceUID", "StudyInstanceUID"])
def test_a_source_without_uids_cannot_be_referred_to(tmp_path, keyword):
    found, sources = scan(tmp_path / "ct")
    source = sources[3][0]
    source[keyword].value = ""
    source.file_meta = pydicom.dataset.FileMetaDataset()
    code, what = reason(tmp_path, found, sources)
    assert code == "seg_not_possible" and keyword in what


def test_sources_that_are_not_the_volumes_slices_are_refused(tmp_path):
    found, sources = scan(tmp_path / "ct")
    assert reason(tmp_path, found, sources[:-1])[0] == "seg_not_possible"
    assert "elsewhere" in reason(tmp_path, found, sources[::-1])[1]
    sources[0][0].Rows = 99
    assert "tiled" in reason(tmp_path, found, sources)[1]


def test_a_tilted_grid_is_refused_an_oblique_one_is_not():
    assert tilt_problem(AFFINE) == ""
    sheared = AFFINE.copy()
    sheared[:3, 2] += 0.3 * AFFINE[:3, 1]
    assert "tilt" in tilt_problem(sheared)


@pytest.mark.real
def test_frames_of_an_enhanced_file_are_referred_to_by_number(medssl_data, tmp_path):
    folder = medssl_data / "dcmqa_enh"
    found, _ = found_in(folder)
    several = [one for one in found if one.geometry.kind == "volume" and len(one.files) == 1]
    assert several
    for one in several[:3]:
        sources = slice_sources(one)
        labels = np.zeros(one.shape[1:], np.uint8)
        labels[1:-1, 10:20, 5:9] = 1
        path = write(tmp_path / "seg.dcm", labels, one, sources, {0: "b", 1: "a"})
        back = labels_on_grid(path, one.geometry, one.shape[1:])
        np.testing.assert_array_equal(back.labels_DHW, labels)
        seg = pydicom.dcmread(path)
        numbers = [
            frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
            for frame in seg.PerFrameFunctionalGroupsSequence
        ]
        wanted = sorted(frame + 1 for _, frame in sources[1:-1])
        assert sorted(numbers) == wanted


@pytest.mark.real
def test_a_real_mask_goes_out_as_seg_and_comes_back(medssl_data, tmp_path):
    folder = medssl_data / "ct_organs"
    (found,), _ = found_in(folder / "example_ct_dicom")
    mask = labels_on_grid(folder / "example_seg_dicom.nii.gz", found.geometry, found.shape[1:])
    values = np.unique(mask.labels_DHW)
    names = {int(v): f"organ {v}" if v else "background" for v in values}
    sources = slice_sources(found)
    code, what = reason(tmp_path, found, sources, mask.labels_DHW)
    assert code == "seg_not_possible" and "StudyInstanceUID" in what  # emptied by its anonymiser
    for one, _ in sources:
        one.StudyInstanceUID, one.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    path = write(tmp_path / "seg.dcm", mask.labels_DHW, found, sources, names)
    back = labels_on_grid(path, found.geometry, found.shape[1:], names=names)
    np.testing.assert_array_equal(back.labels_DHW, mask.labels_DHW)  # Dice 1 for every organ
    volume = hd.seg.segread(path).get_volume(combine_segments=True, allow_missing_positions=True)
    organ = int(values[-1])
    ours_mm = centroid_mm(mask.labels_DHW == organ, found.geometry.affine)
    theirs = np.argwhere(volume.array == len(values) - 1).mean(axis=0)
    np.testing.assert_allclose((LPS @ volume.affine @ [*theirs, 1]), ours_mm, atol=1e-3)


@pytest.mark.real
def test_uneven_real_slices_keep_their_own_positions(medssl_data, tmp_path):
    (found,), _ = found_in(medssl_data / "mr_oblique_series")
    labels = np.zeros(found.shape[1:], np.uint8)
    labels[3:9, 100:120, 90:130], labels[15, 5:9, 5:9] = 1, 2
    path = write(tmp_path / "seg.dcm", labels, found, slice_sources(found))
    back = labels_on_grid(path, found.geometry, found.shape[1:])
    np.testing.assert_array_equal(back.labels_DHW, labels)
