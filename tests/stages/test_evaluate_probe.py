"""Probes from end to end: a run and a labelled data set in, a table with two baselines out."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from medssl.core.errors import MedsslError, ReadError, UsageError
from medssl.encoders.card import load_card
from medssl.evaluation import dense
from medssl.stages import _evaluate_dense, _features, pretrain
from medssl.stages.evaluate import EvaluateConfig, run
from medssl.stages.pretrain import PretrainConfig
from tests.picture_archive import write_labelled_pictures, write_picture, write_pictures
from tests.stages.test_classification import disk, write_disks, write_volumes
from tests.training_archive import write_images, write_labelled

QUICK = {"steps": 1, "batch_size": 2, "accelerator": "cpu", "health": False, "quiet": True}
ROWS = ["this checkpoint", "random weights", "raw pixels"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A run of one step on pictures; a probe must not ask for more."""
    root = tmp_path_factory.mktemp("probe")
    write_pictures(root / "archive", 4, colour=False)
    options = {
        "objective": {"name": "mae"},
        "encoder": {"name": "timm/resnet10t"},
        "crop": (64, 64),
    }
    return pretrain.run(PretrainConfig(data=root / "archive", out=root / "run", **options, **QUICK))


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    root = tmp_path_factory.mktemp("probe3d")
    write_images(root / "archive", 2)
    options = {"objective": {"name": "mae"}, "crop": (16, 32, 16)}
    return pretrain.run(PretrainConfig(data=root / "archive", out=root / "run", **options, **QUICK))


def probed(trained, labelled_data, tmp_path, **more):
    given = {
        "data": labelled_data,
        "checkpoint": trained.out,
        "out": tmp_path / "m.json",
        "device": "cpu",
    }
    return run(EvaluateConfig(**{**given, "probe": "knn", "seeds": 1, **more})).result


@pytest.mark.parametrize("probe", ["knn", "linear"])
def test_bright_and_dark_disks_are_told_apart_beside_two_baselines(pictures, tmp_path, probe):
    data = write_disks(tmp_path / "data", 18)
    before = (pictures.out / "model" / "weights.safetensors").read_bytes()
    found = probed(pictures, data, tmp_path, probe=probe)
    assert [row["features"] for row in found["rows"]] == ROWS
    assert found["rows"][0]["auroc"]["mean"] > 0.8
    for row in found["rows"]:
        assert row["auroc"]["low"] <= row["auroc"]["mean"] <= row["auroc"]["high"]
        assert row["auroc"]["n"] == 18
    assert (found["patients"], found["tested"], found["folds"]) == (18, 18, 5)
    assert found["labels"] == ["bright", "dark"]
    assert json.loads((tmp_path / "m.json").read_text()) == found
    assert (pictures.out / "model" / "weights.safetensors").read_bytes() == before
    assert found["weights_sha256"] == load_card(pictures.out)[0].weights_sha256
    assert str(tmp_path) not in (tmp_path / "m.json").read_text()


def test_labels_without_relation_to_the_pictures_are_not_found(pictures, tmp_path):
    rng = np.random.default_rng(0)
    for k, name in enumerate(rng.permutation(["a", "b"] * 12)):
        write_picture(tmp_path / "data" / name / f"{k}.png", disk(k, True))
    found = probed(pictures, tmp_path / "data", tmp_path, probe="linear")
    assert all(0.2 < row["auroc"]["mean"] < 0.8 for row in found["rows"])
    assert all(row["auroc"]["low"] < 0.5 < row["auroc"]["high"] for row in found["rows"])


def test_records_of_one_patient_do_not_answer_for_each_other(pictures, tmp_path):
    # Two nearly equal pictures of each patient, whose label says nothing of the picture.
    rng = np.random.default_rng(0)
    lines = ["image,label,patient"]
    for k in range(16):
        label = "ab"[rng.integers(2)]
        for twin in range(2):
            picture = disk(k, True).copy()
            picture[0, 0] = twin
            write_picture(tmp_path / "data" / f"{k}_{twin}.png", picture)
            lines.append(f"{k}_{twin}.png,{label},p{k}")
    (tmp_path / "data" / "t.csv").write_text("\n".join(lines))
    found = probed(pictures, tmp_path / "data", tmp_path)
    assert found["patients"] == 16
    assert all(row["accuracy"]["mean"] < 0.8 for row in found["rows"])


