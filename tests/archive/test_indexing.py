"""Indexing a large archive: taken up after a kill, nothing opened twice, one bad file costs one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pydicom
import pytest

from medssl.archive import _headers, _reading, indexing
from medssl.archive._headers import Journal, Row, block_of
from medssl.archive._phantom_dicom import write_ct_series
from medssl.archive._tables import RECORD_SCHEMA
from medssl.archive.build import study_day_of
from medssl.archive.catalog import PRIVATE, Catalog
from medssl.archive.phantom import save_nifti
from medssl.archive.split import leaks
from medssl.stages.index import IndexConfig, run
from tests.support import fresh_python

ROOT = Path(__file__).resolve().parents[2]
HU = np.random.default_rng(0).integers(-1000, 1000, (200, 8, 8)).astype(np.int16)
TIME_COLUMNS = ("first_seen", "last_seen")


def series(folder, name="p", slices=5, number=1):
    rng = np.random.default_rng(number)
    return write_ct_series(
        folder, HU[:slices], np.eye(4), patient=name, series_number=number, rng=rng
    )


def mixed_archive(folder, n_series, slices):
    for number in range(n_series):
        series(folder / f"s{number:03d}", f"p{number // 3}", slices, number)
    (folder / "broken.dcm").write_bytes(b"no DICOM")
    (folder / "letter.txt").write_text("Dear colleague")
    save_nifti(folder / "a.nii.gz", HU[:5].astype(np.float32), np.eye(4), np.int16)
    return folder


def index(archive, out, workers=0, **more):
    return run(IndexConfig(archive=archive, out=out, workers=workers, quiet=True, **more))


def tables(out):
    """Everything that must be equal, time columns aside."""
    names = ("records", "paths", "sources", "pixels")
    found = {name: pl.read_parquet(out / f"{name}.parquet") for name in names}
    lines = (out / "quarantine.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    ledger = [{k: v for k, v in one.items() if k not in TIME_COLUMNS} for one in entries]
    return found, sorted(ledger, key=str), json.loads((out / "summary.json").read_text())


def start(archive, out):
    code = "import sys\nfrom medssl.stages.index import IndexConfig, run\n"
    code += "run(IndexConfig(archive=sys.argv[1], out=sys.argv[2], workers=2, quiet=True))"
    command = [sys.executable, "-c", code, str(archive), str(out)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)


def kill_at(archive, out, journal_bytes):
    """Start indexing and kill it once the journal is that long; whether that worked."""
    process = start(archive, out)
    journal = out / "headers.bin"
    while process.poll() is None:
        if journal.exists() and journal.stat().st_size > journal_bytes:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    return process.wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("n_series", "slices"),
    [(12, 100), pytest.param(100, 200, marks=pytest.mark.slow)],
)
def test_a_killed_indexing_ends_in_the_same_catalog(tmp_path, n_series, slices):
    archive = mixed_archive(tmp_path / "a", n_series, slices)
    for out in ("whole", "killed"):
        (tmp_path / out).mkdir()
        (tmp_path / out / "salt").write_bytes(bytes(range(32)))
        (tmp_path / out / "salt").chmod(0o600)
    assert start(archive, tmp_path / "whole").wait() == 0
    size = (tmp_path / "whole/headers.bin").stat().st_size
    kills = [kill_at(archive, tmp_path / "killed", size * part) for part in (0.2, 0.5, 0.7)]
    assert any(kills)
    done = index(archive, tmp_path / "killed", workers=2)
    assert done.result["opened"] < 0.9 * done.result["files"]
    whole, killed = tables(tmp_path / "whole"), tables(tmp_path / "killed")
    assert all(whole[0][name].equals(killed[0][name]) for name in whole[0])
    assert whole[1:] == killed[1:]


def test_an_unchanged_archive_is_not_opened_and_no_worker_starts(tmp_path):
    archive = mixed_archive(tmp_path / "a", 3, 5)
    with zipfile.ZipFile(archive / "more.zip", "w") as packed:
        for file in sorted((archive / "s000").iterdir()):
            packed.write(file, f"inside/{file.name}")
    index(archive, tmp_path / "c")
    code = f"""
import sys
from medssl.stages.index import IndexConfig, run
seen = []
def hook(event, args):
    if event == "subprocess.Popen" or event == "open" and {str(archive)!r} in str(args[0]):
        seen.append((event, str(args[0])))
