"""Fine-tuning: which cases are used, what a bad label does, what --init brings."""

import json

import numpy as np
import pytest
import torch

from medssl.core.errors import ReadError, UsageError
from medssl.encoders.card import load_card
from medssl.heads.segmentation import load_model
from medssl.stages import finetune, pretrain
from medssl.stages._segment import choose_cases
from medssl.stages.finetune import FinetuneConfig
from medssl.stages.pretrain import PretrainConfig
from tests.training_archive import SHAPE, save, volume, write_images, write_labelled

OPTIONS = {
    "crop": (16, 32, 16), "batch_size": 2, "steps": 2, "accelerator": "cpu", "quiet": True,
}  # fmt: skip


@pytest.fixture
def data(tmp_path):
    return write_labelled(tmp_path / "data")


def config(data, tmp_path, **more):
    return FinetuneConfig(data=data, out=tmp_path / "ft", **{**OPTIONS, **more})


def reasons(tmp_path):
    lines = (tmp_path / "ft" / "quarantine.jsonl").read_text().splitlines()
    return [json.loads(line)["reason"] for line in lines]


def test_model_reloads_and_predicts_its_labels(data, tmp_path):
    finetune.run(config(data, tmp_path))
    model, card = load_model(tmp_path / "ft", "cpu")
    assert card.labels == {0: "background", 1: "shell", 2: "core"}
    assert card.modality == "MR"
    assert model(torch.zeros(1, 1, 16, 32, 16)).shape == (1, 3, 16, 32, 16)


def test_init_brings_encoder_and_decoder(data, tmp_path):
    archive = write_images(tmp_path / "archive", 3)
    pretrain.run(
        PretrainConfig(data=archive, out=tmp_path / "pre", splits=("train", "val"), **OPTIONS)
    )
    run = finetune.run(config(data, tmp_path, init=tmp_path / "pre", lr=0.0))
    before, after = load_card(tmp_path / "pre")[1], load_card(tmp_path / "ft")[1]
    same = [key for key, value in before.items() if torch.equal(value, after[key])]
    assert {key for key in before if key not in same} == {
        "decoder.net.seg_layers.0.weight",
        "decoder.net.seg_layers.0.bias",
    }
    assert run.result["loaded_from_init"]["decoder_tensors"] > 0


def test_init_of_another_encoder_is_refused(data, tmp_path):
    finetune.run(config(data, tmp_path))
    again = config(data, tmp_path / "b", init=tmp_path / "ft", encoder="vit3d-xs")
    with pytest.raises(UsageError, match="vit3d-xs"):
        finetune.run(again)


def test_overwriting_its_own_init_is_refused(data, tmp_path):
    finetune.run(config(data, tmp_path))
    with pytest.raises(UsageError, match="would delete --init"):
        finetune.run(config(data, tmp_path, init=tmp_path / "ft", overwrite=True))
    assert load_card(tmp_path / "ft")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda y: y[:-1], "label_shape_mismatch"),
        (lambda y: y * 3, "unknown_label_values"),
        (lambda y: y * 0, "empty_label"),
    ],
)
def test_bad_label_stops_the_run_and_names_the_file(data, tmp_path, spoil, reason):
    bad = data / "labelsTr" / "case_001.nii.gz"
    save(bad, spoil(volume(1)[1]), np.uint8)
    with pytest.raises(ReadError) as caught:
        finetune.run(config(data, tmp_path))
    assert caught.value.reason == reason
    assert str(bad) in caught.value.where
    assert reasons(tmp_path) == [reason]


def test_shifted_label_is_refused(data, tmp_path):
    affine = np.diag([1.0, 1.0, 1.5, 1.0])
    affine[0, 3] = 2.0
    save(data / "labelsTr" / "case_001.nii.gz", volume(1)[1], np.uint8, affine)
    with pytest.raises(ReadError, match="cannot be used"):
        finetune.run(config(data, tmp_path))
    assert reasons(tmp_path) == ["label_affine_mismatch"]


