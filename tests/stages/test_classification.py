"""Classes from end to end: which patients are used, what is written, what is refused."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medssl.archive.labelled_classes import ClassCase, LabelledClasses, load_classes
from medssl.core.errors import ConfigError, ReadError, UsageError
from medssl.encoders.card import load_card
from medssl.heads.classification import load_model
from medssl.stages import finetune
from medssl.stages._classify import choose_cases, scores, stratified_order, without_copies
from medssl.stages._kinds import Stored
from medssl.stages.finetune import FinetuneConfig
from tests.picture_archive import write_picture
from tests.training_archive import save, volume

OPTIONS = {
    "task": "classification", "batch_size": 2, "steps": 2, "accelerator": "cpu", "quiet": True,
}  # fmt: skip
VOLUMES = {"crop": (16, 32, 16), "encoder": "resenc-xs"}
PICTURES = {"crop": (64, 64), "encoder": "timm/resnet10t"}


def disk(seed, bright, side=40):
    """A grey picture with a disk; bright or dark is the class."""
    rng = np.random.default_rng(seed)
    far = np.hypot(*(np.indices((side, side + 8)) - side / 2 + rng.normal(0, 2, (2, 1, 1))))
    inside = far < side / 4
    return (90 + rng.integers(0, 30, inside.shape) + (100 if bright else -60) * inside).astype("u1")


def write_disks(folder, count=4, first=0):
    for seed in range(first, first + count):
        name = ("dark", "bright")[seed % 2]
        write_picture(folder / name / f"p{seed:03d}.png", disk(seed, bool(seed % 2)))
    return folder


def write_volumes(folder, count=4):
    lines = ["image,label,patient"]
    for seed in range(count):
        image, labels = volume(seed)
        low = seed % 2
        save(folder / f"s{seed}.nii.gz", image - (170 * (labels > 0) if low else 0))
        lines.append(f"s{seed}.nii.gz,{('high', 'low')[low]},p{seed}")
    (folder / "classes.csv").write_text("\n".join(lines) + "\n")
    return folder


def config(data, tmp_path, **more):
    return FinetuneConfig(data=data, out=tmp_path / "ft", **{**OPTIONS, **more})


def labelled(*patients):
    """One case per (patient, class, split)."""
    cases = tuple(
        ClassCase(name=f"{who}{k}", images=(), label=None, patient=who, split=split, target=target)
        for k, (who, target, split) in enumerate(patients)
    )
    names = {k: f"class {k}" for k in sorted({case.target for case in cases})}
    return LabelledClasses(labels=names, channels=("x",), modality="MR", cases=cases)


def many(*per_class):
    """Patients with one case each: ``many(6, 4)`` has 6 of class 0."""
    numbered = [(f"{k}-{i}", k, None) for k, count in enumerate(per_class) for i in range(count)]
    return labelled(*numbered)


def choose(data, **more):
    options = {"labelled": None, "seed": 0, "val_fraction": 0.2, **more}
    return choose_cases(data, SimpleNamespace(**options))


def patients(cases):
    return {case.patient for case in cases}


@pytest.mark.parametrize("seed", range(5))
def test_any_number_of_patients_shows_every_class_and_their_shares(seed):
    order, least, main = stratified_order(many(60, 30, 10).cases, seed)
    assert least == 3
    assert {main[who] for who in order[:3]} == {0, 1, 2}
    for n in (10, 20, 50, 100):
        found = Counter(main[who] for who in order[:n])
        assert all(abs(found[k] - n * share) <= 1 for k, share in enumerate((0.6, 0.3, 0.1)))


def test_a_smaller_choice_is_part_of_a_larger_one():
    small, large = (choose(many(30, 12), labelled=n) for n in (10, 30))
    assert patients(small.train) < patients(large.train)
    assert patients(choose(many(30, 12), labelled=10, seed=1).train) != patients(small.train)


def test_validation_holds_every_class_and_no_patient_of_training():
    cases = choose(many(50, 6))
    assert {case.target for case in cases.val} == {0, 1}
    assert not patients(cases.train) & patients(cases.val)
    assert len(cases.train) + len(cases.val) == 56


def test_few_patients_all_train():
    assert choose(many(5, 4)).val == []
    assert choose(many(50, 6), val_fraction=0.0).val == []


def test_a_class_of_two_patients_is_not_set_aside():
    cases = choose(many(40, 2))
    assert sum(case.target == 1 for case in cases.train) == 2


def test_all_cases_of_a_patient_stay_together():
    twice = [(who, k % 2, None) for k in range(24) for who in [f"p{k % 12}"] * 2]
    cases = choose(labelled(*twice))
    assert not patients(cases.train) & patients(cases.val)
    assert len(cases.val) > 0


def test_named_splits_are_kept_and_test_is_never_touched():
    data = labelled(
        ("a", 0, "train"), ("b", 1, "train"), ("c", 0, "val"), ("d", 1, "test"), ("e", 1, None)
    )
    cases = choose(data)
    assert patients(cases.train) == {"a", "b", "e"}
    assert patients(cases.val) == {"c"}


def test_a_class_in_the_test_split_alone_is_refused():
    with pytest.raises(UsageError, match="no case to learn from"):
        choose(labelled(("a", 0, "train"), ("b", 1, "test")))


@pytest.mark.parametrize(("wanted", "fix"), [(1, "labelled=2"), (99, "labelled=10")])
def test_too_few_or_too_many_patients_are_refused(wanted, fix):
    with pytest.raises(UsageError) as caught:
        choose(many(5, 5), labelled=wanted)
    assert caught.value.fix == fix


def test_a_class_seen_only_beside_a_rarer_one_is_shown():
    data = labelled(("a", 1, None), ("a", 0, None), *[(f"p{k}", 2, None) for k in range(9)])
    assert {case.target for case in choose(data, labelled=2).train} == {0, 1, 2}


def test_validation_scores_of_one_class_have_no_auroc():
    p = np.array([[0.9, 0.1], [0.4, 0.6]])
    assert scores(np.array([0, 0]), p) == {"val_balanced_accuracy": 0.5}
    assert scores(np.array([0, 1]), p) == {"val_balanced_accuracy": 1.0, "val_auroc": 1.0}


@pytest.mark.parametrize("kind", ["volumes", "pictures"])
def test_model_reloads_and_names_its_classes(tmp_path, kind):
    write, options = {"volumes": (write_volumes, VOLUMES), "pictures": (write_disks, PICTURES)}[
        kind
    ]
    data = write(tmp_path / "data")
    run = finetune.run(config(data, tmp_path, **options))
    model, card = load_model(tmp_path / "ft", "cpu")
    assert list(card.labels.values()) == sorted(load_classes(data).labels.values())
    assert (card.head, card.parts) == ("classification", ("encoder", "classifier"))
    assert model(torch.zeros(3, 1, *options["crop"])).shape == (3, 2)
    assert run.result["train_cases_per_class"] == [2, 2]


def test_training_learns_and_keeps_the_best_on_validation(tmp_path):
    data = tmp_path / "data"
    write_disks(data / "train", 6)
    write_disks(data / "val", 2, first=6)
    options = {**PICTURES, "steps": 30, "batch_size": 4, "check_every": 15, "lr": 1e-3}
    run = finetune.run(config(data, tmp_path, **options))
    assert (run.result["train_cases"], run.result["val_cases"]) == (6, 2)
    assert run.result["best_val_auroc"] == 1.0
    best, _ = load_card(tmp_path / "ft", best=True)
    assert best.provenance["val_auroc"] == 1.0
    logged = [json.loads(s) for s in (tmp_path / "ft" / "metrics.jsonl").read_text().splitlines()]
    assert {"ce", "accuracy", "loss"} <= logged[0].keys()


def test_resume_is_bitwise(tmp_path):
    data = write_disks(tmp_path / "data", 4)
    whole = config(data, tmp_path, **{**PICTURES, "steps": 4, "check_every": 2})
    finetune.run(whole)
    once = load_card(tmp_path / "ft")[0].weights_sha256
    for path in (tmp_path / "ft" / "checkpoints").glob("*4*"):
        path.unlink()
    finetune.run(whole.model_copy(update={"resume": True}))
    assert load_card(tmp_path / "ft")[0].weights_sha256 == once


def test_another_label_makes_another_run(tmp_path):
    data = write_volumes(tmp_path / "data")
    finetune.run(config(data, tmp_path, **VOLUMES))
    table = data / "classes.csv"
    table.write_text(table.read_text().replace("s0.nii.gz,high", "s0.nii.gz,low"))
    with pytest.raises(UsageError, match="another configuration"):
        finetune.run(config(data, tmp_path, **VOLUMES, resume=True))


def test_one_picture_in_two_classes_is_refused(tmp_path):
    data = write_disks(tmp_path / "data")
    write_picture(data / "bright" / "copy.png", disk(0, False))
    with pytest.raises(ReadError, match="same pixels in two classes") as caught:
        finetune.run(config(data, tmp_path, **PICTURES))
    assert caught.value.reason == "contradicting_classes"
    assert "copy.png" in caught.value.where


def test_copies_of_training_pictures_leave_the_validation_set():
    def stored(name, pixels, target, split=None):
        case = ClassCase(
            name=name, images=(name,), label=None, patient=name, split=split, target=target
        )
        return Stored(case, SimpleNamespace(pixel_hash=pixels))

    train, val = (
        [stored("a", "1", 0), stored("b", "2", 1)],
        [stored("c", "2", 1), stored("d", "3", 0)],
    )
    (kept_train, kept_val), flags = without_copies(train, val)
    assert kept_train == train
    assert [one.case.name for one in kept_val] == ["d"]
    assert flags == {"copy_of_training_case": 1}
    assert without_copies(train, val[1:])[1] == {}


def test_copies_across_named_splits_are_an_error(tmp_path):
    for split in ("train", "val"):
        write_disks(tmp_path / "data" / split, 2)
    with pytest.raises(UsageError, match="copies of training images"):
        finetune.run(config(tmp_path / "data", tmp_path, **PICTURES))


def test_a_broken_picture_stops_the_run_or_is_left_out(tmp_path):
    data = write_disks(tmp_path / "data", 4)
    (data / "dark" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(ReadError) as caught:
        finetune.run(config(data, tmp_path, **PICTURES))
    assert "broken.png" in caught.value.where
    run = finetune.run(config(data, tmp_path, **PICTURES, skip_bad_cases=True, overwrite=True))
    assert (run.exit_code, run.result["quarantined"]) == (4, 1)
    assert "broken" not in (tmp_path / "ft" / "quarantine.jsonl").read_text()


def test_init_brings_the_encoder_and_never_the_classes(tmp_path):
    data = write_disks(tmp_path / "data", 4)
    finetune.run(config(data, tmp_path, **PICTURES))
    again = FinetuneConfig(
        data=data, out=tmp_path / "more", init=tmp_path / "ft", crop=(64, 64), **OPTIONS
    ).model_copy(update={"lr": 0.0})
    run = finetune.run(again)
    before, after = load_card(tmp_path / "ft")[1], load_card(tmp_path / "more")[1]
    trained = [k for k in before if k.endswith(("weight", "bias"))]
    same = {key for key in trained if torch.equal(before[key], after[key])}
    assert {key for key in trained if key not in same} <= {
        "classifier.linear.weight", "classifier.linear.bias",
    }  # fmt: skip
    assert run.result["loaded_from_init"]["encoder_tensors"] > 0


def test_a_misspelt_task_leaves_no_run_folder(tmp_path):
    with pytest.raises(ConfigError) as caught:
        finetune.run(config(tmp_path, tmp_path, task="clasification"))
    assert caught.value.fix == "did you mean 'classification'?"
    assert not (tmp_path / "ft").exists()
