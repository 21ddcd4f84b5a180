"""Few-label segmentation of slices runs from phantoms to its table, decoder included."""

import json

import pytest

from pipelines import few_label_slices
from pipelines._cases import phantoms
from pipelines._msd import link_cases
from pipelines.few_label_slices import main


def test_nobody_is_trained_and_tested_on(tmp_path):
    train, test = phantoms(tmp_path / "phantom", 12)
    assert (len(train), len(test)) == (4, 2)
    assert not train.keys() & test.keys()
    assert (train, test) == phantoms(tmp_path / "phantom", 12)


def test_there_are_enough_volumes_for_the_largest_number_of_labels():
    labelled = few_label_slices.PATIENTS // 2
    assert labelled - labelled // 3 >= max(few_label_slices.LABELS)


def test_a_data_set_of_some_cases_names_no_others(tmp_path):
    (tmp_path / "all").mkdir()
    described = {"training": [{"image": "a"}, {"image": "b"}], "test": ["c"]}
    (tmp_path / "all" / "dataset.json").write_text(json.dumps(described))
    folder = link_cases(tmp_path / "all", tmp_path / "some", ["b"])
    told = json.loads((folder / "dataset.json").read_text())
    assert [entry["image"] for entry in told["training"]] == ["./imagesTr/b.nii.gz"]
    assert told["test"] == []


@pytest.mark.slow
def test_smoke(tmp_path):
    main(out=tmp_path / "runs", smoke=True, results=tmp_path / "table.md")
    assert "| 1 | 2 |" in (tmp_path / "table.md").read_text()
    run = tmp_path / "runs" / "pretrained_labels1_seed0_steps2" / "finetune" / "run.json"
    loaded = json.loads(run.read_text())["loaded_from_init"]
    assert loaded["encoder_tensors"] > 100
    assert loaded["decoder_tensors"] > 10
