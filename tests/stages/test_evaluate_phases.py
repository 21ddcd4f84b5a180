"""evaluate --task phase: pairing, rates, frames without prediction, the shape of metrics.json."""

import json

import pytest

from medssl.core.errors import MedsslError, NothingUsableError, UsageError
from medssl.core.phases import CHOLEC80
from medssl.stages.evaluate import EvaluateConfig, run
from tests.surgery_videos import phase_file

METRICS = ("accuracy", "precision", "recall", "jaccard", "f1")


def predict(folder, name, phases, step_s=1.0):
    """A prediction: one phase per step, as predict writes it."""
    path = folder / f"{name}_phases.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{n * step_s:.3f},{phase},0.9" for n, phase in enumerate(phases)]
    path.write_text("\n".join(["time_s,phase,probability", *rows]) + "\n")
    return path


@pytest.fixture
def folders(tmp_path):
    """Two videos at 25 frames per second: 20 s of cut, 20 s of sew; the change of b is 5 s late."""
    pred, ref = tmp_path / "pred", tmp_path / "ref"
    ref.mkdir()
    for name, late in (("a", 0), ("b", 5)):
        phase_file(ref / f"{name}-phase.txt", ["cut"] * 500 + ["sew"] * 500)
        predict(pred, name, ["cut"] * (20 + late) + ["sew"] * (20 - late))
    return pred, ref


def evaluate(folders, tmp_path, **more):
    pred, ref = folders
    given = {"task": "phase", "pred": pred, "ref": ref, "out": tmp_path / "m.json"}
    return run(EvaluateConfig(**{**given, **more})).result


def test_file_has_the_documented_shape(folders, tmp_path):
    found = evaluate(folders, tmp_path)
    assert json.loads((tmp_path / "m.json").read_text()) == found
    assert set(found) == {
        *METRICS, "edit", "f1@10", "f1@25", "f1@50", "relaxed", "cases", "without_reference_phase",
        "calibration", "selective",
    }  # fmt: skip
    assert set(found["relaxed"]) == {*METRICS, "rule", "tolerance_s"}
    assert set(found["f1"]) == {"mean", "low", "high", "n", "per_label"}
    assert set(found["f1"]["per_label"]) == {"cut", "sew"}
    assert [case["case"] for case in found["cases"]] == ["a", "b"]


def test_values_are_means_over_videos_at_the_rate_of_the_prediction(folders, tmp_path):
    found = evaluate(folders, tmp_path)
    assert [case["accuracy"] for case in found["cases"]] == [1.0, 35 / 40]
    assert [case["frames"] for case in found["cases"]] == [40, 40]
    assert found["accuracy"]["mean"] == pytest.approx((1 + 35 / 40) / 2)
    assert found["accuracy"]["low"] == pytest.approx(35 / 40)
    assert found["jaccard"]["per_label"]["cut"]["mean"] == pytest.approx((1 + 20 / 25) / 2)
    assert found["edit"]["mean"] == 1


def test_a_change_5_s_late_is_within_10_s(folders, tmp_path):
    relaxed = evaluate(folders, tmp_path)["relaxed"]
    assert (relaxed["rule"], relaxed["tolerance_s"], relaxed["accuracy"]["mean"]) == (
        "neighbours", 10.0, 1.0,
    )  # fmt: skip


def test_phases_of_cholec80_are_judged_by_its_rule(tmp_path):
    pred, ref = tmp_path / "p", tmp_path / "r"
    ref.mkdir()
    phase_file(ref / "a-phase.txt", [CHOLEC80[0]] * 50)
    predict(pred, "a", [CHOLEC80[0]] * 2)
    found = evaluate((pred, ref), tmp_path)
    assert found["relaxed"]["rule"] == "cholec80"
    assert found["f1"]["mean"] == 1  # six phases are absent
    assert found["f1"]["per_label"]["GallbladderRetraction"] == {
        "mean": None, "low": None, "high": None, "n": 0,
    }  # fmt: skip


def test_a_prediction_that_ends_early_is_wrong_from_there_on(folders, tmp_path):
    predict(folders[0], "a", ["cut"] * 20 + ["sew"] * 10)
    found = evaluate(folders, tmp_path)
    assert found["cases"][0]["accuracy"] == 30 / 40
    assert found["cases"][0]["missing_s"] == 10


