"""Predict and evaluate classes: what is written, resumed, refused and measured."""

import csv
import json

import numpy as np
import pytest
import torch

from medssl.archive._phantom_dicom import write_ct_series
from medssl.core.config import Component, load_config
from medssl.core.errors import MedsslError, NothingUsableError, UsageError
from medssl.core.preprocess import Contract
from medssl.encoders.card import Card
from medssl.inference.sliding import predict_probabilities, window_places
from medssl.stages import evaluate, finetune, predict
from medssl.stages.evaluate import EvaluateConfig
from medssl.stages.finetune import FinetuneConfig
from medssl.stages.predict import PredictConfig
from tests.picture_archive import write_picture
from tests.training_archive import save, volume


class Brightness(torch.nn.Module):
    """P(bright) = sigmoid(10 (mean - 0.5))."""

    def forward(self, x):
        odds = 10 * (x.flatten(1).mean(1) - 0.5)
        return torch.stack([-odds / 2, odds / 2], dim=1)


def card(**changes):
    values = {
        "encoder": Component(name="timm/resnet18"), "in_channels": 1, "channels": ("grey",),
        "contract": Contract(), "modality": "unknown", "patch_size": (16, 16),
        "head": "classification", "labels": {0: "dark", 1: "bright, very"},
        "weights_sha256": "0" * 64,
    }  # fmt: skip
    return Card(**{**values, **changes})


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(predict, "load_model", lambda *_: (Brightness(), card()))


def flat(path, level, shape=(16, 16)):
    pixels = np.full(shape, level, dtype="u1")
    pixels[0, 0] = 255 - level  # one value everywhere would be refused
    return write_picture(path, pixels)


@pytest.fixture
def pictures(tmp_path):
    for name, level in (("mrs_white", 220), ("b/mr_black", 30), ("b/grey", 140)):
        flat(tmp_path / "in" / f"{name}.png", level)
    (tmp_path / "in" / "notes.txt").write_text("x")
    return tmp_path / "in"


def run(tmp_path, **more):
    options = {
        "input": tmp_path / "in", "out": tmp_path / "out", "checkpoint": tmp_path / "ft",
        "device": "cpu", **more,
    }  # fmt: skip
    return predict.run(PredictConfig(**options))


