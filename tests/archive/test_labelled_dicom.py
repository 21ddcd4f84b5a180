"""Labelled DICOM: a table with SEG or RTSTRUCT, or plain folders paired by what labels refer to."""

import numpy as np
import pydicom
import pytest

from medssl.archive.labelled import load_labelled, read_case
from medssl.core.errors import ReadError, UsageError
from tests.readers.label_files import in_mm, series, write_rtstruct, write_seg
from tests.scans import oblique, save_dicom

SHAPE = (6, 12, 10)
AFFINE = oblique()
IMAGE = np.arange(np.prod(SHAPE)).reshape(SHAPE)
LABEL = np.zeros(SHAPE, np.uint8)
LABEL[1:4, 2:6, 2:5], LABEL[2:5, 7:11, 5:9] = 1, 2


def scan(folder, patient, number=3, affine=AFFINE):
    save_dicom(folder, IMAGE, affine, patient=patient, number=number)
    return series(folder, affine)


def box(place):
    points = [[1.5, 1.5], [4.5, 1.5], [4.5, 5.5], [1.5, 5.5]]
    return in_mm([(*point, place) for point in points], AFFINE)


@pytest.fixture
def hospital(tmp_path):
    """Two patients with one series each, one labelled by a SEG, one by an RTSTRUCT."""
    first, second = (scan(tmp_path / p / "ct", p) for p in ("p1", "p2"))
    write_seg(tmp_path / "p1" / "seg.dcm", first, LABEL, names=("spleen", "liver"))
    structures = {"liver": [box(1), box(2)], "kidney": [box(4)], "isocenter": []}
    write_rtstruct(tmp_path / "p2" / "rs.dcm", structures, second[0])
    return tmp_path


def edit(path, change):
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def test_labels_are_paired_by_reference_and_numbered_by_name(hospital):
    labelled = load_labelled(hospital)
    assert labelled.labels == {0: "background", 1: "kidney", 2: "liver", 3: "spleen"}
    assert (labelled.modality, labelled.channels) == ("CT", ("channel_0",))
    assert [(c.name, c.patient) for c in labelled.cases] == [("p1_ct_3", "p1"), ("p2_ct_3", "p2")]
    image, _, labels = read_case(labelled.cases[0], labelled)
    np.testing.assert_array_equal(image[0], IMAGE)
    np.testing.assert_array_equal(labels.labels_DHW, np.array([0, 3, 2])[LABEL])
    _, _, labels = read_case(labelled.cases[1], labelled)
    wanted = np.zeros(SHAPE)
    wanted[1:3, 2:6, 2:5], wanted[4, 2:6, 2:5] = 2, 1
    np.testing.assert_array_equal(labels.labels_DHW, wanted)


def test_a_table_may_name_seg_and_rtstruct(hospital):
    rows = "p1/ct,p1/seg.dcm,a\np2/ct,p2/rs.dcm,b\n"
    (hospital / "t.csv").write_text("image,label,patient\n" + rows)
    labelled = load_labelled(hospital)
    assert labelled.labels == {0: "background", 1: "kidney", 2: "liver", 3: "spleen"}
    for case in labelled.cases:
        assert set(np.unique(read_case(case, labelled)[2].labels_DHW)) < {0, 1, 2, 3}


def test_names_and_numbers_do_not_mix_in_one_table(hospital):
    from tests.scans import save_nifti

    save_nifti(hospital / "n.nii.gz", LABEL, AFFINE)
    (hospital / "t.csv").write_text("image,label\np1/ct,p1/seg.dcm\np2/ct,n.nii.gz\n")
    with pytest.raises(UsageError, match="numbered"):
        load_labelled(hospital)


def test_a_series_without_label_is_a_case_without_label(hospital):
    scan(hospital / "p3" / "ct", "p3")
    labelled = load_labelled(hospital)
    assert [case.label is None for case in labelled.cases] == [False, False, True]


def drop_series(one):
    del one.ReferencedSeriesSequence


def drop_references(one):
    del one.ReferencedSeriesSequence
    if "SourceImageSequence" in one:
        del one.SourceImageSequence


@pytest.mark.parametrize("change", [drop_series, drop_references])
def test_without_a_series_the_images_or_the_frame_of_reference_tell(hospital, change):
    edit(hospital / "p1" / "seg.dcm", change)
    assert [case.label.name for case in load_labelled(hospital).cases] == ["seg.dcm", "rs.dcm"]


