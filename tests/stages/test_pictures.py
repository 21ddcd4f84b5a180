"""Pictures and slices from end to end: pretrain, fine-tune, predict, evaluate."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medssl.core.errors import NothingUsableError, ReadError, UsageError
from medssl.encoders.card import load_card
from medssl.stages import evaluate, finetune, predict, pretrain
from medssl.stages.evaluate import EvaluateConfig
from medssl.stages.finetune import FinetuneConfig
from medssl.stages.predict import PredictConfig
from medssl.stages.pretrain import PretrainConfig
from tests.picture_archive import (
    PICTURE_WORDS,
    blob,
    write_labelled_pictures,
    write_picture,
    write_pictures,
)
from tests.training_archive import write_images, write_labelled

SMALL = {"crop": (64, 64), "encoder": {"name": "timm/resnet18"}, **PICTURE_WORDS}


def learn(data, out, **more):
    more = {"steps": 2, "channels": 3, "health": False, "objective": {"name": "mae"}, **more}
    return pretrain.run(PretrainConfig(data=data, out=out, **{**SMALL, **more}))


def tune(data, out, **more):
    return finetune.run(FinetuneConfig(data=data, out=out, **{**SMALL, "steps": 2, **more}))


def files(folder):
    names = (f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())
    return sorted(names)


def table(path):
    return list(csv.DictReader(path.open()))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of finetune on six pictures that has seen enough of them to find a disk."""
    root = tmp_path_factory.mktemp("pictures")
    write_labelled_pictures(root / "data/train", 6)
    write_labelled_pictures(root / "data/val", 2, first=6)
    learn(root / "data", root / "pre")
    run = tune(root / "data", root / "ft", init=root / "pre", encoder=None, steps=40, lr=3e-3)
    return root, run


def test_from_pictures_to_scores(trained, tmp_path):
    root, run = trained
    assert run.result["loaded_from_init"]["encoder_tensors"] > 100
    assert run.result["val_cases"] == 2
    write_labelled_pictures(tmp_path / "new", 3, first=20, shape=(70, 45))
    done = predict.run(
        PredictConfig(input=tmp_path / "new/images", out=tmp_path / "out", checkpoint=root / "ft")
    )
    assert done.exit_code == 0
    results = [f"p{n}_{kind}.png" for n in (20, 21, 22) for kind in ("preview", "seg")]
    assert files(tmp_path / "out") == sorted([
        *results, "areas.csv", "config.yaml", "labels.json", "paths.parquet", "quarantine.jsonl",
        "quality.csv", "resolved.yaml", "run.json", "salt",
    ])  # fmt: skip
    labels = np.asarray(Image.open(tmp_path / "out/p20_seg.png"))
    assert labels.shape == (70, 45)
    assert set(np.unique(labels)) == {0, 255}  # values as in the masks of the training
    row = next(
        r for r in table(tmp_path / "out/areas.csv") if int(r["area_px"]) == (labels > 0).sum()
    )
    assert (row["name"], row["area_mm2"]) == ("label_255", "")
    scored = evaluate.run(
        EvaluateConfig(
            task="segmentation",
            pred=tmp_path / "out",
            ref=tmp_path / "new/masks",
            out=tmp_path / "metrics.json",
        )
    ).result
    assert scored["dice"]["mean"] > 0.7
    assert scored["dice"]["n"] == 3
    assert set(scored["cases"][0]) == {"case", "label", "dice", "hd95_px", "area_error_px"}


def test_resume_keeps_results_and_areas(trained, tmp_path):
    root, _ = trained
    pictures = write_pictures(tmp_path / "in", 3)
    config = PredictConfig(input=pictures, out=tmp_path / "out", checkpoint=root / "ft")
    predict.run(config)
    before = (tmp_path / "out/areas.csv").read_text()
    (tmp_path / "out/p01_seg.png").unlink()
    again = predict.run(config.model_copy(update={"resume": True}))
    assert (again.result["predicted"], again.result["kept"]) == (1, 2)
    after = (tmp_path / "out/areas.csv").read_text()
    assert sorted(after.splitlines()) == sorted(before.splitlines())