def test_a_named_test_split_is_what_is_tested(pictures, tmp_path):
    for split, first, count in (("train", 0, 12), ("val", 20, 4), ("test", 30, 6)):
        write_disks(tmp_path / "data" / split, count, first)
    found = probed(pictures, tmp_path / "data", tmp_path, probe="linear", seeds=2)
    assert (found["tested"], found["folds"], found["records"]) == (6, 1, 22)
    assert found["rows"][0]["auroc"]["n"] == 6
    assert found["rows"][0]["auroc"]["seed_sd"] >= 0


def test_test_images_copied_into_the_training_under_other_names_are_refused(pictures, tmp_path):
    for split, first, count in (("train", 0, 8), ("test", 30, 6)):
        write_disks(tmp_path / "data" / split, count, first)
    for number in (31, 33):
        picture = disk(number, True)
        write_picture(tmp_path / "data" / "train" / "bright" / f"new{number}.png", picture)
    with pytest.raises(UsageError, match="2 images stand in more than one split"):
        probed(pictures, tmp_path / "data", tmp_path)


def test_a_patient_in_two_splits_is_refused_by_the_dense_probe(pictures, tmp_path):
    data = write_labelled_pictures(tmp_path / "data", 4, colour=False)
    split_of = (("A", "train"), ("B", "train"), ("A", "test"))
    rows = [f"images/p0{k}.png,masks/p0{k}.png,{who},{split}"
            for k, (who, split) in enumerate(split_of)]  # fmt: skip
    (data / "t.csv").write_text("\n".join(["image,label,patient,split", *rows]))
    with pytest.raises(UsageError, match="1 patients stand in more than one split"):
        probed(pictures, data, tmp_path, probe="dense")


def test_no_case_of_a_tested_patient_teaches_the_dense_probe():
    patients_N = np.array([0, 1, 2, 3, 0])
    cohort = SimpleNamespace(
        split_N=[None, "train", "val", "test", "test"],
        patients_N=patients_N,
        config=SimpleNamespace(labelled=None),
    )
    [(train, test)] = _evaluate_dense._plan(cohort, 0)
    assert train.tolist() == [1, 2]
    assert test.tolist() == [3, 4]


@pytest.mark.parametrize("split", [None, "test"])
def test_a_probe_with_nobody_to_learn_from_says_what_is_missing(split):
    cohort = SimpleNamespace(
        split_N=[split] * 3, patients_N=np.zeros(3, int), config=SimpleNamespace(labelled=None)
    )
    with pytest.raises(UsageError, match="all 1 labelled patients are tested") as refused:
        _evaluate_dense._plan(cohort, 0)
    assert refused.value.fix.startswith("add labelled patients")


def test_a_data_set_of_tested_cases_only_teaches_no_classifier(pictures, tmp_path):
    data = write_disks(tmp_path / "data" / "test", 6).parent
    with pytest.raises(UsageError, match="no labelled case is left to learn from"):
        probed(pictures, data, tmp_path)


@pytest.mark.slow
def test_fewer_labels_are_part_of_more_and_show_every_class(pictures, tmp_path):
    for split, first, count in (("train", 0, 12), ("val", 20, 4), ("test", 30, 6)):
        write_disks(tmp_path / "data" / split, count, first)
    few, more = (
        probed(pictures, tmp_path / "data", tmp_path, labelled=n, overwrite=True) for n in (2, 6)
    )
    [[two]], [[six]] = few["train_cases"], more["train_cases"]
    assert set(two) < set(six)
    assert (len(two), len(six)) == (2, 6)
    with pytest.raises(UsageError, match="every class"):
        probed(pictures, tmp_path / "data", tmp_path, labelled=1, overwrite=True)


