"""Labelled data sets in three layouts, and the errors that name the file at fault."""

import json

import numpy as np
import pytest
from PIL import Image

from medssl.archive._phantom_dicom import write_ct_series
from medssl.archive.labelled import load_labelled, read_case
from medssl.archive.phantom import save_nifti
from medssl.core.errors import MedsslError, ReadError, UsageError

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
IMAGE = np.arange(6 * 5 * 4, dtype=np.float32).reshape(6, 5, 4)
LABEL = (IMAGE > 60).astype(np.uint8) + (IMAGE > 90)
LABELS = {"0": "background", "1": "liver", "2": "spleen"}


def write(path, array=IMAGE, affine=AFFINE, dtype=np.float32):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_nifti(path, array, affine, dtype)


def msd(folder, names=("a", "b"), **more):
    for name in names:
        write(folder / f"imagesTr/{name}.nii.gz")
        write(folder / f"labelsTr/{name}.nii.gz", LABEL, dtype=np.uint8)
    listed = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    content = {"modality": {"0": "MRI"}, "labels": LABELS, "training": listed, **more}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def nnunet(folder, channels=2, **more):
    for channel in range(channels):
        write(folder / f"imagesTr/c1_{channel:04d}.nii.gz", IMAGE + 1000 * channel)
    write(folder / "labelsTr/c1.nii.gz", LABEL, dtype=np.uint8)
    names = {str(n): name for n, name in enumerate(["T1", "FLAIR"][:channels])}
    labels = {name: int(value) for value, name in LABELS.items()}
    content = {"channel_names": names, "labels": labels, "file_ending": ".nii.gz", **more}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def first_case(folder):
    labelled = load_labelled(folder)
    image, geometry, labels = read_case(labelled.cases[0], labelled)
    return image, geometry, labels.labels_DHW


def refused(folder, expected, file):
    with pytest.raises(ReadError) as caught:
        first_case(folder)
    assert caught.value.reason == expected
    assert file in caught.value.where and file not in caught.value.what


def test_msd_layout(tmp_path):
    labelled = load_labelled(msd(tmp_path, test=["./imagesTr/a.nii.gz"], training=[]))
    assert labelled.labels == {0: "background", 1: "liver", 2: "spleen"}
    assert (labelled.channels, labelled.modality) == (("MRI",), "MR")
    (case,) = labelled.cases
    assert (case.name, case.split, case.label) == ("a", "test", None)
    image, geometry, labels = first_case(msd(tmp_path))
    np.testing.assert_array_equal(image[0], IMAGE)
    np.testing.assert_array_equal(labels, LABEL)
    np.testing.assert_allclose(geometry.affine, AFFINE, atol=1e-6)


def test_msd_4d_files_are_several_channels_in_order(tmp_path):
    msd(tmp_path, ("a",), modality={"0": "T1", "1": "FLAIR"})
    write(tmp_path / "imagesTr/a.nii.gz", np.stack([IMAGE, IMAGE + 1000]))
    image, _, _ = first_case(tmp_path)
    np.testing.assert_array_equal(image, np.stack([IMAGE, IMAGE + 1000]))


def test_nnunet_layout_joins_the_channel_files(tmp_path):
    labelled = load_labelled(nnunet(tmp_path))
    assert (labelled.channels, labelled.modality) == (("T1", "FLAIR"), "MR")
    image, _, labels = first_case(tmp_path)
    np.testing.assert_array_equal(image, np.stack([IMAGE, IMAGE + 1000]))
    np.testing.assert_array_equal(labels, LABEL)


