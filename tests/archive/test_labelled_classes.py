"""Data sets with classes: tables, folders, patients, and what is refused."""

import numpy as np
import pydicom
import pytest
from PIL import Image

from medssl.archive._phantom_dicom import write_ct_series
from medssl.archive.labelled import read_case
from medssl.archive.labelled_classes import load_classes
from medssl.core.errors import ReadError, UsageError
from tests.training_archive import save, volume


def picture(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(256, size=(12, 16), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def table(folder, *rows, header="image,label"):
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        name = row.split(",")[0]
        if name and not (folder / name).exists():
            picture(folder / name, len(name))
    path = folder / "classes.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def targets(data):
    return {case.name: data.labels.get(case.target) for case in data.cases}


def test_a_table_names_classes_in_sorted_order(tmp_path):
    data = load_classes(table(tmp_path, "a.png,pneumonia", "b.png,normal", "c.png, normal "))
    assert data.labels == {0: "normal", 1: "pneumonia"}
    assert targets(data) == {"a": "pneumonia", "b": "normal", "c": "normal"}
    assert data.channels == ("channel_0",)


def test_the_folder_of_a_table_will_do(tmp_path):
    table(tmp_path, "a.png,x", "b.png,y", "c.png,y")
    assert len(load_classes(tmp_path).cases) == 3


def test_a_row_without_label_is_counted_and_not_used(tmp_path):
    data = load_classes(table(tmp_path, "a.png,x", "b.png,y", "c.png,", "d.png,x"))
    assert [case.target for case in data.cases] == [0, 1, None, 0]
    assert data.skipped == {"unlabelled": 1}


def test_columns_patient_and_split(tmp_path):
    rows = ("a.png,x,p1,train", "b.png,y,p1,train", "c.png,y,p2,test", "d.png,x,p3,")
    data = load_classes(table(tmp_path, *rows, header="image,label,patient,split"))
    assert [case.patient for case in data.cases] == ["p1", "p1", "p2", "p3"]
    assert [case.split for case in data.cases] == ["train", "train", "test", None]


def test_equal_file_names_in_two_folders_are_two_patients(tmp_path):
    data = load_classes(table(tmp_path, "x/1.png,x", "y/1.png,y", "y/2.png,y"))
    assert len({case.patient for case in data.cases}) == 3
    assert len({case.name for case in data.cases}) == 3


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_patient_in_two_splits_is_refused(tmp_path, split):
    rows = ("a.png,x,p1,train", f"b.png,y,p1,{split}", "c.png,y,p2,train")
    with pytest.raises(UsageError, match="1 patients stand in more than one split"):
        load_classes(table(tmp_path, *rows, header="image,label,patient,split"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (("a.png,x", "b.png,x", "c.png,x"), "has 1 class"),
        (("a.png,", "b.png,"), "has 0 class"),
        (("a.png,x", "b.png,X", "c.png,y"), "upper and lower case"),
        (("a.png,x", "a.png,y", "c.png,y"), "an image has two classes"),
        (("a.png,x", "a.png,x", "c.png,y"), "an image is listed twice"),
        (tuple(f"{k}.png,{k}" for k in range(10)), "a class of its own"),
        ((",x", "b.png,y", "c.png,y"), "names no image"),
        ((), "no rows with image and label"),
    ],
)
def test_tables_that_make_no_sense_are_refused(tmp_path, rows, message):
    with pytest.raises(UsageError, match=message):
        load_classes(table(tmp_path, *rows))


def test_a_table_of_label_files_is_sent_to_segmentation(tmp_path):
    picture(tmp_path / "a_mask.png")
    with pytest.raises(UsageError, match="labels of the table are files") as caught:
        load_classes(table(tmp_path, "a.png,a_mask.png", "b.png,normal"))
    assert "--task segmentation" in caught.value.fix


def test_a_missing_file_is_named(tmp_path):
    path = table(tmp_path, "a.png,x", "b.png,y", "c.png,y")
    (tmp_path / "b.png").unlink()
    with pytest.raises(UsageError, match="missing") as caught:
        load_classes(path)
    assert caught.value.where.endswith("b.png")


def test_a_folder_per_class_at_any_depth(tmp_path):
    picture(tmp_path / "normal" / "1.png", 1)
    picture(tmp_path / "pneumonia" / "bacterial" / "1.png", 2)
    picture(tmp_path / "pneumonia" / "2.jpg", 3)
    (tmp_path / "pneumonia" / "notes.txt").write_text("x")
    picture(tmp_path / "__MACOSX" / "junk" / "1.png", 4)
    data = load_classes(tmp_path)
    assert sorted(targets(data).values()) == ["normal", "pneumonia", "pneumonia"]
    assert len({case.patient for case in data.cases}) == 3
    assert sum(data.skipped.values()) == 1


def test_folders_of_splits(tmp_path):
    for number, place in enumerate(("train/x", "train/y", "val/x", "test/y")):
        picture(tmp_path / place / "1.png", number)
    data = load_classes(tmp_path)
    assert {(case.split, data.labels[case.target]) for case in data.cases} == {
        ("train", "x"), ("train", "y"), ("val", "x"), ("test", "y"),
    }  # fmt: skip


def test_volumes_and_bids_subjects(tmp_path):
    for number, place in enumerate(("x/sub-01/t1.nii.gz", "x/sub-01/t2.nii.gz", "y/s2.nii.gz")):
        save(tmp_path / place, volume(number)[0])
    data = load_classes(tmp_path)
    assert [case.patient for case in data.cases] == ["sub-01", "sub-01", "y/s2.nii.gz"]


def test_a_broken_picture_is_a_case_that_fails_later(tmp_path):
    picture(tmp_path / "a" / "1.png")
    picture(tmp_path / "b" / "1.png", 1)
    (tmp_path / "a" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    data = load_classes(tmp_path)
    assert len(data.cases) == 3
    assert data.channels == ("channel_0",)  # from one that can be read


def test_nothing_but_broken_pictures_is_a_read_error(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(ReadError):
        load_classes(tmp_path)


def test_folders_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        load_classes(tmp_path / "nothing")
    with pytest.raises(UsageError, match="no labelled image"):
        load_classes(tmp_path)
    picture(tmp_path / "a" / "1.png")
    with pytest.raises(UsageError, match="has 1 class"):
        load_classes(tmp_path)
    picture(tmp_path / "loose.png")
    with pytest.raises(UsageError, match="in no class folder"):
        load_classes(tmp_path)
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(UsageError, match="label maps, not classes"):
        load_classes(tmp_path)


def ct(folder, patient, number=0):
    rng = np.random.default_rng(number)
    hu_DHW = rng.integers(-1000, 1000, size=(5, 12, 12))
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    return write_ct_series(folder, hu_DHW, affine, patient=patient, series_number=number, rng=rng)


def test_dicom_series_of_one_patient_stay_together(tmp_path):
    for number, (place, patient) in enumerate((("a/1", "p"), ("a/2", "p"), ("b/1", "q"))):
        ct(tmp_path / place, patient, number)
    data = load_classes(tmp_path)
    assert [case.patient for case in data.cases] == ["p", "p", "q"]
    assert (data.modality, data.kind) == ("CT", "volume")
    assert {len(case.images) for case in data.cases} == {5}


def test_a_series_in_two_class_folders_is_refused(tmp_path):
    files = ct(tmp_path / "a", "p")
    ct(tmp_path / "c", "q", 1)
    (tmp_path / "b").mkdir()
    files[0].rename(tmp_path / "b" / files[0].name)
    with pytest.raises(UsageError, match="two class folders"):
        load_classes(tmp_path)


def test_a_dicom_patient_in_two_splits_is_refused(tmp_path):
    for number, place in enumerate(("train/a", "train/b", "test/a")):
        ct(tmp_path / place, "p" if number != 1 else "q", number)
    with pytest.raises(UsageError, match="1 patients stand in more than one split"):
        load_classes(tmp_path)


def test_a_refused_series_is_no_set_of_pictures(tmp_path):
    for number, place in enumerate(("a/1", "a/2", "b/1")):
        files = ct(tmp_path / place, f"p{number}", number)
    by_height = sorted(files, key=lambda file: float(pydicom.dcmread(file).ImagePositionPatient[2]))
    by_height[1].unlink()  # a gap: no volume, and its slices are no cases of their own
    data = load_classes(tmp_path)
    bad = [case for case in data.cases if case.refused]
    assert bad
    with pytest.raises(ReadError) as caught:
        read_case(bad[0], data)
    assert caught.value.reason == bad[0].refused.reason


def test_a_picture_among_volumes_is_no_volume(tmp_path):
    save(tmp_path / "a" / "1.nii.gz", volume(0)[0])
    picture(tmp_path / "b" / "1.png")
    data = load_classes(tmp_path)
    with pytest.raises(ReadError) as caught:
        read_case(data.cases[1], data)
    assert caught.value.reason == "not_a_volume"