@pytest.mark.parametrize("space", ["1.2.3", ""])
def test_a_label_that_refers_to_nothing_is_paired_with_nothing(hospital, space):
    edit(hospital / "p1" / "seg.dcm", drop_references)
    edit(hospital / "p1" / "seg.dcm", lambda one: setattr(one, "FrameOfReferenceUID", space))
    with pytest.raises(UsageError, match="no volume") as caught:
        load_labelled(hospital)
    assert caught.value.where.endswith("seg.dcm")


def test_a_label_without_its_series_is_named(hospital):
    for file in (hospital / "p2" / "ct").iterdir():
        file.unlink()
    with pytest.raises(UsageError, match="no volume") as caught:
        load_labelled(hospital)
    assert caught.value.where.endswith("rs.dcm") and "rs.dcm" not in caught.value.what


def test_two_labels_of_one_series_are_named(hospital):
    content = (hospital / "p1" / "seg.dcm").read_bytes()
    (hospital / "p1" / "again.dcm").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        load_labelled(hospital)
    assert "again.dcm" in caught.value.where and "seg.dcm" in caught.value.where


def test_a_label_that_cannot_be_read_is_no_missing_label(hospital):
    edit(hospital / "p1" / "seg.dcm", lambda one: setattr(one, "SegmentSequence", []))
    with pytest.raises(ReadError) as caught:
        load_labelled(hospital)
    assert caught.value.reason == "broken_header" and caught.value.where.endswith("seg.dcm")


def test_a_label_of_another_frame_of_reference_is_refused(hospital):
    for name in ("p1/seg.dcm", "p2/rs.dcm"):
        edit(hospital / name, move_space)
    labelled = load_labelled(hospital)
    for case in labelled.cases:
        with pytest.raises(ReadError) as caught:
            read_case(case, labelled)
        assert caught.value.reason == "other_frame_of_reference"


def move_space(one):
    one.FrameOfReferenceUID = "1.2.3"
    for roi in one.get("StructureSetROISequence", ()):
        roi.ReferencedFrameOfReferenceUID = "1.2.3"


def test_a_seg_drawn_on_another_grid_is_refused(hospital):
    moved = AFFINE.copy()
    moved[:3, 3] += 3 * AFFINE[:3, 0]
    others = scan(hospital / "other", "p9", affine=moved)
    write_seg(hospital / "p1" / "seg.dcm", others, LABEL)
    edit(hospital / "p1" / "seg.dcm", lambda one: refer(one, hospital / "p1" / "ct"))
    labelled = load_labelled(hospital)
    with pytest.raises(ReadError) as caught:
        read_case(next(c for c in labelled.cases if c.patient == "p1"), labelled)
    assert caught.value.reason == "label_affine_mismatch" and "2.7 mm" in caught.value.what


def refer(one, folder):
    image = pydicom.dcmread(next(folder.iterdir()), stop_before_pixels=True)
    one.ReferencedSeriesSequence[0].SeriesInstanceUID = image.SeriesInstanceUID
    one.FrameOfReferenceUID = image.FrameOfReferenceUID


def test_a_folder_of_series_without_labels_says_what_is_wanted(tmp_path):
    scan(tmp_path / "ct", "p1")
    with pytest.raises(UsageError, match="no labelled data set") as caught:
        load_labelled(tmp_path)
    assert "RTSTRUCT" in caught.value.fix


def test_labels_json_chooses_structures_and_their_values(hospital):
    second = series(hospital / "p2" / "ct", AFFINE)
    structures = {"liver": [box(1)], "body": [box(1), box(2), box(3)]}
    write_rtstruct(hospital / "p2" / "rs.dcm", structures, second[0])
    labelled = load_labelled(hospital)
    with pytest.raises(ReadError) as caught:
        read_case(labelled.cases[1], labelled)
    assert caught.value.reason == "overlapping_labels" and "labels.json" in caught.value.fix
    (hospital / "labels.json").write_text('{"7": "liver"}')
    labelled = load_labelled(hospital)
    assert labelled.labels == {0: "background", 7: "liver"}
    _, _, labels = read_case(labelled.cases[1], labelled)
    assert (labels.labels_DHW == 7).sum() == 12 and labels.flags == ("segments_left_out=1",)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"liver": 1}', '{"1": "heart"}', '{"300": "liver"}',
     '{"1": "liver", "2": "liver"}'],
)  # fmt: skip
def test_a_labels_json_that_does_not_fit_is_refused(hospital, text):
    (hospital / "labels.json").write_text(text)
    with pytest.raises(UsageError, match=r"labels\.json"):
        load_labelled(hospital)
