"""Comparisons on pictures with masks and with classes; public weights; channels in files."""

import json
import shutil

import pytest
import timm
from safetensors.torch import save_file

import medssl
from medssl.archive.labelled import load_labelled
from medssl.core.errors import NothingUsableError
from medssl.stages._compare_data import digests, link_tested, load, write_learnt
from medssl.stages._paired import case_scores
from tests.picture_archive import blob, write_labelled_pictures, write_picture, write_pictures
from tests.training_archive import save, volume

ENCODER = "timm/test_resnet"
FINETUNE = {"steps": 2, "batch_size": 2, "crop": (64, 64), "accelerator": "cpu"}
COMMON = {"labels": (2,), "seeds": 2, "finetune": FINETUNE, "quiet": True}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    base = tmp_path_factory.mktemp("pictures")
    write_pictures(base / "archive", 3)
    options = {**FINETUNE, "steps": 1, "channels": 3, "splits": ("train", "val"), "quiet": True}
    return medssl.pretrain(
        data=base / "archive", out=base / "simclr", objective="simclr", encoder=ENCODER,
        health=False, **options,
    ).out  # fmt: skip


def write_classes(folder, count=5, split=""):
    """Large and small disks, a folder each."""
    for seed in range(count):
        for name, shape in (("large", (40, 56)), ("small", (20, 28))):
            place = folder / split / name / f"{seed}.png"
            write_picture(place, blob(100 + seed + len(name), shape)[0])
    return folder


def test_pictures_with_masks_are_compared_on_the_folder_that_is_called_test(pretrained, tmp_path):
    data = tmp_path / "data"
    write_labelled_pictures(data / "train", 4, first=20)
    write_labelled_pictures(data / "test", 3, first=30)
    found = medssl.compare(data=data, init=pretrained, out=tmp_path / "out", **COMMON)
    assert found.result["test"] == {"cases": 3, "patients": 3, "drawn": False}
    assert [row["arm"] for row in found.result["rows"]] == ["scratch", "simclr"]
    assert not (tmp_path / "out" / "labelled").exists()


def test_classes_are_compared_by_their_balanced_accuracy(pretrained, tmp_path):
    data = write_classes(tmp_path / "data")
    found = medssl.compare(
        data=data, init=pretrained, out=tmp_path / "out", task="classification", **COMMON
    )
    assert found.result["measure"] == "balanced_accuracy"
    assert found.result["test"]["drawn"]
    for file in (tmp_path / "out" / "runs").glob("*/metrics.json"):
        own = {row["case"]: row["case"] for row in json.loads(file.read_text())["cases"]}
        scores = list(case_scores(file, own, "balanced_accuracy").values())
        whole = json.loads(file.read_text())["balanced_accuracy"]["mean"]
        assert sum(scores) / len(scores) == pytest.approx(whole)


@pytest.mark.parametrize(
    ("column", "value"), [("label", "large"), ("patient", "p1"), ("split", "val")]
)
def test_a_class_a_patient_or_a_split_that_was_changed_is_another_plan(tmp_path, column, value):
    rows = []
    for n in range(6):
        write_picture(tmp_path / f"{n}.png", blob(n)[0])
        label, split = ("small", "large")[n % 2], ("train", "test")[n // 4]
        rows.append({"image": f"{n}.png", "label": label, "patient": f"p{n}", "split": split})

    def digest():
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
        (tmp_path / "labelled.csv").write_text("\n".join(lines) + "\n")
        data = load(tmp_path, "classification", 0.3)
        return digests(data, {case.name: ["ab"] for case in (*data.learnt, *data.tested)})

    before = digest()
    assert before == digest()
    rows[2][column] = value
    assert before != digest()


def test_test_cases_of_one_class_are_refused(tmp_path):
    """A network that always says this class would have a balanced accuracy of 1."""
    write_classes(tmp_path, 3, split="train")
    write_classes(tmp_path, 2, split="test")
    assert load(tmp_path, "classification", 0.3).tested_classes() == {"large": 2, "small": 2}
    shutil.rmtree(tmp_path / "test" / "small")
    with pytest.raises(NothingUsableError, match="all of one class"):
        load(tmp_path, "classification", 0.3)


def test_the_owner_alone_reads_where_scans_lie(pretrained, tmp_path):
    data = load(write_classes(tmp_path / "data"), "classification", 0.3)
    write_learnt(data, tmp_path / "data", tmp_path / "labelled")
    link_tested(data, tmp_path / "test")
    for file in ("labelled/labelled.csv", "test/references/classes.csv", "test/patients.csv"):
        assert (tmp_path / file).stat().st_mode & 0o077 == 0
    assert (tmp_path / "test" / "images").stat().st_mode & 0o077 == 0
    tested = {path.resolve() for path in (tmp_path / "test" / "images").iterdir()}
    again = load(tmp_path / "labelled", "classification", 0.3)
    assert tested.isdisjoint(case.images[0].resolve() for case in again.learnt + again.tested)


def test_public_weights_from_a_file_are_an_arm_whose_past_is_unknown(tmp_path):
    file = tmp_path / "public.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), file)
    data = write_labelled_pictures(tmp_path / "data", 5, first=20)
    given = {**COMMON, "seeds": 1}
    found = medssl.compare(data=data, init=f"{ENCODER}={file}", out=tmp_path / "out", **given)
    scratch, public = found.result["arms"]
    assert (scratch["overlap"], public["overlap"]) == ("none found", "unknown")
    assert public["name"] == "timm_test_resnet"
    assert "is not known" in (tmp_path / "out" / "results.md").read_text()
    for name in ("results.json", "results.md", "compare.html", "config.yaml", "run.json"):
        assert str(tmp_path) not in (tmp_path / "out" / name).read_text()


def test_channels_in_files_of_their_own_stay_together(tmp_path):
    """nnU-Net's layout, without test cases: what is learnt from is written as Decathlon."""
    data = tmp_path / "data"
    for n in range(4):
        image, labels = volume(n)
        for channel in range(2):
            save(data / "imagesTr" / f"case_{n}_{channel:04d}.nii.gz", image + channel)
        save(data / "labelsTr" / f"case_{n}.nii.gz", labels, "uint8")
    names = {"background": 0, "shell": 1, "core": 2}
    content = {"channel_names": {"0": "T1", "1": "T2"}, "labels": names, "file_ending": ".nii.gz"}
    (data / "dataset.json").write_text(json.dumps({**content, "numTraining": 4}))
    found = load(data, "segmentation", 0.3)
    written = load_labelled(write_learnt(found, data, tmp_path / "labelled"))
    assert [case.images for case in written.cases] == [
        tuple(path.resolve() for path in case.images) for case in found.learnt
    ]
    assert written.labels == found.labelled.labels
    link_tested(found, tmp_path / "test")
    assert len(list((tmp_path / "test" / "images").iterdir())) == 2 * len(found.tested)
