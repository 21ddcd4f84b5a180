"""predict: what is written for good scans, and what the ledger says of bad ones."""

import csv
import errno
import gzip
import json
import os
import stat

import nibabel as nib
import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from medssl.core.config import Component
from medssl.core.errors import NothingUsableError, ReadError, ResourceError, UsageError
from medssl.encoders.card import build_from_card, save_model
from medssl.inference import sliding, writers
from medssl.stages import _predict_session, predict
from tests.scans import (
    SPACING_WHD_MM,
    Threshold,
    blob_hu,
    oblique,
    save_dicom,
    save_nifti,
    threshold_card,
)

AFFINE = oblique()
BLOB = blob_hu(AFFINE)


@pytest.fixture
def model(monkeypatch, tmp_path):
    """The checkpoint is a threshold: its result is known."""
    card = {"card": threshold_card()}
    monkeypatch.setattr(predict, "load_model", lambda *_: (Threshold(), card["card"]))
    return card


@pytest.fixture
def scans(tmp_path):
    folder = tmp_path / "in"
    save_nifti(folder / "a.nii.gz", BLOB, AFFINE)
    save_dicom(folder / "DOE_JOHN" / "ct", BLOB, AFFINE)
    return folder


def run(scans, tmp_path, **more):
    given = {"input": scans, "out": tmp_path / "out", "checkpoint": tmp_path / "model"}
    return predict.run(predict.PredictConfig(**{**given, "device": "cpu", **more}))


def files(folder):
    return {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}


def ledger(tmp_path):
    lines = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def reasons(tmp_path):
    return sorted(line["reason"] for line in ledger(tmp_path))


def test_exactly_these_files_are_written(model, scans, tmp_path):
    finished = run(scans, tmp_path)
    assert finished.exit_code == 0
    assert files(tmp_path / "out") == {
        "a_seg.nii.gz", "a_preview.png",
        "DOE_JOHN/ct_3_seg.nii.gz", "DOE_JOHN/ct_3_seg.dcm", "DOE_JOHN/ct_3_preview.png",
        "labels.json", "volumes.csv", "quality.csv", "paths.parquet", "salt",
        "run.json", "config.yaml", "resolved.yaml", "quarantine.jsonl",
    }  # fmt: skip
    report = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (report["predicted"], report["quarantined"], report["exit_code"]) == (2, {}, 0)


def test_nifti_and_dicom_of_one_scan_agree(model, scans, tmp_path):
    run(scans, tmp_path)
    names = ("a_seg.nii.gz", "DOE_JOHN/ct_3_seg.nii.gz")
    a, b = (nib.load(tmp_path / "out" / name) for name in names)
    np.testing.assert_allclose(a.affine, b.affine, atol=1e-5)
    assert np.array_equal(a.dataobj, b.dataobj)


def test_volumes_are_those_of_the_label_maps(model, scans, tmp_path):
    run(scans, tmp_path)
    rows = list(csv.DictReader((tmp_path / "out" / "volumes.csv").open()))
    counted = (np.asarray(nib.load(tmp_path / "out" / "a_seg.nii.gz").dataobj) == 1).sum()
    assert len(rows) == 2
    assert {row["name"] for row in rows} == {"blob"}
    assert float(rows[0]["volume_mm3"]) == pytest.approx(counted * np.prod(SPACING_WHD_MM))


def test_identifiers_stay_in_file_names_and_the_owners_table(model, scans, tmp_path):
    save_nifti(scans / "DOE_JANE.nii.gz", BLOB * np.nan, AFFINE)
    run(scans, tmp_path)
    out = tmp_path / "out"
    for name in files(out) - {"paths.parquet", "DOE_JOHN/ct_3_seg.dcm"}:
        content = (out / name).read_bytes()
        content = gzip.decompress(content) if name.endswith(".gz") else content
        assert b"DOE" not in content, name
    assert stat.S_IMODE((out / "paths.parquet").stat().st_mode) == 0o600
    assert stat.S_IMODE((out / "salt").stat().st_mode) == 0o600
    table = pl.read_parquet(out / "paths.parquet")
    bad = table.filter(pl.col("record_id") == ledger(tmp_path)[0]["record_id"])
    assert bad["path"].to_list() == [str(scans / "DOE_JANE.nii.gz").encode()]


