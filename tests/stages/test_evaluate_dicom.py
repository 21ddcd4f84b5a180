"""evaluate: DICOM SEG and RTSTRUCT as references."""

import json

import numpy as np
import pytest

from medssl.core.errors import MedsslError, ReadError
from medssl.stages import evaluate
from tests.readers.label_files import in_mm, series, write_rtstruct, write_seg
from tests.scans import oblique, save_dicom, save_nifti

SHAPE = (6, 12, 10)
AFFINE = oblique()
LABEL = np.zeros(SHAPE, np.uint8)
LABEL[1:4, 2:6, 2:5], LABEL[2:5, 7:11, 5:9] = 1, 2
NAMES = {"0": "background", "1": "spleen", "2": "liver"}


@pytest.fixture
def folders(tmp_path):
    """A perfect prediction and a SEG whose segments have other numbers."""
    sources = series(save_dicom(tmp_path / "ct", np.zeros(SHAPE), AFFINE), AFFINE)
    (tmp_path / "ref").mkdir()
    turned = np.array([0, 2, 1], np.uint8)[LABEL]
    write_seg(tmp_path / "ref" / "a.dcm", sources, turned, names=("liver", "spleen"))
    save_nifti(tmp_path / "pred" / "a_seg.nii.gz", LABEL, AFFINE)
    (tmp_path / "pred" / "labels.json").write_text(json.dumps(NAMES))
    return tmp_path, sources


def run(tmp_path):
    given = {"task": "segmentation", "pred": tmp_path / "pred", "ref": tmp_path / "ref"}
    config = evaluate.EvaluateConfig(**given, out=tmp_path / "metrics.json", overwrite=True)
    return evaluate.run(config).result


def test_segments_are_matched_by_name(folders):
    tmp_path, _ = folders
    result = run(tmp_path)
    assert result["dice"]["mean"] == 1 and set(result["dice"]["per_label"]) == {"spleen", "liver"}


def test_contours_are_a_reference_too(folders):
    tmp_path, sources = folders
    box = [(1.5, 1.5), (4.5, 1.5), (4.5, 5.5), (1.5, 5.5)]
    contours = [in_mm([(*point, k) for point in box], AFFINE) for k in (1, 2)]
    write_rtstruct(tmp_path / "ref" / "a.dcm", {"spleen": contours}, sources[0])
    rows = {row["label"]: row["dice"] for row in run(tmp_path)["cases"]}
    assert rows["spleen"] == pytest.approx(2 * 24 / (24 + 36))  # two of three slices
    assert rows["liver"] == 0


def test_a_nifti_of_the_same_name_comes_first(folders):
    tmp_path, _ = folders
    save_nifti(tmp_path / "ref" / "a.nii.gz", LABEL, AFFINE)
    (tmp_path / "ref" / "a.dcm").write_bytes(b"")
    assert run(tmp_path)["dice"]["mean"] == 1


def test_names_are_needed_and_the_grid_must_fit(folders):
    tmp_path, _ = folders
    (tmp_path / "pred" / "labels.json").rename(tmp_path / "labels.json")
    with pytest.raises(MedsslError, match="names"):
        run(tmp_path)
    (tmp_path / "labels.json").rename(tmp_path / "pred" / "labels.json")
    moved = AFFINE.copy()
    moved[:3, 3] += AFFINE[:3, 0] / 2
    save_nifti(tmp_path / "pred" / "a_seg.nii.gz", LABEL, moved)
    with pytest.raises(ReadError) as caught:
        run(tmp_path)
    assert caught.value.reason == "label_affine_mismatch"