@pytest.mark.slow
def test_an_attentive_probe_of_the_tokens_finds_bright_disks(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(_features, "TOKENS", 16)
    for split, first, count in (("train", 0, 12), ("val", 20, 4), ("test", 30, 6)):
        write_disks(tmp_path / "data" / split, count, first)
    found = probed(pictures, tmp_path / "data", tmp_path, probe="attentive")
    assert [row["features"] for row in found["rows"]] == ROWS
    assert found["rows"][0]["auroc"]["mean"] > 0.9


def test_volumes_with_classes(volumes, tmp_path):
    found = probed(volumes, write_volumes(tmp_path / "data", 6), tmp_path)
    assert all(0 <= row["auroc"]["mean"] <= 1 for row in found["rows"])


@pytest.fixture
def quick_dense(monkeypatch):
    monkeypatch.setattr(dense, "POINTS", 400)
    monkeypatch.setattr(_evaluate_dense, "FOLDS", 2)


def test_dense_probe_of_volumes_finds_the_bright_core(volumes, tmp_path, quick_dense):
    data = write_labelled(tmp_path / "data", 4)
    found = probed(volumes, data, tmp_path, probe="dense", labelled=2)
    assert [row["features"] for row in found["rows"]] == ROWS
    assert set(found["rows"][0]["dice"]["per_label"]) == {"shell", "core"}
    assert found["rows"][2]["dice"]["mean"] > 0.5  # grey values alone tell them apart
    assert (found["tested"], found["folds"], found["labelled"]) == (4, 2, 2)


def test_dense_probe_of_pictures(pictures, tmp_path, quick_dense):
    data = write_labelled_pictures(tmp_path / "data", 4, colour=False)
    found = probed(pictures, data, tmp_path, probe="dense")
    assert all(row["dice"]["mean"] > 0.8 for row in found["rows"])


def test_a_class_with_too_few_patients_is_refused(pictures, tmp_path):
    with pytest.raises(UsageError, match="needs 3"):
        probed(pictures, write_disks(tmp_path / "data", 4), tmp_path)


def test_features_that_are_not_finite_are_no_result(pictures, tmp_path, monkeypatch):
    lost = np.full(8, np.nan, np.float32)
    monkeypatch.setattr(_features.Frozen, "vector", lambda *_: lost)
    with pytest.raises(MedsslError, match="12 of 12 records are not finite"):
        probed(pictures, write_disks(tmp_path / "data", 12), tmp_path)
    masks = write_labelled_pictures(tmp_path / "masks", 2, colour=False)
    with pytest.raises(MedsslError, match="not finite"):
        probed(pictures, masks, tmp_path, probe="dense")


def test_one_picture_in_two_classes_is_refused(pictures, tmp_path):
    data = write_disks(tmp_path / "data", 12)
    write_picture(data / "dark" / "copy.png", disk(1, True))
    with pytest.raises(ReadError, match="two classes"):
        probed(pictures, data, tmp_path)


@pytest.mark.parametrize("left_out", ["data", "checkpoint"])
def test_what_is_missing_is_named(pictures, tmp_path, left_out):
    with pytest.raises(UsageError, match="data and checkpoint"):
        probed(pictures, tmp_path, tmp_path, **{left_out: None})


def test_a_probe_takes_no_predictions_and_a_comparison_needs_them(pictures, tmp_path):
    with pytest.raises(UsageError, match="pred beside it"):
        probed(pictures, tmp_path, tmp_path, pred=tmp_path)
    with pytest.raises(UsageError, match="or a probe"):
        run(EvaluateConfig(task="segmentation", out=tmp_path / "m.json"))


def test_volumes_for_an_encoder_of_pictures_are_seen_in_slices(pictures, tmp_path):
    data = write_volumes(tmp_path / "data", 6)
    found = probed(pictures, data, tmp_path)
    assert found["records"] == 6
