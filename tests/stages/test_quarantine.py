"""The ledger is listed, tried again and handed on; what is repaired is cured, and nothing leaks."""

import csv
import json
import shutil

import numpy as np
import polars as pl
import pytest
from PIL import Image
from typer.testing import CliRunner

from medssl.archive._tables import RECORDS
from medssl.archive.catalog import LEDGER, Catalog
from medssl.archive.quarantine import Ledger
from medssl.cli.main import app
from medssl.core.errors import UsageError
from medssl.stages import quarantine
from medssl.stages.index import IndexConfig, run
from tests.scans import blob_hu, oblique, save_dicom, save_nifti

NAME = "Schmidt_Anna"


@pytest.fixture
def archive(tmp_path):
    """A scan, half a scan, an empty file, a folder with a gap, a constant picture."""
    folder = tmp_path / "archive"
    affine = oblique()
    x_DHW = blob_hu(affine).astype(np.float32)
    save_nifti(folder / "good.nii", x_DHW, affine)
    whole = save_nifti(folder / NAME / "half.nii", x_DHW, affine)
    whole.write_bytes(whole.read_bytes()[:5000])
    (folder / "empty.nii").write_bytes(b"")
    save_dicom(folder / "ct", x_DHW[:6], affine, patient=NAME)
    (tmp_path / "missing").mkdir()
    slices = sorted((folder / "ct").iterdir())
    order = {int(file.stem): file for file in slices}
    by_place = np.random.default_rng(0).permutation(6)  # as save_dicom numbers them
    order[int(by_place[2])].rename(tmp_path / "missing" / "slice.dcm")
    Image.new("L", (70, 70), 9).save(folder / "flat.png")
    return folder


@pytest.fixture
def catalog(archive, tmp_path):
    out = tmp_path / "catalog"
    run(IndexConfig(archive=archive, out=out, pixels=True, workers=0, quiet=True))
    return out


def reasons(folder):
    return Ledger(folder / LEDGER).reasons()


def call(*words):
    return CliRunner().invoke(app, ["quarantine", *map(str, words)])


def test_the_overview_counts_by_reason_and_says_what_it_means(catalog):
    rows = quarantine.overview(quarantine.select(quarantine.open_ledger(catalog)))
    assert {row.reason: row.items for row in rows} == {
        "truncated": 1,
        "empty_file": 1,
        "gap": 1,
        "constant": 1,
    }
    assert {row.stage for row in rows if row.reason == "constant"} == {"pixels"}
    assert all(row.what and row.fix for row in rows)


def test_what_was_repaired_is_cured_and_becomes_a_record(archive, catalog, tmp_path):
    before = len(Catalog.open(catalog).records())
    shutil.move(tmp_path / "missing" / "slice.dcm", archive / "ct" / "found.dcm")
    done = quarantine.retry(catalog, "gap", quiet=True)
    assert (done.tried, done.cured, done.waiting) == (1, 1, 0)
    assert len(Catalog.open(catalog).records()) == before + 1
    assert reasons(catalog) == {"constant": 1, "empty_file": 1, "truncated": 1}


def test_what_is_still_broken_stays_with_its_first_date(catalog):
    before = {one.reason: one.first_seen for one in Ledger(catalog / LEDGER).entries()}
    done = quarantine.retry(catalog, quiet=True)
    assert (done.tried, done.cured, done.left) == (4, 0, 4)
    after = {one.reason: one.first_seen for one in Ledger(catalog / LEDGER).entries()}
    del before["constant"], after["constant"]  # decoded anew: the entry is a new one
    assert after == before


def test_entries_of_other_stages_wait_for_their_next_run(catalog):
    ledger = Ledger(catalog / LEDGER)
    (record, *_) = Catalog.open(catalog).records()
    ledger.add(record.record_id, "store", "nan_voxels", "m")
    ledger.save()
    done = quarantine.retry(catalog, "nan_voxels", quiet=True)
    assert (done.tried, done.waiting) == (0, 1)
    assert "nan_voxels" not in reasons(catalog)


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_the_export_holds_reasons_and_no_path(archive, catalog, tmp_path, suffix):
    target = tmp_path / f"support.{suffix}"
    assert call("export", catalog, "-o", target).exit_code == 0
    text = target.read_text()
    rows = json.loads(text) if suffix == "json" else list(csv.DictReader(text.splitlines()))
    assert {row["reason"] for row in rows} == {"truncated", "empty_file", "gap", "constant"}
    assert all(row["record_id"] and row["hash"] and row["what"] for row in rows)
    for planted in (NAME, "half", "archive", str(archive), "ct/"):
        assert planted not in text
    assert call("export", catalog, "-o", target).exit_code == 2  # nothing is overwritten
    assert call("export", catalog, "-o", tmp_path / "x.txt").exit_code == 2


def test_paths_are_shown_only_where_they_are_asked_for(catalog):
    plain, asked = call("ls", catalog), call("ls", catalog, "--paths")
    assert plain.exit_code == asked.exit_code == 0
    assert NAME not in plain.stdout
    assert f"{NAME}/half.nii" in asked.stdout
    assert NAME not in (catalog / LEDGER).read_text()


def test_json_is_all_that_stands_on_stdout(catalog):
    done = call("ls", catalog, "--json", "--reason", "gap")
    (row,) = json.loads(done.stdout)
    assert (row["reason"], row["items"], row["stage"]) == ("gap", 1, "index")


def test_exit_codes(catalog, tmp_path):
    assert call("retry", catalog, "--quiet").exit_code == 4
    assert call("ls", catalog, "--reason", "no_such_code").exit_code == 2
    assert call("ls", tmp_path / "nowhere").exit_code == 2
    for name in ("empty.nii", f"{NAME}/half.nii", "flat.png"):
        (tmp_path / "archive" / name).unlink()
    shutil.rmtree(tmp_path / "archive" / "ct")
    assert call("retry", catalog).exit_code == 0
    assert "nothing is quarantined" in call("ls", catalog).stdout


def test_the_ledger_of_a_run_can_be_listed_but_not_retried(tmp_path):
    ledger = Ledger(tmp_path / LEDGER)
    ledger.add("a1", "predict", "no_decoder:1.2.840.10008.1.2.4.51", "m")
    ledger.add("a2", "predict", "from_the_future", "m")
    ledger.save()
    assert len(quarantine.select(ledger, "no_decoder")) == 1
    assert call("ls", tmp_path).exit_code == 0
    assert call("retry", tmp_path).exit_code == 2
    assert call("ls", tmp_path, "--paths").exit_code == 2


def test_an_archive_that_moved_is_not_taken_for_an_empty_one(archive, catalog):
    archive.rename(archive.with_name("elsewhere"))
    with pytest.raises(UsageError, match="not where it was"):
        quarantine.retry(catalog, quiet=True)
    assert sum(reasons(catalog).values()) == 4


def test_a_catalog_of_another_version_says_so(catalog):
    pl.read_parquet(catalog / RECORDS).drop("site_id").write_parquet(catalog / RECORDS)
    with pytest.raises(UsageError, match="another version") as error:
        Catalog.open(catalog).records()
    assert "medssl index" in error.value.fix