def test_hashed_names_hide_the_paths(model, scans, tmp_path):
    run(scans, tmp_path, hashed_names=True)
    assert not any("DOE" in name or name.startswith("a_") for name in files(tmp_path / "out"))
    assert len([name for name in files(tmp_path / "out") if name.endswith("_seg.nii.gz")]) == 2


def test_a_real_checkpoint_and_the_run_folder(scans, tmp_path):
    card = threshold_card(encoder=Component(name="resenc-xs"), patch_size=(16, 32, 32))
    torch.manual_seed(0)
    encoder = build_from_card(card)
    parts = {"encoder": encoder, "decoder": encoder.make_decoder(2)}
    card = save_model(tmp_path / "model" / "model", card, parts)
    finished = run(scans, tmp_path)
    assert finished.result["model"] == card.weights_sha256
    seg = nib.load(tmp_path / "out" / "a_seg.nii.gz")
    assert set(np.unique(seg.dataobj)) <= {0, 1}
    assert seg.affine.tobytes() == nib.load(scans / "a.nii.gz").affine.tobytes()


def test_one_file_is_an_input_too(model, scans, tmp_path):
    run(scans / "a.nii.gz", tmp_path)
    assert "a_seg.nii.gz" in files(tmp_path / "out")


def test_colliding_names_get_the_record_id(model, scans, tmp_path):
    save_nifti(scans / "A.nii", BLOB, AFFINE)
    save_dicom(scans / "DOE_JOHN" / "ct", BLOB[:-2], oblique((0, 0, 90)), prefix="other")
    assert run(scans, tmp_path).result["predicted"] == 4
    segs = [name for name in files(tmp_path / "out") if name.endswith("_seg.nii.gz")]
    assert len(segs) == 4
    assert "a_seg.nii.gz" not in segs


def test_label_folders_and_reports_are_no_scans(model, scans, tmp_path):
    save_nifti(scans / "labelsTr" / "a.nii.gz", (BLOB > 0).astype(np.uint8), AFFINE)
    (scans / "report.pdf").write_bytes(b"%PDF-1.4 ...")
    finished = run(scans, tmp_path)
    assert finished.exit_code == 0
    assert finished.result["skipped"] == {"label": 1, "pdf": 1}


def test_name_that_is_no_text(model, scans, tmp_path):
    (scans / "a.nii.gz").rename(os.fsdecode(os.fsencode(scans) + b"/caf\xe9.nii.gz"))
    assert run(scans, tmp_path).result["predicted"] == 2


# Several channels -------------------------------------------------------------------------------


def two_channels(model):
    model["card"] = threshold_card(in_channels=2, channels=("CT", "CT2"))


def test_channel_files_are_one_case(model, tmp_path):
    two_channels(model)
    for k in (0, 1):
        save_nifti(tmp_path / "in" / f"x_000{k}.nii.gz", BLOB, AFFINE)
    image = nib.Nifti1Image(np.stack([BLOB.T, BLOB.T], axis=-1), AFFINE)
    nib.save(image, tmp_path / "in" / "y.nii.gz")
    assert run(tmp_path / "in", tmp_path).result["predicted"] == 2
    a, b = (nib.load(tmp_path / "out" / f"{name}_seg.nii.gz") for name in "xy")
    assert np.array_equal(a.dataobj, b.dataobj)
    assert a.shape == b.shape == BLOB.T.shape


