"""medssl index: every file has one outcome, nothing is opened twice, nobody is named."""

import json
import stat
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from medssl.archive import _headers
from medssl.archive._digest import pixel_hash
from medssl.archive._phantom_dicom import write_ct_series
from medssl.archive.catalog import PRIVATE, Catalog
from medssl.archive.phantom import save_nifti, write_archive
from medssl.archive.split import leaks
from medssl.core.errors import ConfigError, NothingUsableError, UsageError
from medssl.stages.index import IndexConfig, run
from tests.support import fresh_python
from tests.training_archive import save, volume, write_images

NOISE = np.random.default_rng(0).integers(0, 999, (20, 5, 6, 7)).astype(np.float32)


def index(archive, out, **more):
    return run(IndexConfig(archive=archive, out=out, workers=0, **more))


def outcomes(out):
    return pl.read_parquet(out / "paths.parquet")["outcome"].to_list()


def volumes(folder, names, array=None):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        x = NOISE[number] if array is None else array
        save_nifti(folder / f"{name}.nii.gz", x, np.eye(4), np.float32)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("phantom"), patients=2, seed=1)


def test_the_phantom_is_listed_and_its_broken_files_are_named(phantom, tmp_path):
    result = index(phantom.archive, tmp_path / "c")
    assert result.exit_code == 4
    catalog = Catalog.open(tmp_path / "c")
    assert Counter(r.modality for r in catalog.records()) == {"CT": 2, "MR": 2, "unknown": 1}
    expected = Counter(reason for reason in phantom.broken.values() if reason != "constant")
    assert catalog.ledger.reasons() == expected  # a constant image is found when it is decoded
    assert len({r.patient_id for r in catalog.records("modality = 'CT'")}) == 2
    assert len({r.patient_id for r in catalog.records("modality in ('CT', 'MR')")}) == 2


def test_every_file_has_exactly_one_outcome(phantom, tmp_path):
    index(phantom.archive, tmp_path / "c")
    files = [path for path in phantom.archive.rglob("*") if path.is_file()]
    assert len(outcomes(tmp_path / "c")) == len(files)
    assert all(
        one.split(":")[0] in {"record", "refused", "ignored"} for one in outcomes(tmp_path / "c")
    )


def test_a_record_gives_back_its_array_and_place(phantom, tmp_path):
    index(phantom.archive, tmp_path / "c")
    catalog = Catalog.open(tmp_path / "c")
    for record in catalog.records():
        sample = catalog.sample(record)
        assert sample.array.shape == record.shape and str(sample.array.dtype) == record.dtype
        assert tuple(sample.geometry.affine.ravel()) == record.affine
        assert len(catalog.files(record.record_id)) == record.n_files


def test_unchanged_files_are_not_opened_again(tmp_path, monkeypatch):
    volumes(tmp_path / "a", ["x", "y", "z"])
    (tmp_path / "a/broken.nii.gz").write_bytes(b"")
    opened = []
    read_header = _headers.read_header
    monkeypatch.setattr(_headers, "read_header", lambda p: opened.append(p.name) or read_header(p))
    first = index(tmp_path / "a", tmp_path / "c")
    ids = [r.record_id for r in Catalog.open(tmp_path / "c").records()]
    assert (len(opened), first.result["opened"]) == (4, 4)
    opened.clear()
    assert index(tmp_path / "a", tmp_path / "c").exit_code == 4
    assert opened == []
    volumes(tmp_path / "a", ["new"])
    (tmp_path / "a/broken.nii.gz").unlink()
    assert index(tmp_path / "a", tmp_path / "c").exit_code == 0  # the broken file is gone
    assert opened == ["new.nii.gz"]
    assert set(ids) < {r.record_id for r in Catalog.open(tmp_path / "c").records()}


def test_pixels_find_copies_and_keep_them_in_one_split(tmp_path, monkeypatch):
    volumes(tmp_path / "a", [f"p{n}" for n in range(20)])
    volumes(tmp_path / "a", ["copy1", "copy2", "copy3", "copy4"], NOISE[0])
    split = {"train": 0.5, "val": 0.5, "test": 0.0}
    index(tmp_path / "a", tmp_path / "c", split=split)
    assert Catalog.open(tmp_path / "c").summary["split_check"] == "unchecked"
    index(tmp_path / "a", tmp_path / "c", split=split, pixels=True)
    catalog = Catalog.open(tmp_path / "c")
    assert (catalog.summary["split_check"], leaks(catalog.records())) == ("checked", set())
    assert len({r.pixel_hash for r in catalog.records()}) == 20
    assert len({r.split for r in catalog.records()}) == 2
    before = catalog.table
    monkeypatch.setattr(
        "medssl.archive.quality.examine_record", pytest.fail
    )  # none is decoded twice
    index(tmp_path / "a", tmp_path / "c", split=split, pixels=True)
    assert Catalog.open(tmp_path / "c").table.equals(before)


