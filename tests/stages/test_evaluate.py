"""evaluate: pairing, refusals and the shape of metrics.json."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medssl.core.errors import MedsslError, NothingUsableError, UsageError
from medssl.stages._pairs import Pair, patients_of
from medssl.stages.evaluate import EvaluateConfig, run
from tests.picture_archive import write_picture

SPACING = np.diag([0.5, 0.5, 2.0, 1.0])


def save(path, labels, affine=SPACING):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(labels), affine), path)


def cube(start=3, value=1, shape=(16, 14, 12)):
    labels = np.zeros(shape, np.uint8)
    labels[start : start + 4, 3:7, 3:7] = value
    return labels


@pytest.fixture
def folders(tmp_path):
    pred, ref = tmp_path / "pred", tmp_path / "ref"
    save(pred / "a_seg.nii.gz", cube())
    save(ref / "a.nii.gz", cube())
    save(pred / "sub" / "b.nii", cube(start=5))
    save(ref / "sub" / "b.nii.gz", cube())
    return pred, ref


def evaluate(folders, tmp_path, **more):
    pred, ref = folders
    given = {"task": "segmentation", "pred": pred, "ref": ref, "out": tmp_path / "m" / "m.json"}
    return run(EvaluateConfig(**{**given, **more}))


def test_file_has_the_documented_shape(folders, tmp_path):
    finished = evaluate(folders, tmp_path)
    metrics = json.loads((tmp_path / "m" / "m.json").read_text())
    assert finished.result == metrics
    assert set(metrics) == {"dice", "hd95_mm", "cases"}
    assert set(metrics["dice"]) == {"mean", "low", "high", "n", "per_label"}
    assert metrics["cases"] == [
        {"case": "a", "label": "1", "dice": 1.0, "hd95_mm": 0.0, "volume_error_mm3": 0.0},
        {"case": "sub/b", "label": "1", "dice": 0.5, "hd95_mm": 1.0, "volume_error_mm3": 0.0},
    ]
    assert metrics["dice"]["mean"] == 0.75
    assert metrics["dice"]["n"] == 2
    assert 0.5 <= metrics["dice"]["low"] <= metrics["dice"]["high"] <= 1.0


def test_label_absent_from_one_case_counts_as_found_absent(folders, tmp_path):
    for name in ("c_seg", "c"):
        save(folders[name == "c"] / f"{name}.nii.gz", cube(value=2))
    metrics = evaluate(folders, tmp_path).result
    per_case = [(c["case"], c["label"], c["dice"]) for c in metrics["cases"]]
    assert ("a", "2", 1.0) in per_case
    assert len(per_case) == 6


def test_missed_label_costs_the_diagonal(folders, tmp_path):
    save(folders[0] / "c.nii.gz", cube() * 0)
    save(folders[1] / "c.nii.gz", cube())
    missed = next(c for c in evaluate(folders, tmp_path).result["cases"] if c["case"] == "c")
    assert missed["hd95_mm"] == pytest.approx(np.linalg.norm([16 * 0.5, 14 * 0.5, 12 * 2.0]))
    assert (missed["dice"], missed["volume_error_mm3"]) == (0.0, -64 * 0.5)


def test_nnunet_channel_suffix_is_no_part_of_the_name(tmp_path):
    save(tmp_path / "p" / "a_0000_seg.nii.gz", cube())
    save(tmp_path / "r" / "a.nii.gz", cube())
    assert evaluate((tmp_path / "p", tmp_path / "r"), tmp_path).result["dice"]["mean"] == 1.0


@pytest.mark.parametrize("side", [0, 1])
def test_file_without_partner_is_named(folders, tmp_path, side):
    save(folders[side] / "lonely.nii.gz", cube())
    with pytest.raises(MedsslError) as caught:
        evaluate(folders, tmp_path)
    assert "lonely.nii.gz" in caught.value.where
    assert "lonely" not in caught.value.what + caught.value.fix


def test_two_predictions_of_one_case_are_refused(folders, tmp_path):
    save(folders[0] / "a.nii.gz", cube())
    with pytest.raises(MedsslError, match="two predictions"):
        evaluate(folders, tmp_path)


def test_files_of_the_finder_are_no_cases(folders, tmp_path):
    (folders[1] / "._a.nii.gz").write_bytes(b"resource fork")
    assert evaluate(folders, tmp_path).result["dice"]["n"] == 2


def test_other_shape_is_named(folders, tmp_path):
    save(folders[0] / "a_seg.nii.gz", cube(shape=(16, 14, 13)))
    with pytest.raises(MedsslError, match="shape") as caught:
        evaluate(folders, tmp_path)
    assert "a_seg.nii.gz" in caught.value.where


def test_shifted_grid_is_refused(folders, tmp_path):
    shifted = SPACING.copy()
    shifted[0, 3] = 0.05
    save(folders[0] / "a_seg.nii.gz", cube(), shifted)
    with pytest.raises(MedsslError, match="mm apart"):
        evaluate(folders, tmp_path)


@pytest.mark.parametrize("bad", [0.3, -1.0, np.nan])
def test_probability_map_is_no_label_map(folders, tmp_path, bad):
    save(folders[0] / "a_seg.nii.gz", cube().astype(np.float32) + np.float32(bad))
    with pytest.raises(MedsslError):
        evaluate(folders, tmp_path)


def test_names_of_labels(folders, tmp_path):
    names = {0: "background", 1: "anterior", 2: "posterior"}
    metrics = evaluate(folders, tmp_path, labels=names).result
    assert list(metrics["dice"]["per_label"]) == ["anterior", "posterior"]
    assert metrics["dice"]["per_label"]["posterior"]["mean"] == 1.0


def test_label_value_without_a_name_is_refused(folders, tmp_path):
    with pytest.raises(MedsslError, match="label value 1"):
        evaluate(folders, tmp_path, labels={2: "posterior"})


def test_patients_are_the_units_of_the_interval(folders, tmp_path):
    groups = tmp_path / "groups.csv"
    groups.write_text("case,patient\na,p1\nsub/b,p1\n")
    metrics = evaluate(folders, tmp_path, groups=groups).result
    assert metrics["dice"]["low"] is None  # one patient says nothing of the spread
    groups.write_text("case,patient\na,p1\n")
    with pytest.raises(UsageError, match="no patient"):
        evaluate(folders, tmp_path, groups=groups, overwrite=True)


GROUPS = "case,patient\r\nfäll1,p1\r\nfäll2,p1\r\n"
PAIRS = [Pair(case, Path(), Path()) for case in ("fäll1", "fäll2")]


def test_a_table_of_a_spreadsheet_is_read_with_its_mark(tmp_path):
    (tmp_path / "g.csv").write_bytes(GROUPS.encode("utf-8-sig"))
    assert patients_of(tmp_path / "g.csv", PAIRS) == ["p1", "p1"]


@pytest.mark.parametrize(
    ("content", "what", "place"),
    [
        (GROUPS.encode("latin-1"), "UTF-8", "g.csv"),
        (GROUPS.encode("utf-16"), "UTF-8", "g.csv"),
        (GROUPS.replace(",", ";").encode(), "case,patient", "g.csv"),
        (GROUPS.replace("fäll2,p1", "fäll2").encode(), "no patient", "g.csv line 3"),
        (GROUPS.replace("fäll1,p1", "fäll1, ").encode(), "no patient", "g.csv line 2"),
        (GROUPS.replace("fäll2", "").encode(), "no case", "g.csv line 3"),
        (GROUPS.replace("fäll2,p1", "fäll1,p2").encode(), "two values", "g.csv line 3"),
    ],
)
def test_a_table_that_leaves_a_patient_open_is_refused(tmp_path, content, what, place):
    (tmp_path / "g.csv").write_bytes(content)
    with pytest.raises(UsageError, match=what) as refused:
        patients_of(tmp_path / "g.csv", PAIRS)
    assert refused.value.where.endswith(place)


def test_an_earlier_result_is_kept_unless_asked(folders, tmp_path):
    evaluate(folders, tmp_path)
    with pytest.raises(UsageError, match="exists"):
        evaluate(folders, tmp_path)
    assert evaluate(folders, tmp_path, overwrite=True).result["dice"]["n"] == 2


def test_empty_folders(tmp_path):
    for name in ("p", "r"):
        (tmp_path / name).mkdir()
    with pytest.raises(NothingUsableError):
        evaluate((tmp_path / "p", tmp_path / "r"), tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        evaluate((tmp_path / "p", tmp_path / "nowhere"), tmp_path)


def test_only_background_everywhere(tmp_path):
    for name in ("p", "r"):
        save(tmp_path / name / "a.nii.gz", cube() * 0)
    with pytest.raises(NothingUsableError, match="no label"):
        evaluate((tmp_path / "p", tmp_path / "r"), tmp_path)


def test_label_names_come_from_what_predict_wrote(folders, tmp_path):
    (folders[0] / "labels.json").write_text('{"0": "background", "1": "liver"}')
    assert list(evaluate(folders, tmp_path).result["dice"]["per_label"]) == ["liver"]


def test_values_that_predict_does_not_name_are_refused(folders, tmp_path):
    (folders[0] / "labels.json").write_text('{"0": "background", "7": "liver"}')
    with pytest.raises(MedsslError, match="label value 1"):
        evaluate(folders, tmp_path)


@pytest.fixture
def pictures(tmp_path):
    pred, ref = tmp_path / "pred", tmp_path / "ref"
    square = np.zeros((30, 40), np.uint8)
    square[5:15, 5:15] = 255
    for name, moved in (("a", 0), ("b", 5)):
        write_picture(pred / f"{name}_seg.png", np.roll(square, moved, axis=1))
        write_picture(pred / f"{name}_preview.png", np.stack([square] * 3, -1))
    write_picture(ref / "a.png", square)
    Image.fromarray(square).convert("RGB").save(ref / "b.jpg", quality=80)
    return pred, ref


def test_pictures_are_scored_in_pixels(pictures, tmp_path):
    metrics = evaluate(pictures, tmp_path).result
    assert set(metrics) == {"dice", "hd95_px", "cases", "label_flags"}
    assert metrics["label_flags"] == {"mask_thresholded": 1}
    assert metrics["cases"] == [
        {"case": "a", "label": "255", "dice": 1.0, "hd95_px": 0.0, "area_error_px": 0},
        {"case": "b", "label": "255", "dice": 0.5, "hd95_px": 5.0, "area_error_px": 0},
    ]


def test_masks_may_say_what_they_are(pictures, tmp_path):
    pred, ref = pictures
    (ref / "a.png").rename(ref / "a_mask.png")
    assert evaluate((pred, ref), tmp_path).result["dice"]["n"] == 2


def test_a_picture_without_prediction_is_named(pictures, tmp_path):
    pred, ref = pictures
    write_picture(ref / "c.png", np.eye(30, 40, dtype=np.uint8))
    with pytest.raises(MedsslError, match="no prediction") as caught:
        evaluate((pred, ref), tmp_path)
    assert caught.value.where.endswith("c.png")


def test_pictures_of_other_sizes_are_refused(pictures, tmp_path):
    pred, ref = pictures
    write_picture(ref / "a.png", np.full((40, 30), 255, np.uint8))
    with pytest.raises(MedsslError, match="size"):
        evaluate((pred, ref), tmp_path)


def test_volumes_and_pictures_are_compared_apart(pictures, tmp_path):
    pred, ref = pictures
    save(pred / "v_seg.nii.gz", cube())
    save(ref / "v.nii.gz", cube())
    with pytest.raises(UsageError, match="apart"):
        evaluate((pred, ref), tmp_path)