@pytest.mark.parametrize("second", ["missing", "shape", "place"])
def test_channels_that_do_not_fit_are_quarantined(model, tmp_path, second):
    two_channels(model)
    for case in ("good", "bad"):
        for k in (0, 1):
            save_nifti(tmp_path / "in" / f"{case}_000{k}.nii.gz", BLOB, AFFINE)
    odd = tmp_path / "in" / "bad_0001.nii.gz"
    odd.unlink()
    if second == "shape":
        save_nifti(odd, BLOB[:-1], AFFINE)
    if second == "place":
        save_nifti(odd, BLOB, oblique((0, 0, 0)))
    assert run(tmp_path / "in", tmp_path).exit_code == 4
    assert reasons(tmp_path) == ["channel_mismatch"]


# Bad input --------------------------------------------------------------------------------------


def truncated(folder):
    path = save_nifti(folder / "bad.nii.gz", BLOB, AFFINE)
    path.write_bytes(path.read_bytes()[:-2000])


def zero_bytes(folder):
    (folder / "bad.nii.gz").write_bytes(b"")


def text_as_dicom(folder):
    (folder / "bad.dcm").write_text("this is not DICOM")


def nan_affine(folder):
    path = save_nifti(folder / "bad.nii", BLOB, AFFINE)
    content = bytearray(path.read_bytes())
    content[280:284] = np.float32("nan").tobytes()  # srow_x[0]
    path.write_bytes(content)


def nan_voxels(folder):
    x = BLOB.copy()
    x[3, 4, 5] = np.nan
    save_nifti(folder / "bad.nii.gz", x, AFFINE)


def two_slices(folder):
    save_dicom(folder / "bad", BLOB[:2], AFFINE)


def constant(folder):
    save_nifti(folder / "bad.nii.gz", BLOB * 0 + 40, AFFINE)


def no_geometry(folder):
    save_nifti(folder / "bad.nii.gz", BLOB, AFFINE, codes=(0, 0))


def other_modality(folder):
    save_dicom(folder / "bad", BLOB, AFFINE, modality="MR")


