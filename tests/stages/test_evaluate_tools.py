"""evaluate --task tools: average precision over all frames, missing tools and missing seconds."""

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from medssl.core.errors import MedsslError, UsageError
from medssl.stages.evaluate import EvaluateConfig, run
from tests.surgery_videos import tool_file

TOOLS = ("Grasper", "Hook", "Clipper")


def predict(folder, name, score_NK, tools=TOOLS):
    folder.mkdir(exist_ok=True)
    rows = [f"{n:.3f}," + ",".join(f"{p:.4f}" for p in row) for n, row in enumerate(score_NK)]
    (folder / f"{name}_tools.csv").write_text("\n".join([",".join(["time_s", *tools]), *rows]))


@pytest.fixture
def folders(tmp_path):
    """Two videos of 30 s; no frame shows the clipper."""
    pred, ref = tmp_path / "pred", tmp_path / "ref"
    ref.mkdir()
    rng = np.random.default_rng(0)
    there, scores = rng.random((2, 30, 3)) < (0.6, 0.2, 0), np.round(rng.random((2, 30, 3)), 2)
    for name, there_NK, score_NK in zip("ab", there, scores, strict=True):
        tool_file(ref / f"{name}-tool.txt", TOOLS, there_NK.astype(int))
        predict(pred, name, score_NK)
    return pred, ref, there.reshape(-1, 3), scores.reshape(-1, 3)


def evaluate(folders, tmp_path, **more):
    given = {"task": "tools", "pred": folders[0], "ref": folders[1], "out": tmp_path / "m.json"}
    return run(EvaluateConfig(**{**given, **more})).result


def test_precision_is_sklearns_over_all_frames_and_a_missing_tool_counts_as_0(folders, tmp_path):
    found = evaluate(folders, tmp_path)
    assert json.loads((tmp_path / "m.json").read_text()) == found
    _, _, there, scores = folders
    golden = [average_precision_score(there[:, k], scores[:, k]) for k in range(2)]
    each = found["map"]["per_label"]
    assert [each[name]["mean"] for name in TOOLS[:2]] == pytest.approx(golden)
    assert each["Clipper"] == {"mean": None, "low": None, "high": None, "n": 2}
    assert found["map"]["mean"] == pytest.approx(sum(golden) / 3)
    assert found["map"]["low"] <= found["map"]["mean"] <= found["map"]["high"]


def test_one_patient_has_no_interval(folders, tmp_path):
    groups = tmp_path / "groups.csv"
    groups.write_text("case,patient\na,x\nb,x\n")
    assert evaluate(folders, tmp_path, groups=groups)["map"]["low"] is None


def test_seconds_without_a_prediction_score_0_and_are_counted(folders, tmp_path):
    pred, _, _, scores = folders
    predict(pred, "a", scores[:20])
    found = evaluate(folders, tmp_path)
    assert [case["missing_s"] for case in found["cases"]] == [10, 0]
    assert [case["frames"] for case in found["cases"]] == [30, 30]


def test_other_tools_and_missing_videos_are_refused(folders, tmp_path):
    pred, ref, _, scores = folders
    predict(pred, "b", scores[30:], ("Hook", "Grasper", "Clipper"))
    with pytest.raises(UsageError, match="different tools"):
        evaluate(folders, tmp_path)
    predict(pred, "b", scores[30:])
    tool_file(ref / "b-tool.txt", (*TOOLS, "Bag"), [[0, 0, 0, 1]])
    with pytest.raises(UsageError, match="not known"):
        evaluate(folders, tmp_path)
    (ref / "b-tool.txt").unlink()
    with pytest.raises(MedsslError, match="no reference"):
        evaluate(folders, tmp_path)


@pytest.mark.parametrize("text", ["", "time_s\n0\n", "time_s,Grasper,Hook,Clipper\n0,x,0,0\n",
                                  "time_s,Grasper,Hook,Clipper\n0,nan,0,0\n"])  # fmt: skip
def test_a_broken_prediction_is_refused(folders, tmp_path, text):
    (folders[0] / "a_tools.csv").write_text(text)
    with pytest.raises(UsageError):
        evaluate(folders, tmp_path)
