"""Calibration from end to end: fitted on validation, applied by predict, and what is referred."""

import csv
import json
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import polars as pl
import pytest
import torch

from medssl.core.errors import UsageError
from medssl.encoders.card import Calibration, load_card
from medssl.evaluation.calibration import nll, temper
from medssl.heads.segmentation import load_model
from medssl.inference.writers import read_probabilities
from medssl.stages import finetune, predict
from medssl.stages._calibrate import of_classes, of_masks, of_tools, region, voxels
from medssl.stages._predict_quality import refer_rule
from medssl.stages.finetune import FinetuneConfig
from medssl.stages.predict import PredictConfig
from tests.scans import LABELS, Threshold, blob_hu, oblique, save_nifti, threshold_card
from tests.training_archive import save, volume, write_labelled

AFFINE = oblique()
BLOB = blob_hu(AFFINE)
OPTIONS = {
    "crop": (16, 32, 16), "batch_size": 2, "accelerator": "cpu", "quiet": True, "check_every": 2,
}  # fmt: skip


class Soft(Threshold):
    """A threshold that is in doubt where a voxel is near it."""

    def forward(self, x):
        return super().forward(x) / 10


def known(temperature=1.0, quality=(0.5, 0.7, 0.8, 0.9), **more):
    score = more.pop("score", quality)
    return Calibration(
        temperature=temperature, quality=quality, score=score, never_absent=(True, True), **more
    )


def run(scans, out, monkeypatch, calibration=None, **more):
    card = threshold_card(calibration=calibration)
    monkeypatch.setattr(predict, "load_model", lambda *_: (Soft(), card))
    given = {"input": scans, "out": out, "checkpoint": out.parent / "model", "device": "cpu"}
    return predict.run(PredictConfig(**{**given, **more}))


def rows(out):
    with (out / "quality.csv").open() as file:
        return list(csv.DictReader(file))


def names_by_quality(out):
    """Names of the scans, the worst first."""
    table = pl.read_parquet(out / "paths.parquet").select("record_id", "path")
    names = {record_id: path.decode().rsplit("/", 1)[1] for record_id, path in table.rows()}
    return [names[row["record_id"]] for row in sorted(rows(out), key=lambda r: float(r["quality"]))]


# Fine-tuning ------------------------------------------------------------------------------------


def test_finetune_fits_a_temperature_on_its_validation_patients(tmp_path):
    data = write_labelled(tmp_path / "data", 12)
    finished = finetune.run(FinetuneConfig(data=data, out=tmp_path / "ft", steps=4, **OPTIONS))
    found = load_card(tmp_path / "ft")[0].calibration
    assert len(found.quality) == len(found.score) == finished.result["val_cases"] == 2
    assert found.never_absent == (True, True, True)
    assert finished.result["calibration"]["temperature"] == pytest.approx(
        found.temperature, abs=1e-4
    )
    best, last = (load_card(tmp_path / "ft" / name)[0] for name in ("model_best", "model"))
    same = best.weights_sha256 == last.weights_sha256
    assert (best.calibration == last.calibration) == same
    assert load_model(tmp_path / "ft" / "model_best", "cpu")


def test_without_validation_there_is_no_temperature_and_the_run_says_so(tmp_path):
    data = write_labelled(tmp_path / "data", 4)
    finished = finetune.run(FinetuneConfig(data=data, out=tmp_path / "ft", steps=2, **OPTIONS))
    assert load_card(tmp_path / "ft")[0].calibration is None
    assert "no validation" in finished.result["uncalibrated"]


def test_the_temperature_is_the_best_for_the_voxels_near_the_mask():
    rng = np.random.default_rng(0)
    logits = np.stack([np.zeros((8, 24, 24)), 4 - 0.6 * np.hypot(*np.indices((24, 24)) - 12.0) +
                       np.zeros((8, 24, 24))])  # fmt: skip
    true = 1 / (1 + np.exp(-logits[1]))
    label = (rng.random(true.shape) < true).astype(np.uint8)
    sharp = 1 / (1 + np.exp(-3 * logits[1]))
    found = of_masks([voxels(np.stack([1 - sharp, sharp]).astype(np.float32), label)] * 2)
    assert found.temperature == pytest.approx(3, rel=0.15)
    assert found.quality[0] == pytest.approx(found.score[0], abs=0.03)


