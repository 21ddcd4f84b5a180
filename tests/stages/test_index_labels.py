"""index: SEG and RTSTRUCT are labels of their patient, and never seen by name."""

import numpy as np
import polars as pl
import pytest

from medssl.stages import index
from tests.readers.label_files import circle, series, write_rtstruct, write_seg
from tests.scans import oblique, save_dicom

AFFINE = oblique()
LABEL = np.zeros((6, 12, 10), np.uint8)
LABEL[1:4, 2:6, 2:5] = 1


@pytest.fixture
def catalog(tmp_path):
    image = np.arange(LABEL.size).reshape(LABEL.shape)
    sources = series(save_dicom(tmp_path / "in" / "ct", image, AFFINE), AFFINE)
    write_seg(tmp_path / "in" / "seg.dcm", sources, LABEL, names=("SECRET",))
    contours = {"SECRET": [circle((5, 5), 3, 2, AFFINE)]}
    write_rtstruct(tmp_path / "in" / "rs.dcm", contours, sources[0])
    index.run(index.IndexConfig(archive=tmp_path / "in", out=tmp_path / "out", pixels=True))
    return tmp_path / "out"


def test_labels_are_records_of_their_patient_that_refer_to_the_image(catalog):
    table = pl.read_parquet(catalog / "records.parquet")
    image = table.row(by_predicate=pl.col("role") == "image", named=True)
    labels = table.filter(pl.col("role") == "label")
    assert sorted(labels["modality"]) == ["RTSTRUCT", "SEG"]
    assert set(labels["patient_id"]) == {image["patient_id"]}
    assert labels["references"].to_list() == [[image["series_id"]]] * 2


def test_contours_without_voxels_are_no_failure(catalog):
    assert (catalog / "quarantine.jsonl").read_text() == ""


def test_names_of_structures_stay_out_of_what_others_may_read(catalog):
    holders = [file for file in catalog.iterdir() if b"SECRET" in file.read_bytes()]
    assert all(file.stat().st_mode & 0o077 == 0 for file in holders)
    table = pl.read_parquet(catalog / "records.parquet")
    assert not any("SECRET" in str(value) for row in table.rows() for value in row)
