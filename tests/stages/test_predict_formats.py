"""predict --format: NIfTI, DICOM SEG or both, and what happens where a SEG is not possible."""

import json

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest

from medssl.core.errors import NothingUsableError, UsageError
from medssl.readers._read import found_in
from medssl.readers.labels import labels_on_grid
from medssl.stages import predict
from tests.scans import Threshold, blob_hu, oblique, save_dicom, save_nifti, threshold_card

AFFINE = oblique()
BLOB = blob_hu(AFFINE)


@pytest.fixture(autouse=True)
def model(monkeypatch):
    monkeypatch.setattr(predict, "load_model", lambda *_: (Threshold(), threshold_card()))


@pytest.fixture
def scans(tmp_path):
    save_nifti(tmp_path / "in" / "a.nii.gz", BLOB, AFFINE)
    save_dicom(tmp_path / "in" / "ct", BLOB, AFFINE)
    return tmp_path / "in"


def run(scans, tmp_path, **more):
    given = {"input": scans, "out": tmp_path / "out", "checkpoint": tmp_path / "model"}
    return predict.run(predict.PredictConfig(**{**given, "device": "cpu", **more}))


def label_maps(tmp_path):
    return sorted(f.relative_to(tmp_path / "out").as_posix() for f in tmp_path.rglob("*_seg.*"))


def ledger(tmp_path):
    lines = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    return [json.loads(line)["reason"] for line in lines]


@pytest.mark.parametrize(
    ("asked", "written", "refused"),
    [
        (None, ["a_seg.nii.gz", "ct_3_seg.dcm", "ct_3_seg.nii.gz"], []),
        ("nifti", ["a_seg.nii.gz", "ct_3_seg.nii.gz"], []),
        ("dicom-seg", ["ct_3_seg.dcm"], ["no_dicom_source"]),
        ("both", ["a_seg.nii.gz", "ct_3_seg.dcm", "ct_3_seg.nii.gz"], ["no_dicom_source"]),
    ],
)
def test_each_format_writes_its_files(scans, tmp_path, asked, written, refused):
    finished = run(scans, tmp_path, format=asked)
    assert label_maps(tmp_path) == written and ledger(tmp_path) == refused
    assert finished.exit_code == (4 if refused else 0)


def test_seg_and_nifti_hold_the_same_blob(scans, tmp_path):
    run(scans, tmp_path)
    nifti = nib.load(tmp_path / "out" / "ct_3_seg.nii.gz")
    labels_WHD = np.asarray(nifti.dataobj)
    volume = hd.seg.segread(tmp_path / "out" / "ct_3_seg.dcm").get_volume(combine_segments=True)
    assert volume.array.sum() == labels_WHD.sum() > 100
    centre = nifti.affine @ [*np.argwhere(labels_WHD).mean(axis=0), 1]
    theirs = np.diag([-1, -1, 1, 1]) @ volume.affine @ [*np.argwhere(volume.array).mean(axis=0), 1]
    np.testing.assert_allclose(theirs, centre, atol=1e-3)
    (found,), _ = found_in(scans / "ct")
    back = labels_on_grid(tmp_path / "out" / "ct_3_seg.dcm", found.geometry, found.shape[1:])
    np.testing.assert_array_equal(back.labels_DHW, labels_WHD.transpose())
    assert back.names == {0: "background", 1: "blob"}


def test_a_result_is_no_scan_for_the_next_run(scans, tmp_path):
    run(scans, tmp_path, format="dicom-seg")
    (tmp_path / "out" / "ct_3_seg.dcm").rename(scans / "ct" / "result.dcm")
    finished = run(scans, tmp_path, overwrite=True)
    assert (finished.result["predicted"], finished.result["skipped"]) == (2, {"label": 1})


def without_frame_of_reference(folder):
    for file in folder.glob("*.dcm"):
        one = pydicom.dcmread(file)
        del one.FrameOfReferenceUID
        one.save_as(file)


def test_where_a_seg_is_not_possible_the_nifti_stays(scans, tmp_path):
    without_frame_of_reference(scans / "ct")
    finished = run(scans / "ct", tmp_path)
    assert label_maps(tmp_path) == ["ct_3_seg.nii.gz"]
    assert (finished.exit_code, finished.result["skipped"]) == (0, {"seg_not_possible": 1})
    finished = run(scans / "ct", tmp_path, format="dicom-seg", overwrite=True)
    assert label_maps(tmp_path)[0].endswith("_seg.nii.gz")
    assert finished.exit_code == 4 and ledger(tmp_path) == ["seg_not_possible"]


def test_a_tilted_scan_gets_a_nifti(tmp_path):
    sheared = AFFINE.copy()
    sheared[:3, 2] += 0.2 * AFFINE[:3, 1]
    save_dicom(tmp_path / "in", blob_hu(sheared), sheared)
    finished = run(tmp_path / "in", tmp_path)
    assert [name[-7:] for name in label_maps(tmp_path)] == [".nii.gz"]
    assert finished.result["skipped"] == {"seg_not_possible": 1}


def test_dicom_seg_alone_of_niftis_is_nothing_usable(scans, tmp_path):
    with pytest.raises(NothingUsableError, match="no_dicom_source"):
        run(scans / "a.nii.gz", tmp_path, format="dicom-seg")
    assert label_maps(tmp_path) == []


def test_resume_completes_what_is_missing_and_keeps_its_format(scans, tmp_path):
    run(scans, tmp_path, format="both")
    seg = tmp_path / "out" / "ct_3_seg.dcm"
    seg.unlink()
    finished = run(scans, tmp_path, format="both", resume=True)
    assert seg.exists() and (finished.result["predicted"], finished.result["kept"]) == (1, 1)
    before = seg.read_bytes()
    finished = run(scans, tmp_path, format="both", resume=True)
    assert finished.result["predicted"] == 0 and seg.read_bytes() == before
    with pytest.raises(UsageError, match="format"):
        run(scans, tmp_path, format="nifti", resume=True)


def test_the_patient_is_named_in_the_seg_and_nowhere_else(scans, tmp_path):
    save_dicom(scans / "second", BLOB, AFFINE, patient="ROE^JANE")
    run(scans, tmp_path, hashed_names=True)
    holders = {
        file.name[-8:] for file in (tmp_path / "out").iterdir() if b"ROE" in file.read_bytes()
    }
    assert holders == {"_seg.dcm"}