def test_a_box_around_what_was_predicted_reaches_beyond_it_and_stays_inside():
    found = np.zeros((20, 20, 100), dtype=int)
    found[0:4, 10:14, 40:80] = 1
    assert region(found) == (slice(0, 9), slice(5, 19), slice(30, 90))
    assert region(found * 0) == (slice(0, 20), slice(0, 20), slice(0, 100))


def test_voxels_of_a_large_case_stand_for_all_of_it(monkeypatch):
    rng = np.random.default_rng(1)
    p = rng.dirichlet([1, 1, 1], (20, 30, 40)).transpose(3, 0, 1, 2)
    label = rng.integers(0, 3, (20, 30, 40))
    whole = voxels(p, label)
    monkeypatch.setattr("medssl.stages._calibrate.MOST_VOXELS", 6000)
    few = voxels(p, label)
    assert len(few.label_N) == 6000
    assert few.weight_N.sum() == pytest.approx(whole.weight_N.sum())
    assert nll(few.p_NK, few.label_N, few.weight_N) == pytest.approx(
        nll(whole.p_NK, whole.label_N), rel=0.03
    )


def test_every_video_counts_the_same_however_long():
    rng = np.random.default_rng(2)
    p = rng.dirichlet([1, 1, 1], 400)
    label = (p.cumsum(1) < rng.random((400, 1))).sum(1)
    wrong = temper(p, 0.4)
    short = of_classes([p, wrong], [label, label])
    long = of_classes([np.tile(p, (5, 1)), wrong], [np.tile(label, 5), label])
    assert long.temperature == pytest.approx(short.temperature)
    assert short.quality[1] == pytest.approx(long.quality[1])


def test_no_error_on_validation_leaves_probabilities_as_they_are():
    found = of_classes([np.array([[0.8, 0.2]])] * 3, [np.array([0])] * 3)
    assert (found.temperature, found.fitted) == (1.0, False)
    assert found.quality == pytest.approx((0.8, 0.8, 0.8))


def test_tools_are_calibrated_as_single_events():
    rng = np.random.default_rng(3)
    true = rng.random((3000, 2))
    sharp = temper(np.stack([true, 1 - true]), 0.5, axis=0)[0]
    found = of_tools([sharp], [rng.random((3000, 2)) < true])
    assert found.temperature == pytest.approx(2, rel=0.1)
    assert found.quality[0] == pytest.approx(found.score[0], abs=0.02)


# Predict ----------------------------------------------------------------------------------------


def test_a_temperature_changes_no_bit_of_the_segmentation(tmp_path, monkeypatch):
    scan = save_nifti(tmp_path / "in" / "a.nii.gz", BLOB, AFFINE).parent
    run(scan, tmp_path / "plain", monkeypatch)
    run(scan, tmp_path / "hot", monkeypatch, known(temperature=4.0))
    name = "a_seg.nii.gz"
    assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "hot" / name).read_bytes()
    [plain], [hot] = rows(tmp_path / "plain"), rows(tmp_path / "hot")
    assert float(hot["quality"]) < float(plain["quality"]) - 0.05
    assert float(hot["dice_blob"]) == float(hot["quality"])


def damaged(kind):
    """The blob as a scan that the model was not made for."""
    rng = np.random.default_rng(0)
    return {
        "pale": -1000 + 0.55 * (BLOB + 1000),
        "empty": np.full_like(BLOB, -1000) + rng.normal(0, 5, BLOB.shape),
    }[kind]


