"""Pictures with masks as labelled data sets: folders, tables, nnU-Net 2D."""

import json

import numpy as np
import pytest

from medssl.archive.labelled import load_labelled, read_case
from medssl.core.errors import ReadError, UsageError
from tests.picture_archive import blob, write_labelled_pictures, write_picture


def test_folders_of_equal_names(tmp_path):
    labelled = load_labelled(write_labelled_pictures(tmp_path, 3))
    assert [case.name for case in labelled.cases] == ["p00", "p01", "p02"]
    assert (labelled.kind, labelled.labels) == ("image", {0: "background", 255: "label_255"})
    assert len(labelled.channels) == 3
    array, geometry, drawn = read_case(labelled.cases[1], labelled)
    np.testing.assert_array_equal(np.moveaxis(array, 0, -1), blob(1)[0])
    np.testing.assert_array_equal(drawn.labels_DHW[0], blob(1)[1])
    assert (geometry.affine, geometry.spacing_mm) == (None, None)


def test_splits_are_folders(tmp_path):
    write_labelled_pictures(tmp_path / "train", 2)
    write_labelled_pictures(tmp_path / "test", 1)
    labelled = load_labelled(tmp_path)
    assert {case.name: case.split for case in labelled.cases} == {
        "test_p00": "test", "train_p00": "train", "train_p01": "train",
    }  # fmt: skip
    assert len({case.patient for case in labelled.cases}) == 3  # p00 is not one patient


@pytest.mark.parametrize("ending", ["_mask", "_seg", "_segmentation", "_label"])
def test_masks_may_say_what_they_are(tmp_path, ending):
    write_labelled_pictures(tmp_path, 1)
    (tmp_path / "masks/p00.png").rename(tmp_path / f"masks/p00{ending}.png")
    [case] = load_labelled(tmp_path).cases
    assert case.label.name == f"p00{ending}.png"


def test_a_picture_without_mask_is_named(tmp_path):
    write_labelled_pictures(tmp_path, 2)
    (tmp_path / "masks/p01.png").unlink()
    with pytest.raises(UsageError) as caught:
        load_labelled(tmp_path)
    assert caught.value.where.endswith("p01.png")


def test_a_mask_without_picture_is_named(tmp_path):
    write_labelled_pictures(tmp_path, 2)
    (tmp_path / "images/p01.png").unlink()
    with pytest.raises(UsageError, match="no picture"):
        load_labelled(tmp_path)


def test_two_masks_of_one_picture(tmp_path):
    write_labelled_pictures(tmp_path, 1)
    write_picture(tmp_path / "masks/p00_mask.png", blob(0)[1])
    with pytest.raises(UsageError, match="2 masks"):
        load_labelled(tmp_path)


def test_a_table_with_patients_and_splits(tmp_path):
    write_labelled_pictures(tmp_path, 3)
    rows = [f"images/p0{k}.png,masks/p0{k}.png,pat{k // 2},{'test' if k == 2 else 'train'}"
            for k in range(3)]  # fmt: skip
    (tmp_path / "cases.csv").write_text("\n".join(["image,label,patient,split", *rows]))
    labelled = load_labelled(tmp_path)
    assert [case.patient for case in labelled.cases] == ["pat0", "pat0", "pat1"]
    assert [case.split for case in labelled.cases] == ["train", "train", "test"]
    assert labelled.kind == "image"


def test_nnunet_with_red_green_and_blue_in_one_file(tmp_path):
    for seed in range(2):
        picture, mask = blob(seed)
        write_picture(tmp_path / "imagesTr" / f"c{seed}_0000.png", picture)
        write_picture(tmp_path / "labelsTr" / f"c{seed}.png", mask // 255)
    content = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "polyp": 1},
        "file_ending": ".png",
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    labelled = load_labelled(tmp_path)
    assert (labelled.kind, labelled.labels[1]) == ("image", "polyp")
    array, _, drawn = read_case(labelled.cases[0], labelled)
    assert (array.shape[0], set(np.unique(drawn.labels_DHW))) == (3, {0, 1})


def test_a_picture_without_the_finding_is_a_case(tmp_path):
    write_labelled_pictures(tmp_path, 2)
    write_picture(tmp_path / "masks/p01.png", np.zeros((40, 56), np.uint8))
    labelled = load_labelled(tmp_path)
    assert not read_case(labelled.cases[1], labelled)[2].labels_DHW.any()


def test_no_finding_anywhere_is_refused(tmp_path):
    write_labelled_pictures(tmp_path, 2)
    for name in ("p00", "p01"):
        write_picture(tmp_path / f"masks/{name}.png", np.zeros((40, 56), np.uint8))
    with pytest.raises(UsageError, match="holds a label"):
        load_labelled(tmp_path)


def test_a_mask_of_another_size(tmp_path):
    write_labelled_pictures(tmp_path, 2)
    write_picture(tmp_path / "masks/p01.png", blob(1)[1].T.copy())
    labelled = load_labelled(tmp_path)
    with pytest.raises(ReadError) as caught:
        read_case(labelled.cases[1], labelled)
    assert caught.value.reason == "label_shape_mismatch"


def test_an_empty_folder(tmp_path):
    with pytest.raises(UsageError, match="no labelled data set"):
        load_labelled(tmp_path)