config = IndexConfig(archive={str(archive)!r}, out={str(tmp_path / "c")!r}, workers=2, quiet=True)
other = config.model_copy(update={{"gaps": "split", "workers": 0}})
sys.addaudithook(hook)
print(run(config).result["opened"], run(other).result["opened"], seen)
"""
    assert fresh_python(code).strip() == "0 0 []"  # another policy only groups anew


def test_only_what_changed_is_opened(tmp_path, monkeypatch):
    archive = mixed_archive(tmp_path / "a", 3, 5)
    index(archive, tmp_path / "c")
    before = {r.record_id: r for r in Catalog.open(tmp_path / "c").records()}
    opened = []
    read_header = _headers.read_header
    monkeypatch.setattr(_headers, "read_header", lambda p: opened.append(p) or read_header(p))
    changed = archive / "s001" / "IM0001.dcm"
    changed.write_bytes(changed.read_bytes() + bytes(2))
    shutil.rmtree(archive / "s002")
    series(archive / "new", "q", 4, 9)
    index(archive, tmp_path / "c")
    assert sorted(opened) == sorted([changed, *(archive / "new").iterdir()])
    after = {r.record_id: r for r in Catalog.open(tmp_path / "c").records()}
    assert len(before.keys() - after.keys()) == len(after.keys() - before.keys()) == 1
    same = before.keys() & after.keys()
    assert sum(before[k].fingerprint != after[k].fingerprint for k in same) == 1


def test_changed_files_do_not_stay_in_the_journal_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(_reading, "_SLACK_BYTES", 0)
    monkeypatch.setattr(_reading, "BLOCK_FILES", 4)
    archive = mixed_archive(tmp_path / "a", 3, 8)
    index(archive, tmp_path / "c")
    size = (tmp_path / "c/headers.bin").stat().st_size
    for stamp in range(6):
        for file in archive.rglob("*.dcm"):
            os.utime(file, (stamp, stamp))
        index(archive, tmp_path / "c")
    assert (tmp_path / "c/headers.bin").stat().st_size < 2.5 * size
    catalog = Catalog.open(tmp_path / "c")
    assert all(catalog.sample(r).array.shape == r.shape for r in catalog.records())


def hostile_block(entries):
    """Runs in a worker: two of the files bring down the process that parses them."""
    for entry in entries:
        if entry.path.endswith("hangs.dcm"):
            time.sleep(60)
        if entry.path.endswith("kills.dcm"):
            os._exit(1)
    return _headers.read_block(entries)


def test_a_file_that_hangs_or_kills_its_reader_costs_one_file(tmp_path, monkeypatch):
    archive = mixed_archive(tmp_path / "a", 2, 5)
    for name in ("hangs.dcm", "kills.dcm"):
        shutil.copy(archive / "broken.dcm", archive / name)
    monkeypatch.setattr(_reading, "read_block", hostile_block)
    monkeypatch.setattr(indexing, "HEADER_LIMIT_S", 1.0)
    done = index(archive, tmp_path / "c", workers=2)
    reasons = {"decoder_crash": 1, "decoder_timeout": 1, "not_dicom": 1}
    assert (done.result["reasons"], done.result["records"]) == (reasons, 3)
    monkeypatch.undo()
    again = index(archive, tmp_path / "c", workers=2)
    assert again.result["opened"] == 1  # a crash may have had another cause
    assert again.result["reasons"] == {"decoder_timeout": 1, "not_dicom": 2}


def test_a_file_that_vanishes_meanwhile_is_listed_and_then_forgotten(tmp_path, monkeypatch):
    archive = mixed_archive(tmp_path / "a", 2, 5)
    read_header = _headers.read_header

    def late(path):
        (archive / "a.nii.gz").unlink(missing_ok=True)
        return read_header(path)

    monkeypatch.setattr(_headers, "read_header", late)
    assert index(archive, tmp_path / "c").result["reasons"] == {"not_dicom": 1, "unreadable": 1}
    monkeypatch.undo()
    assert index(archive, tmp_path / "c").result["reasons"] == {"not_dicom": 1}


def test_a_folder_that_may_not_be_listed_is_named_in_the_ledger(tmp_path, monkeypatch):
    archive = mixed_archive(tmp_path / "a", 2, 5)
    scandir, opens = os.scandir, Path.open

    def forbidden(call):
        def checked(path, *words, **more):
            if str(path).endswith("s001"):
                raise PermissionError(13, "Permission denied", str(path))
            return call(path, *words, **more)

        return checked

    monkeypatch.setattr(os, "scandir", forbidden(scandir))
    monkeypatch.setattr(Path, "open", forbidden(opens))
    assert index(archive, tmp_path / "c").result["reasons"] == {"not_dicom": 1, "unreadable": 1}
    monkeypatch.undo()
    done = index(archive, tmp_path / "c")
    assert (done.result["reasons"], done.result["records"]) == ({"not_dicom": 1}, 3)


def test_names_may_hold_any_byte_and_the_archive_is_left_as_it_was(tmp_path):
    archive = tmp_path / "a"
    odd = Path(str(archive) + "/two\nlines \udcfc/'; DROP --")
    series(odd, "p", 5, 1)
    before = {p: (p.lstat().st_mtime_ns, p.lstat().st_ino) for p in archive.rglob("*")}
    index(archive, tmp_path / "c", workers=2)
    assert {p: (p.lstat().st_mtime_ns, p.lstat().st_ino) for p in archive.rglob("*")} == before
    catalog = Catalog.open(tmp_path / "c")
    (record,) = catalog.records()
    assert {file.parent for file in catalog.files(record.record_id)} == {odd}
    np.testing.assert_array_equal(catalog.sample(record).array[0], HU[:5])


def test_copies_under_another_name_are_marked_and_stay_in_one_split(tmp_path):
    archive = mixed_archive(tmp_path / "a", 20, 5)
    (archive / "s999").mkdir()
    for file in (archive / "s005").iterdir():
        dataset = pydicom.dcmread(file)
        dataset.PatientID = dataset.StudyInstanceUID = dataset.SeriesInstanceUID = "9.9"
        dataset.save_as(archive / "s999" / file.name)
    index(archive, tmp_path / "c", split={"train": 0.5, "val": 0.5, "test": 0})
    records = Catalog.open(tmp_path / "c").records()
    (copy,) = [r for r in records if r.duplicate_of]
    (first,) = [r for r in records if r.record_id == copy.duplicate_of]
    assert first.objects_hash == copy.objects_hash != ""
    assert records.index(first) < records.index(copy) and first.split == copy.split
    assert first.patient_id != copy.patient_id and leaks(records) == set()
    assert len({r.split for r in records}) == 2


def test_days_between_studies_stay_true_and_days_themselves_do_not():
    days = [study_day_of(day, "p", b"salt") for day in ("20231231", "20240101", "20240301")]
    assert np.diff(days).tolist() == [1, 60]
    assert study_day_of("20240101", "q", b"salt") != days[1]
    assert study_day_of("20240101", "p", b"pepper") != days[1]
    assert [study_day_of(text, "p", b"salt") for text in ("", "20240230", "today")] == [None] * 3


def test_a_forgotten_record_is_read_again(tmp_path):
    archive = mixed_archive(tmp_path / "a", 2, 5)
    index(archive, tmp_path / "c")
    catalog = Catalog.open(tmp_path / "c")
    (entry,) = catalog.ledger.entries()
    assert catalog.files(entry.record_id) == [archive / "broken.dcm"]
    before = tables(tmp_path / "c")
    assert catalog.forget([entry.record_id]) == 1
    assert index(archive, tmp_path / "c").result["opened"] == 1
    after = tables(tmp_path / "c")
    assert all(before[0][name].equals(after[0][name]) for name in before[0])


def test_a_torn_or_foreign_end_of_the_journal_does_not_count(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "j")
    row = Row("/a", 1, 2, 3, {"refused": ["corrupt", "x"]})
    places = [journal.append(block_of([row._replace(inode=n)])) for n in range(3)]
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-1])
    assert [at for at, _ in journal.recover(0)] == places[:2]
    assert journal.size == places[2]
    monkeypatch.setattr(_headers, "__version__", "another")
    assert list(journal.recover(0)) == [] and journal.size == 0


def test_what_holds_paths_is_readable_by_its_owner_only(tmp_path):
    index(mixed_archive(tmp_path / "a", 1, 5), tmp_path / "c")
    for name in PRIVATE:
        assert (tmp_path / "c" / name).stat().st_mode & 0o077 == 0, name


def test_the_page_describes_every_column_and_no_other():
    page = (ROOT / "docs/catalog.md").read_text(encoding="utf-8")
    section = page.partition("## records.parquet")[2].partition("\n## ")[0]
    rows = [line.split("|")[1].strip(" `") for line in section.splitlines() if "| `" in line[:4]]
    assert rows == list(RECORD_SCHEMA)