def test_damaged_scans_are_the_ones_that_are_referred(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    for k in range(4):
        save_nifti(
            tmp_path / "in" / f"good{k}.nii.gz", BLOB + rng.normal(0, 20, BLOB.shape), AFFINE
        )
    for kind in ("pale", "empty"):
        save_nifti(tmp_path / "in" / f"{kind}.nii.gz", damaged(kind), AFFINE)
    run(tmp_path / "in", tmp_path / "first", monkeypatch)
    assert set(names_by_quality(tmp_path / "first")[:2]) == {"pale.nii.gz", "empty.nii.gz"}
    ordered = sorted(rows(tmp_path / "first"), key=lambda row: float(row["quality"]))
    good = [float(row["quality"]) for row in ordered[2:]]
    finished = run(
        tmp_path / "in", tmp_path / "out", monkeypatch, known(quality=tuple(good)), refer_share=0.0
    )
    assert finished.result["referred"] == 2
    referred = {row["record_id"] for row in rows(tmp_path / "out") if row["refer"] == "yes"}
    assert set(finished.result["refer"]["records"]) == referred
    assert json.loads((tmp_path / "out" / "run.json").read_text())["refer"]["below"] == min(good)


def test_results_and_table_go_on_where_they_stopped(tmp_path, monkeypatch):
    for name in "ab":
        save_nifti(tmp_path / "in" / f"{name}.nii.gz", BLOB, AFFINE)
    out = tmp_path / "out"
    run(tmp_path / "in", out, monkeypatch, known())
    before = rows(out)
    (out / "b_seg.nii.gz").unlink()
    with (out / "quality.csv").open("a") as file:
        file.write("torn,0.")
    finished = run(tmp_path / "in", out, monkeypatch, known(), resume=True)
    assert (finished.result["predicted"], finished.result["kept"]) == (1, 1)
    assert sorted(rows(out), key=str) == sorted(before, key=str)
    with pytest.raises(UsageError, match="refer_below"):
        run(tmp_path / "in", out, monkeypatch, known(), resume=True, refer_share=0.5)


def rule(*calibrations, max_risk=None, refer_share=None):
    cards = [threshold_card(calibration=one) for one in calibrations]
    return refer_rule(cards, SimpleNamespace(max_risk=max_risk, refer_share=refer_share))


def test_the_threshold_is_that_of_the_validation_cases_and_the_highest_of_members():
    one, other = known(), known(quality=(0.6, 0.75, 0.8, 0.9))
    assert rule(one).below == 0.5
    assert rule(one, other).below == 0.6
    assert rule(one, refer_share=0.5).below == 0.8
    # Kept from 0.7 up: risks 0.3, 0.2, 0.1.
    assert rule(one, max_risk=0.2).below == 0.7
    assert rule(None).below is None


def test_thresholds_that_cannot_be_are_refused():
    with pytest.raises(UsageError, match="no validation"):
        rule(None, max_risk=0.1)
    with pytest.raises(UsageError, match="both"):
        rule(known(), max_risk=0.1, refer_share=0.1)
    with pytest.raises(UsageError, match="no threshold"):
        rule(known(), max_risk=0.05)


def test_probabilities_are_written_as_calibrated_and_their_largest_is_the_label(
    tmp_path, monkeypatch
):
    scan = save_nifti(tmp_path / "in" / "a.nii.gz", BLOB, AFFINE).parent
    run(scan, tmp_path / "out", monkeypatch, known(temperature=2.0), probabilities=True)
    p_KDHW = read_probabilities(tmp_path / "out" / "a_prob.npz")
    labels = np.asarray(nib.load(tmp_path / "out" / "a_seg.nii.gz").dataobj).transpose(2, 1, 0)
    assert p_KDHW.shape == (len(LABELS), *BLOB.shape)
    away = np.abs(p_KDHW[1] - 0.5) > 1e-4
    assert np.array_equal(p_KDHW.argmax(0)[away], labels[away])
    scaled = torch.from_numpy(np.clip((BLOB + 1024) / 2048, 0, 1))[None, None].half().float()
    wanted = (Soft()(scaled) / 2).softmax(1)[0].numpy()
    assert np.abs(p_KDHW - wanted).max() < 0.02


@pytest.mark.slow
def test_a_trained_model_refers_scans_of_another_kind(tmp_path):
    data = write_labelled(tmp_path / "data", 12)
    finetune.run(FinetuneConfig(data=data, out=tmp_path / "ft", steps=150, lr=2e-3,
                                **{**OPTIONS, "check_every": 150}))  # fmt: skip
    rng = np.random.default_rng(0)
    for seed in range(50, 56):
        image, _ = volume(seed)
        save(tmp_path / "in" / f"good{seed}.nii.gz", image)
        save(tmp_path / "in" / f"inverted{seed}.nii.gz", 350 - image)
        save(tmp_path / "in" / f"noise{seed}.nii.gz", image + rng.normal(0, 120, image.shape))
    predict.run(PredictConfig(input=tmp_path / "in", out=tmp_path / "out", device="cpu",
                              checkpoint=tmp_path / "ft"))  # fmt: skip
    assert all(name.startswith("good") for name in names_by_quality(tmp_path / "out")[12:])