def test_bad_pictures_are_named_and_the_rest_is_done(trained, tmp_path):
    root, _ = trained
    pictures = write_pictures(tmp_path / "in", 2)
    cut = (pictures / "p00.png").read_bytes()[:300]
    (pictures / "cut.png").write_bytes(cut)
    write_picture(pictures / "grey.png", blob(5, colour=False)[0])
    write_picture(pictures / "black.png", np.zeros((40, 40, 3), np.uint8))
    write_images(pictures / "volumes", 1)
    done = predict.run(PredictConfig(input=pictures, out=tmp_path / "out", checkpoint=root / "ft"))
    assert done.exit_code == 4
    assert done.result["predicted"] == 2
    assert done.result["quarantined"] == {"channel_mismatch": 2, "constant": 1, "truncated": 1}


def test_a_volume_model_does_not_take_pictures(tmp_path):
    write_labelled(tmp_path / "data", 2)
    volumes = {"encoder": {"name": "resenc-xs"}, "crop": (16, 32, 16)}
    tune(tmp_path / "data", tmp_path / "ft", **volumes)
    write_pictures(tmp_path / "in", 1)
    config = PredictConfig(input=tmp_path / "in", out=tmp_path / "out", checkpoint=tmp_path / "ft")
    with pytest.raises(NothingUsableError):
        predict.run(config)


def test_slices_of_volumes_from_end_to_end(tmp_path):
    write_labelled(tmp_path / "data", 4)
    learn(tmp_path / "data", tmp_path / "pre", channels=1)
    tune(tmp_path / "data", tmp_path / "ft", init=tmp_path / "pre", encoder=None, steps=30, lr=3e-3)
    card, _ = load_card(tmp_path / "ft")
    assert (card.patch_size, card.plane, card.in_channels) == ((64, 64), "acquired", 1)
    done = predict.run(
        PredictConfig(
            input=tmp_path / "data/imagesTr", out=tmp_path / "out", checkpoint=tmp_path / "ft"
        )
    )
    assert done.exit_code == 0
    assert [f for f in files(tmp_path / "out") if f.startswith("case")] == sorted(
        f"case_00{k}_{kind}" for k in range(4) for kind in ("preview.png", "seg.nii.gz")
    )
    assert "areas.csv" not in files(tmp_path / "out")
    one = nib.load(tmp_path / "out/case_000_seg.nii.gz")
    assert one.shape == nib.load(tmp_path / "data/imagesTr/case_000.nii.gz").shape
    scored = evaluate.run(
        EvaluateConfig(
            task="segmentation",
            pred=tmp_path / "out",
            ref=tmp_path / "data/labelsTr",
            out=tmp_path / "metrics.json",
        )
    ).result
    assert scored["dice"]["mean"] > 0.25
    assert "hd95_mm" in scored


def test_pictures_and_slices_learn_together(tmp_path):
    write_pictures(tmp_path / "in", 3, colour=False)
    write_pictures(tmp_path / "in" / "colour", 3)
    write_images(tmp_path / "in" / "volumes", 2)
    run = learn(tmp_path / "in", tmp_path / "grey", channels=1)
    grey = run.result["records"]
    assert run.result["excluded"]["channels_3"] > 0
    both = learn(tmp_path / "in", tmp_path / "both", channels=1, match_channels=True)
    assert both.result["records"] > grey
    card, _ = load_card(tmp_path / "both")
    assert card.contract.picture_channels == 1


def test_a_volume_encoder_counts_pictures_and_says_what_they_need(tmp_path):
    write_pictures(tmp_path / "in", 4)
    with pytest.raises(NothingUsableError) as caught:
        learn(tmp_path / "in", tmp_path / "out", encoder={"name": "resenc-xs"}, crop=None)
    assert "'kind_image': 4" in caught.value.what
    assert "image encoder" in caught.value.fix