def test_seconds_that_are_predicted_beyond_the_reference_do_not_count(folders, tmp_path):
    predict(folders[0], "a", ["cut"] * 20 + ["sew"] * 60)
    assert evaluate(folders, tmp_path)["cases"][0]["accuracy"] == 1


def test_frames_without_reference_phase_do_not_count(folders, tmp_path):
    pred, ref = folders
    phase_file(ref / "b-phase.txt", ["cut"] * 500 + [""] * 125 + ["sew"] * 375)
    assert [case["accuracy"] for case in evaluate(folders, tmp_path)["cases"]] == [1, 1]


def test_the_reference_may_be_a_table_or_what_predict_writes(folders, tmp_path):
    rows = [f"{name},{s},{'cut' if s < 20 else 'sew'}" for name in "ab" for s in range(40)]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["video,time_s,label", *rows]))
    golden = evaluate(folders, tmp_path)
    assert evaluate((folders[0], table), tmp_path, overwrite=True)["cases"] == golden["cases"]
    same = evaluate((folders[0], folders[0]), tmp_path, overwrite=True)
    assert same["accuracy"]["mean"] == 1


def test_a_faster_prediction_is_read_at_the_rate_of_the_reference(folders, tmp_path):
    _, ref = folders
    rows = [f"{name},{s},{'cut' if s < 20 else 'sew'}" for name in "ab" for s in range(40)]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["video,time_s,label", *rows]))
    for name in "ab":
        predict(folders[0], name, ["cut"] * 100 + ["sew"] * 100, step_s=0.2)
    found = evaluate((folders[0], table), tmp_path)
    assert [case["frames"] for case in found["cases"]] == [40, 40]
    assert found["accuracy"]["mean"] == 1


def test_a_video_with_a_recording_pause_is_scored(folders, tmp_path):
    path = folders[0] / "a_phases.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:11] + lines[16:]) + "\n")  # 5 s were not recorded
    case = evaluate(folders, tmp_path)["cases"][0]
    assert (case["missing_s"], case["accuracy"]) == (5, 35 / 40)


def test_a_video_of_one_frame(tmp_path):
    pred, ref = tmp_path / "p", tmp_path / "r"
    ref.mkdir()
    phase_file(ref / "a-phase.txt", ["cut"])
    predict(pred, "a", ["cut"])
    found = evaluate((pred, ref), tmp_path)
    assert found["accuracy"] == {"mean": 1.0, "low": None, "high": None, "n": 1}


def test_patients_of_a_table_are_drawn_whole(folders, tmp_path):
    groups = tmp_path / "groups.csv"
    groups.write_text("case,patient\na,one\nb,one\n")
    assert evaluate(folders, tmp_path, groups=groups)["accuracy"]["low"] is None


def test_unpaired_files_and_unknown_phases_are_named(folders, tmp_path):
    pred, ref = folders
    extra = predict(pred, "c", ["cut"])
    with pytest.raises(MedsslError, match="no reference") as error:
        evaluate(folders, tmp_path)
    assert "c_phases" in error.value.where
    extra.unlink()
    with pytest.raises(UsageError, match="not among labels"):
        evaluate(folders, tmp_path, labels={0: "cut"})
    (pred / "b_phases.csv").unlink()
    with pytest.raises(MedsslError, match="no prediction"):
        evaluate(folders, tmp_path)


@pytest.mark.parametrize(
    "text",
    ["time_s,phase\n", "time_s\n0\n", "time_s,phase\nx,cut\n", "time_s,phase\nnan,cut\n", ""],
)
def test_a_broken_prediction_is_refused(folders, tmp_path, text):
    (folders[0] / "a_phases.csv").write_text(text)
    with pytest.raises(UsageError, match="prediction"):
        evaluate(folders, tmp_path)


def test_a_reference_without_any_phase_is_nothing_to_compare(tmp_path):
    pred, ref = tmp_path / "p", tmp_path / "r"
    ref.mkdir()
    phase_file(ref / "a-phase.txt", [""] * 30)
    predict(pred, "a", ["cut"])
    with pytest.raises(NothingUsableError):
        evaluate((pred, ref), tmp_path)
