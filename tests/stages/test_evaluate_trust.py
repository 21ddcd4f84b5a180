"""evaluate: calibration of what predict wrote, risk and coverage of its quality."""

import csv
import json

import numpy as np
import polars as pl
import pytest
from scipy.stats import spearmanr

from medssl.core.errors import UsageError
from medssl.inference.writers import write_probabilities
from medssl.stages import evaluate
from medssl.stages.evaluate import EvaluateConfig
from tests.surgery_videos import tool_file
from tests.training_archive import save

SHAPE = (6, 20, 20)


def write_rows(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def run(tmp_path, task, ref="ref", **more):
    return evaluate.run(
        EvaluateConfig(task=task, pred=tmp_path / "pred", ref=tmp_path / ref,
                       out=tmp_path / "metrics.json", overwrite=True, **more)
    ).result  # fmt: skip


@pytest.fixture
def masks(tmp_path):
    """Six cases: references drawn from the probabilities, the later ones with a worse quality."""
    rng = np.random.default_rng(0)
    far = np.hypot(*(np.indices(SHAPE)[1:] - 9.5))
    quality, paths = [("record_id", "quality", "refer", "dice_blob")], []
    for k in range(6):
        p = 1 / (1 + np.exp((far - 6) / (0.3 + 0.4 * k)))
        label = rng.random(SHAPE) < p
        save(tmp_path / "pred" / f"c{k}_seg.nii.gz", p > 0.5, np.uint8)
        save(tmp_path / "ref" / f"c{k}.nii.gz", label, np.uint8)
        write_probabilities(tmp_path / "pred" / f"c{k}_prob.npz", np.stack([1 - p, p]))
        quality.append((f"id{k}", f"{0.99 - 0.1 * k:.4f}", "yes" if k == 5 else "no", "0.5"))
        paths.append((f"id{k}", f"/in/c{k}.nii.gz".encode(), f"c{k}_seg.nii.gz".encode()))
    write_rows(tmp_path / "pred" / "quality.csv", *quality)
    table = pl.DataFrame(paths, schema=["record_id", "path", "result"], orient="row")
    table.write_parquet(tmp_path / "pred" / "paths.parquet")
    (tmp_path / "pred" / "labels.json").write_text('{"0": "background", "1": "blob"}')
    return tmp_path


def test_voxels_drawn_from_their_probabilities_are_calibrated(masks):
    found = run(masks, "segmentation")["calibration"]
    assert found["ece"] < 0.02
    assert found["ece_equal_mass"] < 0.02
    assert set(found["per_label"]) == {"background", "blob"}
    page = (masks / "metrics_calibration.html").read_text()
    assert page.count("<svg") == 3
    assert "<script" not in page


def test_quality_is_compared_with_the_true_dice_of_each_case(masks):
    result = run(masks, "segmentation")
    dice = [row["dice"] for row in result["cases"]]
    quality = [0.99 - 0.1 * k for k in range(6)]
    found = result["selective"]
    assert found["rank_correlation"] == pytest.approx(spearmanr(quality, dice).statistic)
    assert found["refer"]["n"] == 1
    assert found["refer"]["mean_score_referred"] == pytest.approx(dice[5])
    assert found["risk"][-1] == pytest.approx(1 - np.mean(dice), abs=1e-5)


def test_a_site_whose_probabilities_are_wrong_stands_out(masks):
    for k in (3, 4, 5):
        p = np.load(masks / "pred" / f"c{k}_prob.npz")["p_KDHW"] / 65535
        sharp = p**6 / (p**6).sum(0)
        write_probabilities(masks / "pred" / f"c{k}_prob.npz", sharp)
    rows = [(f"c{k}", "here" if k < 3 else "there") for k in range(6)]
    write_rows(masks / "sites.csv", ("case", "site"), *rows)
    found = run(masks, "segmentation", sites=masks / "sites.csv")["calibration"]["per_site"]
    assert found["there"]["ece"] > 3 * found["here"]["ece"]
    (masks / "sites.csv").write_bytes(b"\xef\xbb\xbf" + (masks / "sites.csv").read_bytes())
    assert run(masks, "segmentation", sites=masks / "sites.csv")["calibration"]["per_site"] == found
    write_rows(masks / "sites.csv", ("case", "site"), *rows[1:])
    with pytest.raises(UsageError, match="no site"):
        run(masks, "segmentation", sites=masks / "sites.csv")


def test_predictions_without_quality_are_scored_as_ever(masks):
    for name in ("quality.csv", *(f"c{k}_prob.npz" for k in range(6))):
        (masks / "pred" / name).unlink()
    result = run(masks, "segmentation")
    assert not {"calibration", "selective"} & result.keys()
    assert not (masks / "metrics_calibration.html").exists()


def test_a_page_of_another_result_is_kept_unless_asked(masks):
    (masks / "other_calibration.html").write_text("mine")
    given = {"pred": masks / "pred", "ref": masks / "ref", "out": masks / "other.json"}
    with pytest.raises(UsageError, match="exists"):
        evaluate.run(EvaluateConfig(task="segmentation", **given))
    assert (masks / "other_calibration.html").read_text() == "mine"
    assert not (masks / "other.json").exists()


def test_phases_are_judged_by_the_chance_of_the_predicted_one(tmp_path):
    rows = [(f"{t}.000", "cut", "0.8000") for t in range(10)]
    write_rows(tmp_path / "pred" / "v_phases.csv", ("time_s", "phase", "probability"), *rows)
    truth = [(f"{t}.000", "cut" if t < 6 else "sew", "1") for t in range(10)]
    write_rows(tmp_path / "ref" / "v_phases.csv", ("time_s", "phase", "probability"), *truth)
    result = run(tmp_path, "phase")
    assert result["calibration"]["ece"] == pytest.approx(0.2)
    assert result["calibration"]["brier"] == pytest.approx(0.6 * 0.04 + 0.4 * 0.64)
    assert result["selective"]["aurc_chance"] == pytest.approx(0.4)
    assert json.loads((tmp_path / "metrics.json").read_text())["calibration"]["n"] == 10


def test_tools_are_judged_as_single_events(tmp_path):
    rows = [(f"{t}.000", "0.9000", "0.1000") for t in range(10)]
    write_rows(tmp_path / "pred" / "v_tools.csv", ("time_s", "needle", "grasper"), *rows)
    (tmp_path / "ref").mkdir()
    tools = [(int(t < 9), 0) for t in range(10)]
    tool_file(tmp_path / "ref" / "v-tool.txt", ("needle", "grasper"), tools)
    found = run(tmp_path, "tools")["calibration"]
    assert found["per_label"]["needle"]["ece"] == pytest.approx(0, abs=1e-9)
    assert found["per_label"]["grasper"]["ece"] == pytest.approx(0.1)
    assert found["n"] == 20