BAD = {
    truncated: {"truncated", "corrupt"},
    zero_bytes: {"empty_file"},
    text_as_dicom: {"not_dicom"},
    nan_affine: {"bad_geometry"},
    nan_voxels: {"nan_voxels"},
    two_slices: {"too_few_slices"},
    constant: {"constant"},
    no_geometry: {"geometry_unknown"},
    other_modality: {"modality_mismatch"},
}


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_bad_scan_is_in_the_ledger_and_nothing_else_is_lost(model, scans, tmp_path, make):
    make(scans)
    finished = run(scans, tmp_path)
    assert finished.exit_code == 4
    assert finished.result["predicted"] == 2
    assert set(reasons(tmp_path)) <= BAD[make]
    assert len(ledger(tmp_path)) >= 1
    assert not any("bad" in name for name in files(tmp_path / "out"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_file_that_may_not_be_read(model, scans, tmp_path):
    save_nifti(scans / "bad.nii.gz", BLOB, AFFINE).chmod(0)
    assert run(scans, tmp_path).exit_code == 4
    assert reasons(tmp_path) == ["unreadable"]


def test_file_that_fails_between_scan_and_read(model, scans, tmp_path, monkeypatch):
    path = save_nifti(scans / "bad.nii.gz", BLOB, AFFINE)

    def scan_then_lose(*given, **more):
        found = scan_input(*given, **more)
        path.unlink()
        return found

    scan_input = _predict_session.scan_input
    monkeypatch.setattr(_predict_session, "scan_input", scan_then_lose)
    assert run(scans, tmp_path).exit_code == 4
    assert reasons(tmp_path) == ["unreadable"]


@pytest.mark.parametrize("make", [lambda folder: None, text_as_dicom, constant])
def test_nothing_usable(model, tmp_path, make):
    (tmp_path / "in").mkdir()
    make(tmp_path / "in")
    with pytest.raises(NothingUsableError) as caught:
        run(tmp_path / "in", tmp_path)
    assert caught.value.exit_code == 3
    assert json.loads((tmp_path / "out" / "run.json").read_text())["exit_code"] == 3


def out_of_memory(*_given, **_more):
    raise ReadError("out_of_memory", "out of memory")


def test_out_of_memory_everywhere_is_a_lack_of_resources(model, scans, tmp_path, monkeypatch):
    monkeypatch.setattr("medssl.stages._predict_case.predict_scores", out_of_memory)
    with pytest.raises(ResourceError) as caught:
        run(scans, tmp_path)
    assert caught.value.exit_code == 6
    assert reasons(tmp_path) == ["out_of_memory"] * 2


def test_out_of_memory_on_one_scan_spares_the_rest(model, scans, tmp_path, monkeypatch):
    calls = []

    def first_fails(*given, **more):
        calls.append(1)
        return out_of_memory() if len(calls) == 1 else sliding.predict_scores(*given, **more)

    monkeypatch.setattr("medssl.stages._predict_case.predict_scores", first_fails)
    assert run(scans, tmp_path).exit_code == 4


def test_full_disk_stops_the_run(model, scans, tmp_path, monkeypatch):
    def full(path, data, **more):
        raise writers.disk_error(OSError(errno.ENOSPC, "full"))

    monkeypatch.setattr(writers, "write_bytes", full)
    with pytest.raises(ResourceError) as caught:
        run(scans, tmp_path)
    assert caught.value.exit_code == 6


# Safety of what exists --------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["in", "in/sub", ".", "model", "model/predictions"])
def test_output_among_scans_or_model_is_refused(model, scans, tmp_path, where):
    (tmp_path / "model").mkdir()
    with pytest.raises(UsageError, match="overlap"):
        run(scans, tmp_path, out=tmp_path / where, overwrite=True)
    assert (scans / "a.nii.gz").exists()


def test_inputs_are_left_as_they_were(model, scans, tmp_path):
    before = {name: (scans / name).read_bytes() for name in files(scans)}
    run(scans, tmp_path)
    assert before == {name: (scans / name).read_bytes() for name in files(scans)}


def test_used_output_needs_resume_or_overwrite(model, scans, tmp_path):
    run(scans, tmp_path)
    with pytest.raises(UsageError, match="not empty"):
        run(scans, tmp_path)
    assert run(scans, tmp_path, overwrite=True).result["predicted"] == 2


def test_resume_predicts_only_what_is_missing(model, scans, tmp_path):
    run(scans, tmp_path)
    out = tmp_path / "out"
    before = (out / "volumes.csv").read_text()
    kept = (out / "a_seg.nii.gz").stat().st_mtime_ns
    (out / "DOE_JOHN" / "ct_3_seg.nii.gz").unlink()
    again = run(scans, tmp_path, resume=True)
    assert (again.result["predicted"], again.result["kept"]) == (1, 1)
    assert (out / "a_seg.nii.gz").stat().st_mtime_ns == kept
    assert sorted((out / "volumes.csv").read_text().split()) == sorted(before.split())


def test_resume_forgets_what_was_repaired(model, scans, tmp_path):
    constant(scans)
    assert run(scans, tmp_path).exit_code == 4
    save_nifti(scans / "bad.nii.gz", BLOB, AFFINE)
    assert run(scans, tmp_path, resume=True).exit_code == 0
    assert ledger(tmp_path) == []


def test_resume_with_another_model_is_refused(model, scans, tmp_path):
    run(scans, tmp_path)
    model["card"] = threshold_card(weights_sha256="1" * 64)
    with pytest.raises(UsageError, match="another model"):
        run(scans, tmp_path, resume=True)


def test_preview_is_a_picture(model, scans, tmp_path):
    run(scans, tmp_path)
    assert Image.open(tmp_path / "out" / "a_preview.png").format == "PNG"


@pytest.mark.parametrize("device", ["gpu0", "cuda:99"])
def test_a_device_that_is_not_here_is_wrong_usage(model, scans, tmp_path, device):
    with pytest.raises(UsageError, match="is not here"):
        run(scans, tmp_path, device=device)
