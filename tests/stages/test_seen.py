"""What a pretraining has seen is written down, and met again in whatever file it lies."""

import gzip
import json

import nibabel as nib
import pytest

from medssl.archive.labelled import load_labelled
from medssl.core.config import Component
from medssl.core.errors import UsageError
from medssl.stages import _seen
from medssl.stages._seen import (
    NOTHING,
    UNKNOWN,
    Seen,
    pixels_of,
    read_seen,
    refuse_copies,
    seen_before,
    write_seen,
)
from medssl.stages.pretrain import PretrainConfig, run
from tests.training_archive import write_images, write_labelled

OPTIONS = {
    "crop": (16, 32, 16), "batch_size": 2, "steps": 1, "accelerator": "cpu", "quiet": True,
    "health": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """On the first two of the volumes that ``write_labelled`` gives labels to."""
    base = tmp_path_factory.mktemp("seen")
    archive = write_images(base / "archive", 2)
    config = PretrainConfig(
        data=archive, out=base / "run", splits=("train", "val"), allow_test=True, **OPTIONS
    )
    return run(config).out


def hashes(folder, count=4):
    labelled = load_labelled(write_labelled(folder, count))
    return {case.name: pixels_of(case) for case in labelled.cases}


def test_test_scans_of_a_pretraining_are_met_again(pretrained, tmp_path):
    found = read_seen(pretrained).overlap(hashes(tmp_path))
    assert found == ("transductive", ["case_000", "case_001"])


def test_scans_that_were_not_there_are_not_found(pretrained, tmp_path):
    tested = {k: v for k, v in hashes(tmp_path).items() if k > "case_001"}
    assert read_seen(pretrained).overlap(tested) == ("none found", [])


def test_another_file_of_the_same_pixels_is_met(pretrained, tmp_path):
    tested = hashes(tmp_path / "one")
    data = write_labelled(tmp_path / "two")
    file = data / "imagesTr" / "case_000.nii.gz"
    image = nib.load(file)
    nib.save(nib.Nifti1Image(image.get_fdata(), image.affine), tmp_path / "copy.nii")
    file.write_bytes(gzip.compress((tmp_path / "copy.nii").read_bytes(), 1))
    labelled = load_labelled(data)
    again = {case.name: pixels_of(case) for case in labelled.cases}
    assert again["case_000"] == tested["case_000"]


def test_the_model_folder_alone_says_it_too_and_holds_hashes_only(pretrained):
    assert read_seen(pretrained / "model") == read_seen(pretrained)
    content = json.loads((pretrained / "model" / "seen.json").read_text())
    assert content["complete"] is True
    assert all(len(one) == 64 and int(one, 16) for one in content["pixel_hashes"])
    assert len(content["pixel_hashes"]) == 2


def test_what_a_run_began_with_is_seen_too(pretrained, tmp_path):
    more = write_images(tmp_path / "more", 3)
    config = PretrainConfig(
        data=more, out=tmp_path / "run", init=pretrained, splits=("train", "val"), **OPTIONS
    )
    before, after = read_seen(pretrained), read_seen(run(config).out)
    assert before.pixels < after.pixels
    assert after.complete


def test_nobody_knows_what_public_weights_have_seen(tmp_path):
    public = Component(name="timm/resnet18", weights="timm")
    plain = Component(name="mae")
    assert seen_before([], public, plain) == [UNKNOWN]
    assert seen_before([None], Component(name="resenc-xs"), plain) == []
    write_seen(tmp_path, ["a" * 64], [UNKNOWN])
    assert read_seen(tmp_path).overlap({"case": ["b"]}) == ("unknown", [])
    assert read_seen(tmp_path).overlap({"case": ["a" * 64]}) == ("transductive", ["case"])


def test_teachers_have_seen_what_they_have_seen(tmp_path):
    (tmp_path / "teacher").mkdir()
    write_seen(tmp_path / "teacher", ["c"])
    plain = Component(name="resenc-xs")
    learner = Component(name="self_distill", teacher=str(tmp_path / "teacher"))
    assert seen_before([], plain, learner) == [Seen(frozenset("c"), complete=True)]
    lost = Component(name="supervoxel", teacher={"name": str(tmp_path / "gone")})
    assert seen_before([], plain, lost) == [UNKNOWN]


def test_lossy_pictures_are_unknown_to_other_decoders(tmp_path, monkeypatch):
    for name in ("plain", "lossy", "later"):
        (tmp_path / name).mkdir()
    write_seen(tmp_path / "plain", ["a"])
    write_seen(tmp_path / "lossy", ["a"], lossy=True)
    write_seen(tmp_path / "later", ["b"], [read_seen(tmp_path / "lossy")])
    assert all(read_seen(tmp_path / name).complete for name in ("plain", "lossy", "later"))
    monkeypatch.setattr(_seen, "decoders", lambda: "another decoder 9.9")
    assert read_seen(tmp_path / "plain").complete
    for name in ("lossy", "later"):
        assert read_seen(tmp_path / name).overlap({"case": ["c"]}) == ("unknown", [])


def test_a_list_of_other_hashes_is_unknown(tmp_path):
    (tmp_path / "seen.json").write_text('{"complete": true, "pixel_hashes": ["a"]}')
    assert read_seen(tmp_path) == UNKNOWN


def test_a_run_without_a_list_is_unknown_and_no_run_at_all_has_seen_nothing(tmp_path):
    assert read_seen(tmp_path) == UNKNOWN
    assert NOTHING.overlap({"case": ["a"]}) == ("none found", [])


def test_copies_between_test_and_labelled_training_cases_are_refused():
    refuse_copies({"t": ["a"]}, [["b"], ["c"]])
    with pytest.raises(UsageError, match="1 test cases"):
        refuse_copies({"t": ["a"], "u": ["d"]}, [["b", "a"]])
