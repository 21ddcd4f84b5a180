"""Anatomy mining on CT runs from phantoms to its table; pairs come from the embedding's run."""

import json

import nibabel as nib
import numpy as np
import pytest
import yaml

from medssl.stages._shown import HIDDEN
from pipelines import ct_anatomy
from pipelines._cases import cases_of
from pipelines.ct_anatomy import main


def test_labelled_phantoms_are_bodies_in_hounsfield_units(tmp_path):
    cases = cases_of(None, tmp_path, patients=8, modality="CT", tested=1)
    assert (len(cases.pool), len(cases.test)) == (3, 1)
    folder, [case] = cases.folder, cases.test
    hu = np.asarray(nib.load(folder / "imagesTr" / f"{case}.nii.gz").dataobj)
    organs = np.asarray(nib.load(folder / "labelsTr" / f"{case}.nii.gz").dataobj)
    assert np.median(hu[organs == 1]) == pytest.approx(60, abs=3)  # liver
    assert 0.2 < (hu > -200).mean() < 0.8  # a body in air
    assert json.loads((folder / "dataset.json").read_text())["modality"] == {"0": "CT"}


def test_cases_of_a_folder_follow_its_split(tmp_path):
    split = {"train": ["h_001", "h_002", "h_004"], "test": ["h_007", "h_009", "h_010"]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    cases = cases_of(tmp_path, tmp_path / "phantom", patients=8, tested=None)
    assert cases.pool == {"h_001": ["h_001", "h_002"], "h_004": ["h_004"]}
    assert cases.groups == {"h_007": "h_007", "h_009": "h_009", "h_010": "h_009"}
    assert not (tmp_path / "phantom").exists()


def test_there_are_enough_volumes_for_the_largest_number_of_labels():
    labelled = ct_anatomy.PATIENTS // 2
    assert labelled - labelled // 3 >= max(ct_anatomy.LABELS)


@pytest.mark.slow
def test_smoke(tmp_path):
    out = tmp_path / "runs"
    main(out=out, smoke=True, results=tmp_path / "table.md")
    assert "| 1 | 2 |" in (tmp_path / "table.md").read_text()
    mined = yaml.safe_load((out / "pretrain" / "config.yaml").read_text())
    assert mined["objective"]["embedding"] == HIDDEN
    assert list((out / "catalog" / "store").glob("*/embeddings/*"))
    run = out / "pretrained_labels1_seed0_steps2" / "finetune" / "run.json"
    assert json.loads(run.read_text())["loaded_from_init"]["encoder_tensors"] > 50
    before = (out / "pretrain" / "run.json").stat().st_mtime_ns
    main(out=out, smoke=True, results=tmp_path / "again.md")
    assert (out / "pretrain" / "run.json").stat().st_mtime_ns == before
    assert (tmp_path / "again.md").read_text() == (tmp_path / "table.md").read_text()
