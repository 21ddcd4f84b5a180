"""From labelled DICOM to a DICOM SEG: finetune on a hospital's folder, predict, evaluate."""

import numpy as np
import pydicom
import pytest

from medssl.stages import evaluate, finetune, predict
from tests.readers.label_files import circle as circle_mm
from tests.readers.label_files import series, write_rtstruct, write_seg
from tests.scans import oblique, save_dicom

SHAPE = (20, 40, 36)
AFFINE = oblique()


def patient(folder, number, labelled):
    """A bright ball, drawn as SEG by one hospital and as RTSTRUCT by another."""
    rng = np.random.default_rng(number)
    centre = np.array([10, 20, 18]) + rng.integers(-3, 4, 3)
    away = np.sqrt(((np.indices(SHAPE).transpose(1, 2, 3, 0) - centre) ** 2).sum(-1))
    hu = np.where(away < 6, 300.0, -200.0) + rng.normal(0, 20, SHAPE)
    sources = series(save_dicom(folder / "ct", hu, AFFINE, patient=f"P{number}"), AFFINE)
    if labelled == "seg":
        write_seg(folder / "seg.dcm", sources, (away < 6).astype(np.uint8), names=("ball",))
    if labelled == "rtstruct":
        slices = range(centre[0] - 5, centre[0] + 6)
        radii = {k: np.sqrt(36 - (k - centre[0]) ** 2) for k in slices}
        contours = [circle_mm(centre[1:], radii[k], k, AFFINE) for k in slices]
        write_rtstruct(folder / "rs.dcm", {"ball": contours}, sources[0])
    return away < 6


@pytest.mark.slow
def test_a_model_learns_from_dicom_labels_and_answers_in_dicom(tmp_path):
    for number in range(4):
        kind = "seg" if number % 2 else "rtstruct"
        patient(tmp_path / "train" / f"p{number}", number, kind)
    truth = patient(tmp_path / "new" / "p9", 9, None)
    trained = finetune.run(
        finetune.FinetuneConfig(
            data=tmp_path / "train", out=tmp_path / "run", steps=60, batch_size=2,
            crop=(16, 32, 32), workers=0,
        )
    )  # fmt: skip
    assert trained.exit_code == 0
    predict.run(
        predict.PredictConfig(input=tmp_path / "new", out=tmp_path / "out",
                              checkpoint=tmp_path / "run", device="cpu")
    )  # fmt: skip
    (seg,) = (tmp_path / "out").rglob("*_seg.dcm")
    assert pydicom.dcmread(seg).SegmentSequence[0].SegmentLabel == "ball"
    sources = series(tmp_path / "new" / "p9" / "ct", AFFINE)
    (tmp_path / "ref" / "p9").mkdir(parents=True)
    write_seg(
        tmp_path / "ref" / "p9" / "ct_3.dcm", sources, truth.astype(np.uint8), names=("ball",)
    )
    scored = evaluate.run(
        evaluate.EvaluateConfig(task="segmentation", pred=tmp_path / "out", ref=tmp_path / "ref",
                                out=tmp_path / "metrics.json")
    )  # fmt: skip
    assert scored.result["dice"]["mean"] > 0.8
