"""report: one page that holds what a run is, and nothing that names a patient or a file."""

import base64
import io
import json
import os
import re
import shutil
import subprocess

import numpy as np
import polars as pl
import pytest
from PIL import Image

import medssl
from medssl.core.errors import UsageError
from medssl.stages import report
from medssl.stages._report_facts import measures_of
from medssl.stages._report_map import map_of
from tests.training_archive import write_images, write_labelled

TRAINING = {
    "encoder": "vit3d-xs",
    "crop": [16, 32, 16],
    "batch_size": 2,
    "steps": 2,
    "log_every": 1,
    "accelerator": "cpu",
    "quiet": True,
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    write_images(root / "Holzapfelin")
    write_labelled(root / "labelled")
    medssl.index(root / "Holzapfelin", out=root / "catalog", quiet=True)
    medssl.pretrain(data=root / "catalog", out=root / "pre", check_every=1, **TRAINING)
    medssl.finetune(task="segmentation", data=root / "labelled", out=root / "fine",
                    **{**TRAINING, "encoder": "resenc-xs"})  # fmt: skip
    scans, labels = (root / "labelled" / part for part in ("imagesTr", "labelsTr"))
    medssl.predict(scans, out=root / "pred", checkpoint=root / "fine", device="cpu")
    medssl.evaluate(task="segmentation", pred=root / "pred", ref=labels, out=root / "metrics.json")
    return root


def page_of(site, tmp_path, run, **more):
    medssl.report(site / run, out=tmp_path / "page", **more)
    return (tmp_path / "page" / report.PAGE).read_text()


def fine_page(site, tmp_path, **more):
    files = {"pred": site / "pred", "metrics": [site / "metrics.json"]}
    return page_of(site, tmp_path, "fine", **files, **more)


def pictures_of(page, name):
    uris = re.findall(rf'<img {name}[^>]*src="data:image/png;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(uri))) for uri in uris]


def test_the_numbers_of_evaluate_stand_on_the_page(site, tmp_path):
    page = fine_page(site, tmp_path)
    dice = json.loads((site / "metrics.json").read_text())["dice"]
    assert f"{dice['mean']:.4g}" in page and f"{dice['per_label']['core']['mean']:.4g}" in page
    assert page.count('<figure class="viewer">') == 4


def test_the_rows_of_a_probe_stand_on_the_page(site, tmp_path):
    auroc = {"mean": 0.8125, "n": 20, "per_label": {"ill": {"mean": 0.7625}}}
    kinds, odd = ["this checkpoint", "random weights"], {"rows": "reference"}
    rows = [{"features": kind, "auroc": auroc, "confusion": odd} for kind in kinds]
    (tmp_path / "p.json").write_text(json.dumps({"probe": "knn", "rows": rows}))
    page = page_of(site, tmp_path, "pre", metrics=[tmp_path / "p.json"])
    for kind in kinds:
        assert f"{kind}, auroc</td>" in page
    assert page.count("0.8125") == 2 and page.count("0.7625") == 2


def test_results_are_numbered_as_given_and_bear_no_name_of_a_file(site, tmp_path):
    files = [tmp_path / name for name in ("Meier_Hans_1950.json", "Abel_Ida_1931.json")]
    for file, mean in zip(files, (0.9125, 0.8375), strict=True):
        cases = [{"case": k, "dice": mean, "label": "core"} for k in "ab"]
        file.write_text(json.dumps({"dice": {"mean": mean, "n": 2}, "cases": cases}))
    page = page_of(site, tmp_path, "fine", metrics=files)
    places = [page.index(text) for text in ("Results 1", "0.9125", "Results 2", "0.8375")]
    assert places == sorted(places)
    assert "Meier" not in page and "Abel" not in page


def test_how_sure_the_predictions_are_stands_beside_them(site, tmp_path):
    content = json.loads((site / "metrics.json").read_text())
    bins = [[10, 0.55, 0.5], [30, 0.9, 0.8]]
    content["calibration"] = {"ece": 0.0875, "ece_equal_mass": 0.09, "nll": 0.4, "brier": 0.3,
                              "bins": bins}  # fmt: skip
    (tmp_path / "m.json").write_text(json.dumps(content))
    page = page_of(site, tmp_path, "fine", metrics=[tmp_path / "m.json"])
    assert "<h2>Reliability</h2>" in page and "0.087" in page
    assert "Reliability" not in fine_page(site, tmp_path, overwrite=True)


def test_the_worst_case_comes_first(site, tmp_path):
    found = re.findall(r"case (\d+): Dice ([\d.]+)", fine_page(site, tmp_path))
    assert [int(k) for k, _ in found] == [1, 2, 3, 4]
    values = [float(dice) for _, dice in found]
    assert values == sorted(values)


def test_the_overlay_shows_the_predicted_voxels(site, tmp_path):
    # One label everywhere inside a known box: the overlays' opaque pixels are that box.
    pred = tmp_path / "pred"
    shutil.copytree(site / "pred", pred)
    for path in pred.glob("*_seg.nii.gz"):
        labels = np.zeros_like(medssl.read(path).array[0])
        labels[5, 8:18, 4:9] = 1
        image = __import__("nibabel").load(path)
        new = type(image)(labels.T.astype(np.uint8), image.affine, image.header)
        __import__("nibabel").save(new, path)
    page = page_of(site, tmp_path, "fine", pred=pred)
    for over in pictures_of(page, 'class="over"'):
        assert (np.asarray(over)[..., 3] > 0).sum() == 10 * 5
    assert len(pictures_of(page, 'class="over"')) == 4


def test_visible_tokens_are_drawn_as_they_are(site, tmp_path):
    page = page_of(site, tmp_path, "pre", data=site / "catalog")
    drawn = pictures_of(page, "alt=")
    assert len(drawn) == 4
    whole, seen, rebuilt = np.split(np.asarray(drawn[0]), 3, axis=1)
    shown = seen == whole  # hidden parts are grey
    assert 0.1 < shown.mean() < 0.6
    np.testing.assert_allclose(rebuilt[shown].astype(int), whole[shown].astype(int), atol=1)


def test_without_checkpoints_or_pixels_the_page_says_why(site, tmp_path):
    shutil.copytree(site / "pre", tmp_path / "pre")
    shutil.rmtree(tmp_path / "pre" / "checkpoints")
    page = page_of(tmp_path, tmp_path, "pre", data=site / "catalog")
    assert "which hold the decoder, are gone" in page


def test_a_run_that_was_killed_is_shown_as_far_as_it_is(site, tmp_path):
    run = tmp_path / "killed"
    shutil.copytree(site / "pre", run)
    shutil.rmtree(run / "model")
    (run / "run.json").unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    page = page_of(tmp_path, tmp_path, "killed")
    assert "not finished" in page and "<polyline" in page


def test_no_name_of_a_file_or_folder_is_on_the_page(site, tmp_path):
    pages = page_of(site, tmp_path, "pre", data=site / "catalog") + fine_page(
        site, tmp_path, overwrite=True
    )
    written = "".join(p.read_text() for p in (tmp_path / "page").iterdir())
    for secret in ("Holzapfelin", "scan_00", "case_00", str(site), os.sep + "tmp"):
        assert secret not in pages + written


def test_only_its_own_script_may_run(site, tmp_path):
    page = fine_page(site, tmp_path)
    assert page.count("<script") == 1 and "default-src 'none'" in page
    assert "<script" not in page_of(site, tmp_path, "pre", overwrite=True)


def test_a_lost_scan_costs_its_slices_only(site, tmp_path):
    shutil.copytree(site / "pred", tmp_path / "pred")
    next((tmp_path / "pred").glob("*_seg.nii.gz")).unlink()
    page = page_of(site, tmp_path, "fine", pred=tmp_path / "pred")
    assert page.count("the label map is gone") == 1 and page.count('class="slices"') == 3


def test_test_patients_in_the_training_are_named(site, tmp_path):
    shutil.copytree(site / "pre", tmp_path / "pre")
    options = tmp_path / "pre" / "resolved.yaml"
    options.write_text(options.read_text().replace("allow_test: false", "allow_test: true"))
    assert "transductive" in page_of(tmp_path, tmp_path, "pre")


def test_the_map_keeps_distances_of_a_plane(tmp_path):
    # Points of a plane in many dimensions: the two directions hold all of the spread.
    rng = np.random.default_rng(0)
    plane, at = np.linalg.qr(rng.normal(size=(16, 2)))[0].T, rng.normal(size=(30, 2))
    table = {"record_id": [f"r{k}" for k in range(30)], "embedding": (at @ plane).tolist(),
             "modality": ["CT", "MR"] * 15, "vendor": ["unknown"] * 30}  # fmt: skip
    pl.DataFrame(table).write_parquet(tmp_path / "e.parquet")
    found = map_of(tmp_path / "e.parquet")
    assert sum(found.shares) == pytest.approx(1)
    [(name, series)] = found.labels  # a label with one value tells nothing apart
    assert name == "modality" and [s.name for s in series] == ["CT", "MR"]
    shown = np.array([[one.x, one.y] for one in series]).transpose(2, 0, 1).reshape(30, 2)
    far = lambda x: np.linalg.norm(x[:, None] - x[None], axis=-1)  # noqa: E731
    np.testing.assert_allclose(far(shown), far(at), atol=1e-6)


def test_what_embed_warns_of_is_the_verdict(site, tmp_path):
    table = {"record_id": ["a", "b", "c"], "embedding": [[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]]}
    pl.DataFrame(table).write_parquet(tmp_path / "e.parquet")
    read_out = {"features": "raw pixels", "labels": {"site_id": {"excess": 0.75}}}
    facts = {"shortcut": "sites are told apart better than anatomy", "read_outs": [read_out]}
    (tmp_path / "e.json").write_text(json.dumps(facts))
    page = page_of(site, tmp_path, "pre", embedding=tmp_path / "e.parquet")
    assert '<li class="bad">sites are told apart better than anatomy' in page
    assert "site id, excess over chance" in page and ">0.75<" in page


def test_measures_without_a_mean_are_no_rows():
    assert measures_of({"cases": [{"mean": 1}], "n": 3, "relaxed": {"f1": {"mean": 0.5}}}) == [
        ("relaxed, f1", "", {"mean": 0.5})
    ]


def test_a_choice_of_records_that_names_a_patient_is_not_shown(site, tmp_path):
    shutil.copytree(site / "pre", tmp_path / "pre")
    options = tmp_path / "pre" / "resolved.yaml"
    text, count = re.subn("^where: null$", "where: patient_id == 'MEIER^H'", options.read_text(),
                          flags=re.MULTILINE)  # fmt: skip
    options.write_text(text)
    assert count == 1
    assert "MEIER" not in page_of(tmp_path, tmp_path, "pre")


@pytest.mark.parametrize("content", ["", "[1]", "{", "\x00"])
def test_what_is_no_metrics_file_is_refused(site, tmp_path, content):
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(UsageError):
        medssl.report(site / "fine", out=tmp_path / "page", metrics=[tmp_path / "m.json"])
    assert not (tmp_path / "page").exists()


def test_a_folder_that_is_no_run_is_refused(site, tmp_path):
    for folder in ("catalog", "pred", "nowhere"):
        with pytest.raises(UsageError, match="no run of pretrain or finetune"):
            medssl.report(site / folder, out=tmp_path / "page")


@pytest.mark.debian("chromium")
def test_a_browser_runs_the_viewer_and_loads_nothing(site, tmp_path):
    fine_page(site, tmp_path)
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    dom = subprocess.run(
        ["chromium", *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
         (tmp_path / "page" / report.PAGE).as_uri()],
        check=True, capture_output=True, timeout=60, text=True,
    ).stdout  # fmt: skip
    assert '<html lang="en" class="js">' in dom  # the script ran in spite of the policy
    assert re.findall(r"<output>(\d+ of \d+)</output>", dom)
    assert not re.search(r'(src|href)="(?!data:)', dom)