def test_hashes_from_the_store_join_copies_the_same_way(tmp_path):
    volumes(tmp_path / "a", [f"p{n}" for n in range(12)], NOISE[0])
    for out in ("c", "d"):
        index(tmp_path / "a", tmp_path / out, split={"train": 0.5, "val": 0.5, "test": 0.0})
    catalog = Catalog.open(tmp_path / "c")
    assert leaks(catalog.records()) == set()
    catalog.add_pixel_hashes({r.record_id: pixel_hash(NOISE[0]) for r in catalog.records()})
    assert {r.split for r in catalog.records()} == {"val"}
    assert catalog.summary["split_check"] == "checked"


def test_what_does_not_decode_is_quarantined_and_not_tried_again(tmp_path):
    volumes(tmp_path / "a", ["x"])
    damaged = bytearray((tmp_path / "a/x.nii.gz").read_bytes())
    damaged[200] ^= 0xFF
    (tmp_path / "a/y.nii.gz").write_bytes(bytes(damaged))
    for _ in range(2):
        assert index(tmp_path / "a", tmp_path / "c", pixels=True).exit_code == 4
    (entry,) = Catalog.open(tmp_path / "c").ledger.entries()
    assert (entry.stage, entry.reason) == ("pixels", "corrupt")
    assert Catalog.open(tmp_path / "c").summary["split_check"] == "checked"


def test_label_maps_beside_their_images_never_count_as_images(tmp_path):
    image, labels = volume(0)
    save(tmp_path / "a" / "p1.nii.gz", image)
    save(tmp_path / "a" / "p1_seg.nii.gz", labels, np.uint8)
    save(tmp_path / "a" / "brain-mask.nii", labels, np.uint8)
    index(tmp_path / "a", tmp_path / "c")
    assert Counter(r.role for r in Catalog.open(tmp_path / "c").records()) == {
        "image": 1,
        "label": 2,
    }


def test_labels_and_test_images_are_told_by_their_folders(phantom, tmp_path):
    index(phantom.labelled, tmp_path / "c")
    records = Catalog.open(tmp_path / "c").records()
    assert Counter(r.role for r in records) == {"image": 7, "label": 7}
    assert Counter(r.split for r in records)["test"] == 6
    assert {r.modality for r in records} == {"MR"}
    assert leaks(records) == set()