def test_csv_with_a_dicom_folder_patients_and_splits(tmp_path):
    write_ct_series(
        tmp_path / "ct", IMAGE, AFFINE, patient="P", series_number=1, rng=np.random.default_rng(0)
    )
    write(tmp_path / "ct_label.nii.gz", LABEL[::-1], AFFINE @ flip_d(6), np.uint8)
    (tmp_path / "t.csv").write_text("image,label,patient,split\nct,ct_label.nii.gz,P7,val\n")
    labelled = load_labelled(tmp_path / "t.csv")
    (case,) = labelled.cases
    assert (case.patient, case.split, labelled.modality) == ("P7", "val", "CT")
    assert labelled.labels == {0: "background", 1: "label_1", 2: "label_2"}
    image, _, labels = first_case(tmp_path)  # the slices of the label run the other way
    np.testing.assert_array_equal(image[0], IMAGE)
    np.testing.assert_array_equal(labels, LABEL)


def flip_d(n):
    flip = np.eye(4)
    flip[2, 2], flip[2, 3] = -1, n - 1
    return flip


def test_csv_rows_of_equal_file_names_are_told_apart_by_folder(tmp_path):
    for folder in ("p1", "p2"):
        write(tmp_path / folder / "image.nii.gz")
        write(tmp_path / folder / "label.nii.gz", LABEL, dtype=np.uint8)
    rows = "".join(f"{p}/image.nii.gz,{p}/label.nii.gz\n" for p in ("p1", "p2"))
    (tmp_path / "t.csv").write_text("image,label\n" + rows)
    names = [case.name for case in load_labelled(tmp_path).cases]
    assert names == ["p1_image", "p2_image"]


def test_label_values_may_leave_numbers_out(tmp_path):
    msd(tmp_path, labels={"0": "background", "5": "liver", "9": "spleen"})
    for name in ("a", "b"):
        write(tmp_path / f"labelsTr/{name}.nii.gz", np.array([0, 5, 9])[LABEL], dtype=np.uint8)
    assert set(np.unique(first_case(tmp_path)[2])) == {0, 5, 9}
    (tmp_path / "dataset.json").unlink()
    (tmp_path / "t.csv").write_text("image,label\nimagesTr/a.nii.gz,labelsTr/a.nii.gz\n")
    assert list(load_labelled(tmp_path).labels) == [0, 5, 9]


def test_a_label_of_another_shape_is_refused(tmp_path):
    write(msd(tmp_path) / "labelsTr/a.nii.gz", LABEL[:5], dtype=np.uint8)
    refused(tmp_path, "label_shape_mismatch", "labelsTr/a.nii.gz")


@pytest.mark.parametrize(("shift_mm", "ok"), [(0.19, True), (0.21, False)])
def test_a_label_may_lie_a_tenth_of_a_voxel_off(tmp_path, shift_mm, ok):
    moved = AFFINE.copy()
    moved[1, 3] += shift_mm  # voxels are 2 mm wide
    write(msd(tmp_path) / "labelsTr/a.nii.gz", LABEL, moved, np.uint8)
    if ok:
        labelled = load_labelled(tmp_path)
        assert read_case(labelled.cases[0], labelled)[2].flags == ("label_moved_mm=0.190",)
    else:
        refused(tmp_path, "label_affine_mismatch", "labelsTr/a.nii.gz")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (LABEL * 2.0, "unknown_label_values"),
        (LABEL * 0.5, "non_integer_labels"),
        (LABEL - 1.0, "unknown_label_values"),
        (LABEL * np.nan, "non_integer_labels"),
        (LABEL * 0.0, "empty_label"),
    ],
)
def test_false_label_values_are_refused(tmp_path, labels, expected):
    write(msd(tmp_path) / "labelsTr/a.nii.gz", labels)
    refused(tmp_path, expected, "labelsTr/a.nii.gz")


def test_a_channel_on_another_grid_is_refused(tmp_path):
    nnunet(tmp_path)
    write(tmp_path / "imagesTr/c1_0001.nii.gz", affine=AFFINE @ flip_d(6))
    refused(tmp_path, "channel_affine_mismatch", "c1_0001.nii.gz")