def test_a_spacing_excludes_pictures_that_have_none(tmp_path):
    write_pictures(tmp_path / "in", 4)
    with pytest.raises(NothingUsableError) as caught:
        learn(tmp_path / "in", tmp_path / "out", spacing_mm=(1, 1, 1))
    assert "'spacing_unknown': 4" in caught.value.what


def test_a_truncated_picture_goes_to_quarantine(tmp_path):
    pictures = write_pictures(tmp_path / "in", 7)
    (pictures / "cut.png").write_bytes((pictures / "p00.png").read_bytes()[:300])
    run = learn(pictures, tmp_path / "out", splits=("train", "val"), allow_test=True)
    assert (run.exit_code, run.result["records"]) == (4, 7)
    line = json.loads(run.ledger.read_text())
    assert (line["reason"], "cut" in json.dumps(line)) == ("truncated", False)


def test_resume_of_a_run_that_ended_before_its_first_step(tmp_path):
    pictures = write_pictures(tmp_path / "in", 4)
    with pytest.raises(UsageError):
        learn(pictures, tmp_path / "out", resume=True, crop=(1, 64, 64))
    assert learn(pictures, tmp_path / "out", resume=True).exit_code == 0


def test_no_picture_at_all(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(NothingUsableError):
        learn(tmp_path / "in", tmp_path / "out")


def test_tiny_pictures_are_padded_to_what_the_encoder_takes(tmp_path):
    write_pictures(tmp_path / "in", 6, shape=(28, 28), colour=False)
    run = learn(tmp_path / "in", tmp_path / "out", channels=1, crop=None, batch_size=1)
    assert run.exit_code == 0
    card, _ = load_card(tmp_path / "out")
    assert min(card.patch_size) > 28


def test_scaled_pictures_come_back_at_their_own_size(tmp_path):
    write_labelled_pictures(tmp_path / "data", 2, shape=(90, 130))
    tune(tmp_path / "data", tmp_path / "ft", size_px=64, batch_size=1)
    pictures = write_pictures(tmp_path / "in", 1, shape=(97, 61))
    predict.run(PredictConfig(input=pictures, out=tmp_path / "out", checkpoint=tmp_path / "ft"))
    assert Image.open(tmp_path / "out/p00_seg.png").size == (61, 97)


def test_grey_among_colour_needs_to_be_asked_for(tmp_path):
    write_labelled_pictures(tmp_path / "data", 3)
    write_picture(tmp_path / "data/images/p01.png", blob(1, colour=False)[0])
    with pytest.raises(ReadError) as caught:
        tune(tmp_path / "data", tmp_path / "ft")
    assert caught.value.reason == "channel_mismatch"
    assert tune(tmp_path / "data", tmp_path / "both", match_channels=True).exit_code == 0
    pictures = write_pictures(tmp_path / "in", 1, colour=False)
    done = predict.run(
        PredictConfig(input=pictures, out=tmp_path / "out", checkpoint=tmp_path / "both")
    )
    assert done.result["predicted"] == 1


def test_a_mask_of_another_size_stops_the_run(tmp_path):
    write_labelled_pictures(tmp_path / "data", 3)
    write_picture(tmp_path / "data/masks/p01.png", blob(1, shape=(56, 40))[1])
    with pytest.raises(ReadError) as caught:
        tune(tmp_path / "data", tmp_path / "ft")
    assert caught.value.reason == "label_shape_mismatch"
    left = tune(tmp_path / "data", tmp_path / "skipped", skip_bad_cases=True)
    assert (left.exit_code, left.result["train_cases"]) == (4, 2)


def test_a_volume_encoder_refuses_labelled_pictures(tmp_path):
    write_labelled_pictures(tmp_path / "data", 2)
    with pytest.raises(UsageError, match="takes volumes"):
        tune(tmp_path / "data", tmp_path / "ft", encoder={"name": "resenc-xs"}, crop=None)