def test_an_empty_folder_holds_nothing_usable(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/report.txt").write_text("no scan here")
    with pytest.raises(NothingUsableError) as caught:
        index(tmp_path / "a", tmp_path / "c")
    assert caught.value.exit_code == 3
    assert outcomes(tmp_path / "c") == ["ignored:text"]


def test_a_folder_with_only_broken_files_says_why(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.nii.gz").write_bytes(b"")
    with pytest.raises(NothingUsableError, match="1 empty_file"):
        index(tmp_path / "a", tmp_path / "c")


def test_a_file_that_may_not_be_read_is_tried_again_next_time(tmp_path, monkeypatch):
    volumes(tmp_path / "a", ["x", "y"])
    opens = Path.open

    def forbidden(path, *words, **more):
        if path.name == "y.nii.gz":
            raise PermissionError(13, "Permission denied", str(path))
        return opens(path, *words, **more)

    monkeypatch.setattr(Path, "open", forbidden)
    assert index(tmp_path / "a", tmp_path / "c").exit_code == 4
    assert Catalog.open(tmp_path / "c").ledger.reasons() == {"unreadable": 1}
    monkeypatch.setattr(Path, "open", opens)
    assert index(tmp_path / "a", tmp_path / "c").exit_code == 0


def test_a_catalog_inside_its_archive_is_no_part_of_it(tmp_path):
    volumes(tmp_path / "a", ["x"])
    for _ in range(2):
        index(tmp_path / "a", tmp_path / "a/catalog")
    assert outcomes(tmp_path / "a/catalog") == ["record"]


def test_a_foreign_folder_is_not_written_to(tmp_path):
    volumes(tmp_path / "a", ["x"])
    (tmp_path / "c").mkdir()
    (tmp_path / "c/thesis.tex").write_text("years of work")
    with pytest.raises(UsageError):
        index(tmp_path / "a", tmp_path / "c")
    with pytest.raises(UsageError):
        index(tmp_path / "nowhere", tmp_path / "d")


def test_a_catalog_follows_its_archive_but_takes_no_other(tmp_path):
    volumes(tmp_path / "a", ["one", "two"])
    volumes(tmp_path / "b", ["three"])
    index(tmp_path / "a", tmp_path / "c")
    before = [r.record_id for r in Catalog.open(tmp_path / "c").records()]
    with pytest.raises(UsageError, match="another archive"):
        index(tmp_path / "b", tmp_path / "c")
    (tmp_path / "a").rename(tmp_path / "moved")
    index(tmp_path / "moved", tmp_path / "c")
    assert [r.record_id for r in Catalog.open(tmp_path / "c").records()] == before


def test_filters_are_expressions_not_programs(tmp_path):
    volumes(tmp_path / "a", ["x", "y"])
    index(tmp_path / "a", tmp_path / "c", modality="MR")
    catalog = Catalog.open(tmp_path / "c")
    assert len(catalog.records("modality == 'MR' and n_files < 2")) == 2
    assert catalog.records("modality == 'CT'") == []
    for wrong in ("modalty == 'MR'", "modality ==", "__import__('os').system('true')"):
        with pytest.raises(ConfigError):
            catalog.records(wrong)


def test_only_paths_parquet_knows_names_and_it_is_private(tmp_path):
    secret = "Zx9Doe"
    folder = tmp_path / f"{secret}_folder"
    volumes(folder, [f"{secret}_scan"])
    rng = np.random.default_rng(0)
    hu = NOISE[0]
    write_ct_series(folder / secret, hu, np.eye(4), patient=secret, series_number=1, rng=rng)
    write_ct_series(folder / "two", hu[:2], np.eye(4), patient=secret, series_number=2, rng=rng)
    (folder / f"{secret}.dcm").write_text(f"letter to {secret}")
    (folder / f"{secret}.{secret}").write_text("x")
    (folder / "dataset.json").write_text(f'{{"{secret}": ')
    index(folder, tmp_path / "c", pixels=True)
    catalog = Catalog.open(tmp_path / "c")
    assert any(
        secret in str(path) for r in catalog.records() for path in catalog.files(r.record_id)
    )
    for file in (tmp_path / "c").iterdir():
        if file.name in PRIVATE:
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            continue
        content = file.read_bytes()
        if file.suffix == ".parquet":
            content = json.dumps(pl.read_parquet(file).to_dicts()).encode()
        assert secret.encode() not in content and b"1.2.826" not in content, file.name


def test_file_names_need_not_be_valid_text(tmp_path):
    (tmp_path / "a").mkdir()
    save_nifti(Path(str(tmp_path / "a") + "/M\udcfcller.nii.gz"), NOISE[0], np.eye(4), np.int16)
    for _ in range(2):
        result = index(tmp_path / "a", tmp_path / "c")
    assert (result.exit_code, result.result["opened"]) == (0, 0)
    catalog = Catalog.open(tmp_path / "c")
    np.testing.assert_array_equal(catalog.sample(catalog.records()[0]).array[0], NOISE[0])


def test_the_index_imports_no_torch():
    code = "import sys, medssl.stages.index; print('torch' in sys.modules)"
    assert fresh_python(code).strip() == "False"


@pytest.mark.real
def test_the_whole_data_tree_ends_in_one_outcome_each(medssl_data, tmp_path):
    result = run(IndexConfig(archive=medssl_data, out=tmp_path / "c"))
    assert result.exit_code == 4
    files = sum(path.is_file() for path in medssl_data.rglob("*"))
    assert Counter(one.split(":")[0] for one in outcomes(tmp_path / "c")).total() == files
    catalog = Catalog.open(tmp_path / "c")
    assert Counter(r.role for r in catalog.records())["label"] >= 184 + 206  # hippocampus, polyps
    assert leaks(catalog.records()) == set()


@pytest.mark.real
def test_the_same_scans_as_dicom_and_as_nifti_have_the_same_pixels(medssl_data, tmp_path):
    hashes = {}
    for part in ("In", "Ref"):
        folder = medssl_data / "dcmqa_nih" / part
        run(IndexConfig(archive=folder, out=tmp_path / part, pixels=True))
        hashes[part] = {r.pixel_hash for r in Catalog.open(tmp_path / part).records()}
    assert len(hashes["In"] & hashes["Ref"]) == 18


def test_pixels_note_what_cannot_be_learnt_from(tmp_path):
    spoilt = volume(0)[0]
    spoilt[2, 2, 2] = float("nan")
    save(tmp_path / "a" / "nan.nii.gz", spoilt)
    save(tmp_path / "a" / "flat.nii.gz", volume(0)[0] * 0 + 7)
    save(tmp_path / "a" / "good.nii.gz", volume(1)[0])
    done = run(IndexConfig(archive=tmp_path / "a", out=tmp_path / "c", pixels=True, quiet=True))
    assert done.exit_code == 4
    assert done.result["reasons"] == {"constant": 1, "nan_voxels": 1}
    assert done.result["records"] == 3


def test_link_to_a_scan_that_is_gone_is_quarantined(tmp_path):
    archive = write_images(tmp_path / "a", 2)
    (archive / "gone.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    (archive / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    done = run(IndexConfig(archive=archive, out=tmp_path / "c", quiet=True))
    assert done.result["reasons"] == {"unreadable": 1}
    assert done.result["ignored"] == {"ignored:broken_link": 1}