def test_a_4d_file_with_too_few_channels_is_refused(tmp_path):
    msd(tmp_path, modality={"0": "T1", "1": "FLAIR"})
    refused(tmp_path, "channel_mismatch", "imagesTr/a.nii.gz")


@pytest.mark.parametrize("missing", ["labelsTr/a.nii.gz", "imagesTr/b.nii.gz"])
def test_a_missing_file_is_named(tmp_path, missing):
    (msd(tmp_path) / missing).unlink()
    with pytest.raises(UsageError) as caught:
        load_labelled(tmp_path)
    assert caught.value.where.endswith(missing.replace(".nii.gz", "_0000.nii.gz")) or (
        caught.value.where.endswith(missing)
    )


def test_a_missing_channel_is_named(tmp_path):
    (nnunet(tmp_path) / "imagesTr/c1_0000.nii.gz").unlink()
    with pytest.raises(UsageError) as caught:
        load_labelled(tmp_path)
    assert caught.value.where.endswith("c1_0000.nii.gz")


@pytest.mark.parametrize(
    "change",
    [
        {"labels": {"1": "spleen", "2": "liver"}},
        {"labels": {"0": "background", "300": "liver"}},
        {"labels": {"background": 0, "whole tumour": [1, 2]}},
        {"labels": {}},
        {"modality": {}},
        {"training": []},
        {"training": [{"image": "./imagesTr/a.nii.gz"}]},
        {"training": [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}] * 2},
    ],
)
def test_a_description_that_does_not_hold_together_is_refused(tmp_path, change):
    with pytest.raises(UsageError):
        load_labelled(msd(tmp_path, **change))


@pytest.mark.parametrize("text", ["image,label\n", "a,b\n1,2\n", "image,label,split\n,x.nii,\n"])
def test_tables_without_usable_rows_are_refused(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UsageError):
        load_labelled(tmp_path)


def test_a_folder_without_description_says_what_is_wanted(tmp_path):
    with pytest.raises(UsageError, match=r"dataset\.json"):
        load_labelled(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(MedsslError):
        load_labelled(tmp_path)


@pytest.mark.real
def test_the_hippocampus_set_loads_and_has_all_labels(medssl_data):
    labelled = load_labelled(medssl_data / "hippocampus")
    assert labelled.labels == {0: "background", 1: "Anterior", 2: "Posterior"}
    assert (len(labelled.cases), labelled.modality) == (184, "MR")
    for case in labelled.cases[:20]:
        image, geometry, labels = read_case(case, labelled)
        assert image.shape[1:] == labels.labels_DHW.shape
        assert set(np.unique(labels.labels_DHW)) == {0, 1, 2} and labels.flags == ()
        assert geometry.spacing_mm == pytest.approx((1, 1, 1))


def test_a_table_of_class_names_is_sent_to_classification(tmp_path):
    write(tmp_path / "a.nii.gz")
    (tmp_path / "t.csv").write_text("image,label\na.nii.gz,benign\n")
    with pytest.raises(UsageError, match="no label of the table is a file") as caught:
        load_labelled(tmp_path / "t.csv")
    assert "--task classification" in caught.value.fix


def test_files_of_one_name_that_lie_elsewhere_are_named_by_their_folders(tmp_path):
    for site in ("a", "b"):
        for part, value in (("images", 50), ("masks", 1)):
            picture = Image.fromarray(np.full((8, 8), value, np.uint8))
            (tmp_path / "data" / site / part).mkdir(parents=True)
            picture.save(tmp_path / "data" / site / part / "0.png")
    rows = [f"{tmp_path}/data/{s}/images/0.png,{tmp_path}/data/{s}/masks/0.png" for s in "ab"]
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "t.csv").write_text("\n".join(["image,label", *rows]))
    labelled = load_labelled(tmp_path / "tables" / "t.csv")
    assert [case.name for case in labelled.cases] == ["a_images_0", "b_images_0"]