def test_bad_cases_can_be_left_out_on_request(data, tmp_path):
    save(data / "labelsTr" / "case_001.nii.gz", np.zeros(SHAPE), np.uint8)
    run = finetune.run(config(data, tmp_path, skip_bad_cases=True))
    assert run.exit_code == 4
    assert run.result["train_cases"] == 3


def labelled_set(tmp_path, count):
    from medssl.archive.labelled import load_labelled

    return load_labelled(write_labelled(tmp_path / "many", count))


def test_same_seed_same_patients_and_more_labels_keep_the_fewer(tmp_path):
    labelled = labelled_set(tmp_path, 8)
    few, again, more = (
        choose_cases(labelled, config(tmp_path, tmp_path, labelled=n, seed=3)) for n in (2, 2, 5)
    )
    assert few == again
    assert {case.name for case in few.train} <= {case.name for case in more.train}


def test_validation_patients_are_never_trained_on(tmp_path):
    cases = choose_cases(labelled_set(tmp_path, 12), config(tmp_path, tmp_path))
    assert len(cases.val) == 2
    assert {c.patient for c in cases.train}.isdisjoint({c.patient for c in cases.val})


def test_few_patients_are_all_trained_on(tmp_path):
    cases = choose_cases(labelled_set(tmp_path, 5), config(tmp_path, tmp_path))
    assert (len(cases.train), len(cases.val)) == (5, 0)


def test_patient_in_two_splits_is_an_error(data, tmp_path):
    table = data / "cases.csv"
    table.write_text(
        "image,label,patient,split\n"
        "imagesTr/case_000.nii.gz,labelsTr/case_000.nii.gz,p1,train\n"
        "imagesTr/case_001.nii.gz,labelsTr/case_001.nii.gz,p1,val\n"
    )
    with pytest.raises(UsageError, match="more than one split"):
        finetune.run(config(table, tmp_path))


def test_asking_for_more_patients_than_there_are(data, tmp_path):
    with pytest.raises(UsageError, match="4 labelled patients"):
        finetune.run(config(data, tmp_path, labelled=9))


def test_best_model_by_validation_is_kept_beside_the_last(tmp_path):
    data = write_labelled(tmp_path / "many", 10)
    run = finetune.run(config(data, tmp_path, check_every=1))
    best, _ = load_card(tmp_path / "ft" / "model_best")
    assert best.provenance["val_dice"] == run.result["best_val_dice"]
    assert (tmp_path / "ft" / "model" / "card.json").is_file()


def test_several_channels_train_with_their_names_in_the_card(tmp_path):
    folder = tmp_path / "nnunet"
    for seed in range(3):
        image, labels = volume(seed)
        save(folder / "imagesTr" / f"c{seed}_0000.nii.gz", image)
        save(folder / "imagesTr" / f"c{seed}_0001.nii.gz", 300 - image)
        save(folder / "labelsTr" / f"c{seed}.nii.gz", labels, np.uint8)
    content = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "shell": 1, "core": 2},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    finetune.run(config(folder, tmp_path))
    model, card = load_model(tmp_path / "ft", "cpu")
    assert card.channels == ("T1", "T2")
    assert model(torch.zeros(1, 2, 16, 32, 16)).shape[1] == 3


def test_label_values_with_gaps_come_back_as_they_were(data, tmp_path):
    for seed in range(4):
        labels = np.array([0, 4, 9], dtype=np.uint8)[volume(seed)[1]]
        save(data / "labelsTr" / f"case_{seed:03d}.nii.gz", labels, np.uint8)
    content = json.loads((data / "dataset.json").read_text())
    content["labels"] = {"0": "background", "4": "shell", "9": "core"}
    (data / "dataset.json").write_text(json.dumps(content))
    finetune.run(config(data, tmp_path))
    from medssl.stages import predict

    predict.run(
        predict.PredictConfig(
            input=data / "imagesTr", out=tmp_path / "pred", checkpoint=tmp_path / "ft"
        )
    )
    import nibabel as nib

    found = [np.unique(nib.load(p).dataobj) for p in (tmp_path / "pred").glob("*_seg.nii.gz")]
    assert len(found) == 4
    assert set(np.concatenate(found)) <= {0, 4, 9}