def rows(tmp_path):
    with (tmp_path / "out" / "classes.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def score(tmp_path, ref, **more):
    options = {"task": "classification", "pred": tmp_path / "out", "out": tmp_path / "m.json"}
    return evaluate.run(EvaluateConfig(ref=ref, **{**options, **more})).result


def reference(folder, *lines, header="image,label"):
    path = folder / "ref.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


ALL = ("mrs_white.png,'bright, very'", "b/mr_black.png,dark", "b/grey.png,dark")
ALL = tuple(line.replace("'", '"') for line in ALL)


@pytest.mark.usefixtures("model")
def test_exactly_these_files_are_written_and_hold_ids_only(tmp_path, pictures):
    finished = run(tmp_path)
    files = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*")}
    assert files == {
        "classes.csv", "labels.json", "config.yaml", "resolved.yaml", "run.json", "salt",
        "paths.parquet", "quarantine.jsonl", "quality.csv",
    }  # fmt: skip
    assert (finished.exit_code, finished.result["predicted"]) == (0, 3)
    found = rows(tmp_path)
    assert list(found[0]) == ["record_id", "predicted", "p_dark", "p_bright, very"]
    assert sorted(row["predicted"] for row in found) == ["bright, very", "bright, very", "dark"]
    for row in found:
        assert float(row["p_dark"]) + float(row["p_bright, very"]) == pytest.approx(1, abs=1e-6)
    for file in (tmp_path / "out").rglob("*"):
        if file.name != "paths.parquet" and file.suffix != ".yaml":
            assert not any(name in file.read_bytes() for name in (b"mrs_white", b"mr_black"))


@pytest.mark.usefixtures("model")
def test_a_broken_picture_costs_one_row(tmp_path, pictures):
    (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    finished = run(tmp_path)
    assert finished.exit_code == 4
    assert len(rows(tmp_path)) == 3


@pytest.mark.usefixtures("model")
def test_nothing_to_predict_is_exit_3(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(NothingUsableError):
        run(tmp_path)


@pytest.mark.usefixtures("model")
def test_resume_keeps_whole_rows_and_repeats_a_torn_one(tmp_path, pictures):
    run(tmp_path)
    table = tmp_path / "out" / "classes.csv"
    whole = table.read_text()
    table.write_text(whole[:-4])
    finished = run(tmp_path, resume=True)
    assert (finished.result["kept"], finished.result["predicted"]) == (2, 1)
    assert table.read_text() == whole


@pytest.mark.usefixtures("model")
def test_format_belongs_to_label_maps(tmp_path, pictures):
    with pytest.raises(UsageError, match="format is for label maps"):
        run(tmp_path, format="nifti")


def test_probabilities_are_the_mean_over_windows_that_cover_everything():
    x = np.zeros((1, 1, 16, 40), dtype=np.float32)
    x[..., 24:] = 1.0  # windows at 0, 12 and 24 have means 0, 0.25 and 1
    options = {"patch_size": (16, 16), "batch_windows": 2, "device": "cpu", "fill": (0.0,)}
    p_K = predict_probabilities(Brightness(), x, overlap=0.0, **options)
    golden = np.mean([1 / (1 + np.exp(-10 * (mean - 0.5))) for mean in (0.0, 0.25, 1.0)])
    assert p_K[1] == pytest.approx(golden, abs=1e-6)
    assert p_K.sum() == pytest.approx(1)


@pytest.mark.parametrize("batch_windows", [1, 3, 100])
def test_the_number_of_windows_at_once_changes_nothing(batch_windows):
    x = np.random.default_rng(0).random((1, 20, 24, 40)).astype(np.float32)
    options = {"patch_size": (8, 16, 16), "overlap": 0.5, "device": "cpu", "fill": (0.0,)}
    one = predict_probabilities(Brightness(), x, batch_windows=1, **options)
    many = predict_probabilities(Brightness(), x, batch_windows=batch_windows, **options)
    assert many == pytest.approx(one, abs=1e-6)


def test_a_small_picture_is_padded_as_in_training():
    x = np.ones((1, 1, 8, 8), dtype=np.float32)
    options = {"patch_size": (16, 16), "batch_windows": 1, "device": "cpu", "overlap": 0.0}
    p_K = predict_probabilities(Brightness(), x, fill=(0.0,), **options)
    assert p_K[1] == pytest.approx(1 / (1 + np.exp(2.5)), abs=1e-6)  # a quarter is bright


def test_slices_of_a_volume_are_averaged_across_the_axis():
    x = np.zeros((1, 4, 16, 16), dtype=np.float32)
    x[0, 0] = 1.0
    options = {"patch_size": (16, 16), "batch_windows": 3, "device": "cpu", "overlap": 0.0}
    p_K = predict_probabilities(Brightness(), x, fill=(0.0,), axis=0, **options)
    bright, dark = 1 / (1 + np.exp(-5)), 1 / (1 + np.exp(5))
    assert p_K[1] == pytest.approx((bright + 3 * dark) / 4, abs=1e-6)


@pytest.mark.parametrize("shape", [(16,), (17,), (40,), (100, 33)])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.9])
def test_windows_cover_everything_from_edge_to_edge(shape, overlap):
    seen = np.zeros(shape, dtype=int)
    places = window_places(shape, (16,) * len(shape), overlap)
    for place in places:
        seen[place] += 1
        assert seen[place].shape == (16,) * len(shape)
    assert seen.min() >= 1
    starts = sorted({place[0].start for place in places})
    assert all(16 - step >= 16 * overlap - 0.5 for step in np.diff(starts))


@pytest.mark.usefixtures("model")
def test_metrics_of_a_table(tmp_path, pictures):
    run(tmp_path)
    found = score(tmp_path, reference(pictures, *ALL))
    assert found["accuracy"]["mean"] == pytest.approx(2 / 3)
    assert found["balanced_accuracy"]["mean"] == pytest.approx(0.75)
    assert found["auroc"]["mean"] == 1.0
    assert found["confusion"] == {
        "labels": ["dark", "bright, very"], "rows": "reference", "counts": [[1, 1], [0, 1]],
    }  # fmt: skip
    assert (found["paired_by"], found["left_out"]) == ("file", 0)
    assert {case["case"] for case in found["cases"]} == {"mrs_white", "mr_black", "grey"}
    assert json.loads((tmp_path / "m.json").read_text()) == found


@pytest.mark.usefixtures("model")
def test_metrics_of_class_folders_elsewhere(tmp_path, pictures):
    run(tmp_path)
    for place, name in (("bright, very", "mrs_white"), ("dark", "b/mr_black"), ("dark", "b/grey")):
        source = pictures / f"{name}.png"
        target = tmp_path / "ref" / place / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    found = score(tmp_path, tmp_path / "ref")
    assert (found["paired_by"], found["accuracy"]["n"]) == ("name", 3)


def test_dicom_series_are_paired_by_their_folder(tmp_path, monkeypatch):
    ct = card(patch_size=(8, 16, 16), modality="CT", channels=("CT",))
    monkeypatch.setattr(predict, "load_model", lambda *_: (Brightness(), ct))
    rng = np.random.default_rng(0)
    for name, hu in (("x", 900), ("y", -900)):
        hu_DHW = hu + rng.integers(0, 90, size=(6, 16, 16))
        options = {"affine": np.diag([2.0, 2.0, 3.0, 1.0]), "series_number": 1, "rng": rng}
        write_ct_series(tmp_path / "in" / name, hu_DHW, patient=f"Doe^{name}", **options)
    run(tmp_path)
    found = score(tmp_path, reference(tmp_path / "in", 'x,"bright, very"', "y,dark"))
    assert (found["paired_by"], found["accuracy"]["mean"]) == ("file", 1.0)
    assert not any(b"Doe" in f.read_bytes() for f in (tmp_path / "out").iterdir())


@pytest.mark.usefixtures("model")
def test_only_the_named_test_split_counts(tmp_path, pictures):
    run(tmp_path)
    lines = (f"{ALL[0]},test", f"{ALL[1]},test", f"{ALL[2]},train")
    found = score(tmp_path, reference(pictures, *lines, header="image,label,split"))
    assert (found["accuracy"]["mean"], found["accuracy"]["n"], found["left_out"]) == (1.0, 2, 1)


@pytest.mark.usefixtures("model")
def test_a_test_set_of_one_class_is_measured(tmp_path, pictures):
    run(tmp_path)
    found = score(tmp_path, reference(pictures, ALL[1], ALL[2], "mrs_white.png,dark"))
    assert found["auroc"]["mean"] is None
    assert found["accuracy"]["mean"] == pytest.approx(1 / 3)


@pytest.mark.usefixtures("model")
def test_what_does_not_pair_is_named(tmp_path, pictures):
    run(tmp_path)
    with pytest.raises(MedsslError, match="a prediction has no reference") as caught:
        score(tmp_path, reference(pictures, *ALL[:2]))
    assert caught.value.where.endswith("grey.png")
    flat(pictures / "new.png", 10)
    with pytest.raises(MedsslError, match="a reference has no prediction") as caught:
        score(tmp_path, reference(pictures, *ALL, "new.png,dark"))
    assert caught.value.where.endswith("new.png")
    with pytest.raises(MedsslError, match="a class that the model does not know"):
        score(tmp_path, reference(pictures, *ALL[:2], "b/grey.png,purple"))


@pytest.mark.usefixtures("model")
def test_files_that_are_no_prediction_are_refused(tmp_path, pictures):
    ref = reference(pictures, *ALL)
    with pytest.raises(UsageError, match=r"no classes\.csv"):
        score(tmp_path, ref)
    run(tmp_path)
    with pytest.raises(UsageError, match="no table of classes"):
        score(tmp_path, ref, pred=ref)
    with pytest.raises(UsageError, match="belong to segmentation"):
        score(tmp_path, ref, labels={1: "x"})
    table = tmp_path / "out" / "classes.csv"
    table.write_text(table.read_text().rstrip()[:-3] + "\n")
    (tmp_path / "out" / "paths.parquet").rename(tmp_path / "paths.parquet")
    with pytest.raises(UsageError, match=r"no paths\.parquet"):
        score(tmp_path, ref)
    table.write_text(table.read_text() + "abc,dark,0.9,0.9\n")
    with pytest.raises(MedsslError, match="sum to 1"):
        score(tmp_path, ref)


@pytest.mark.parametrize("kind", ["pictures", "volumes"])
def test_the_whole_way(tmp_path, kind):
    lines = ["image,label,patient,split"]
    for seed in range(6):
        low, split = seed % 2, "test" if seed > 3 else "train"
        if kind == "pictures":
            name = f"s{seed}.png"
            noise = np.random.default_rng(seed).integers(0, 40, (64, 72), dtype="u1")
            write_picture(tmp_path / split / name, noise + np.uint8(150 * (1 - low)))
        else:
            name = f"s{seed}.nii.gz"
            image, labels = volume(seed)
            save(tmp_path / split / name, image - (170 * (labels > 0) if low else 0))
        lines.append(f"{split}/{name},{('high', 'low')[low]},p{seed},{split}")
    (tmp_path / "classes.csv").write_text("\n".join(lines) + "\n")
    encoder = {"pictures": "timm/resnet10t", "volumes": "resenc-xs"}[kind]
    crop = {"pictures": (64, 64), "volumes": (16, 32, 16)}[kind]
    finetune.run(
        FinetuneConfig(
            task="classification", data=tmp_path / "classes.csv", out=tmp_path / "ft",
            encoder=encoder, crop=crop, steps=25, batch_size=4, lr=2e-3, accelerator="cpu",
            quiet=True,
        )
    )  # fmt: skip
    run(tmp_path, input=tmp_path / "test")
    found = score(tmp_path, tmp_path / "classes.csv")
    assert found["accuracy"]["n"] == 2
    assert found["auroc"]["mean"] == 1.0


@pytest.mark.real
@pytest.mark.slow
def test_pneumonia_is_told_from_normal_radiographs(tmp_path, medssl_data):
    [file] = (medssl_data / "pneumoniamnist").rglob("*.npz")
    with np.load(file) as arrays:
        for split, count in (("train", 600), ("val", 120), ("test", 624)):
            pixels, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"].ravel()
            for k in np.random.default_rng(0).permutation(len(labels))[:count]:
                name = ("normal", "pneumonia")[labels[k]]
                write_picture(tmp_path / "in" / split / name / f"{k:05d}.png", pixels[k])
    options = load_config(
        FinetuneConfig,
        "finetune",
        "xray_pneumonia",
        {"data": tmp_path / "in", "out": tmp_path / "ft", "accelerator": "cpu", "quiet": True},
    )
    finetune.run(options)
    run(tmp_path, input=tmp_path / "in" / "test")
    found = score(tmp_path, tmp_path / "in")
    assert found["auroc"]["n"] == 624
    assert found["auroc"]["low"] > 0.85
    assert found["auroc"]["mean"] >= 0.9
