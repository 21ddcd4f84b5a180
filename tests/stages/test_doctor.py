"""The doctor counts what is there, proves what decodes, and shows nothing that names a person."""

import json
import os
import re
import subprocess
import tempfile

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless, generate_uid
from typer.testing import CliRunner

from medssl.archive.catalog import Catalog
from medssl.archive.phantom import write_archive
from medssl.cli.main import app
from medssl.core.errors import UsageError
from medssl.stages import doctor, index
from medssl.stages._doctor_verdict import verdict
from tests.readers import dicom_objects
from tests.readers.ultrasound_phantom import cine
from tests.scans import blob_hu, oblique, save_dicom, save_nifti

PLANTED = ("Mustermann", "Erika", "GEHEIM4711", "19640812", "2.25.4242424242", "Praxis Dr. Blau")


def examine(archive, out=None, **more):
    return doctor.run(doctor.DoctorConfig(archive=archive, out=out, workers=0, quiet=True, **more))


def call(*words):
    return CliRunner().invoke(app, ["doctor", *map(str, words)])


def verdict_text(report):
    return " ".join(line["text"] for line in report["verdict"])


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("phantom"), patients=3)


@pytest.fixture(scope="module")
def examined(phantom, tmp_path_factory):
    out = tmp_path_factory.mktemp("doctor") / "out"
    return examine(phantom.archive, out).result, out


def planted_archive(folder):
    """Names in headers, file names, folder names and pixels."""
    affine = oblique()
    scans = save_dicom(folder / "Mustermann_Erika" / "19640812", blob_hu(affine), affine)
    for file in scans.iterdir():
        ds = pydicom.dcmread(file)
        ds.PatientName, ds.PatientID = "Mustermann^Erika", "GEHEIM4711"
        ds.PatientBirthDate, ds.InstitutionName = "19640812", "Praxis Dr. Blau"
        ds.StudyInstanceUID = "2.25.4242424242.1"
        ds.SeriesDescription = ds.BodyPartExamined = "Mustermann"
        ds.private_block(0x0009, "Erika", create=True).add_new(0x01, "LO", "GEHEIM4711")
        ds.save_as(file)
    x_THWC, _ = cine(n_frames=6)
    us = folder / "Mustermann_Erika" / "us.dcm"
    dicom_objects.save(us, x_THWC, "US", header={"PatientID": "GEHEIM4711"})
    page = Image.new("L", (320, 240))
    words = ImageFont.load_default(18)
    ImageDraw.Draw(page).text((10, 10), "Mustermann Erika 1964", font=words, fill=255)
    page.save(folder / "Mustermann_Erika" / "shot.png")
    (folder / "GEHEIM4711.dcm").write_bytes(b"DICM Mustermann")


def test_counts_are_those_of_an_index(phantom, examined, tmp_path):
    report, _ = examined
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        index.run(index.IndexConfig(archive=phantom.archive, out=tmp_path / "c", quiet=True))
    summary = Catalog.open(tmp_path / "c").summary
    assert report["records"]["total"] == summary["records"]
    for column in ("modality", "kind", "format", "role"):
        assert report["records"][column] == summary[column]
    assert {r["reason"]: r["items"] for r in report["quarantine"]} == summary["reasons"]
    files = sum(len(names) for _, _, names in os.walk(phantom.archive))
    counted = report["files"]
    assert counted["record"] + counted["refused"] + sum(counted["ignored"].values()) == files


def test_the_syntax_is_proven_by_a_decoded_record(examined):
    report, _ = examined
    (row,) = report["syntaxes"]
    assert (row["name"], row["decoded"]) == ("Explicit VR Little Endian", "yes")
    assert row["files"] == 3 * 48 + 2


@pytest.mark.parametrize("damaged", [1, 2])
def test_a_damaged_file_says_nothing_about_its_syntax(tmp_path, damaged):
    for number in range(2):
        ds = dicom_objects.dataset("CR", SeriesInstanceUID=generate_uid())
        dicom_objects.described(ds, np.zeros((8, 8 + 8 * number), np.uint8))
        ds.PixelData = bytes(64 + 64 * number)
        ds.compress(RLELossless)
        if number < damaged:
            ds.PixelData = encapsulate([bytes([1, 0, 0, 0, 64]) + bytes(61)])
        ds.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    (row,) = examine(tmp_path).result["syntaxes"]
    assert (row["files"], row["decoded"]) == (2, "yes" if damaged == 1 else "no")
    assert row["reason"] == ("" if damaged == 1 else "corrupt_pixels")


def test_the_store_takes_two_bytes_per_voxel(phantom, examined):
    report, _ = examined
    assert report["plan"]["store_bytes"] == (2 * 3 + 1) * 64 * 64 * 48 * 2  # 3 CT, 3 MR, 1 constant


def test_the_page_is_self_contained(examined):
    _, out = examined
    text, pictures = re.subn(r"data:image/png;base64,[\w+/=]+", "", (out / doctor.PAGE).read_text())
    assert pictures >= 6
    assert not re.search(r"https?:|<script|<link|url\(|@import|//[a-z]", text)
    assert json.loads((out / doctor.REPORT).read_text())["records"]["total"] == 7


def test_nothing_names_a_person(tmp_path, monkeypatch):
    planted_archive(tmp_path / "archive")
    private = tmp_path / "private"
    private.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(private))
    spoken = call(tmp_path / "archive", "--json").stdout
    table = call(tmp_path / "archive", "-o", tmp_path / "out").stdout
    assert list(private.iterdir()) == []  # the temporary catalog is gone
    written = [path.read_bytes() for path in (tmp_path / "out").iterdir()]
    written += [spoken.encode(), table.encode()]
    for content in written:
        for word in PLANTED:
            assert word.lower().encode() not in content.lower()
    risk = json.loads(spoken)["identity"]
    assert risk["header_fields"]["PatientName"] == 1
    assert risk["header_fields"]["private elements"] == 1
    assert risk["names"]["name"] == 1  # the folder
    assert risk["names"]["date"] == 1
    assert risk["text_found"] == 1


def test_pictures_that_may_hold_a_name_are_not_shown(tmp_path):
    planted_archive(tmp_path / "archive")
    dicom_objects.save(tmp_path / "archive" / "sc.dcm", dicom_objects.picture(), "SC")
    samples = examine(tmp_path / "archive").result["samples"]
    hidden = {s["hidden"] for s in samples if not s["shown"]}
    assert hidden == {"burned-in text found", "secondary capture"}
    assert {s["modality"] for s in samples if s["shown"]} == {"CT", "US"}


def test_photographs_are_not_shown_and_tissue_is(tmp_path):
    y, x = np.mgrid[:96, :96] / 96
    room = np.stack([0.3 + 0.2 * x, 0.5 + 0.3 * y, 0.9 - 0.3 * x], axis=-1)
    tissue = np.stack([0.8 - 0.2 * y, 0.35 + 0.1 * x, 0.3 + 0.1 * y], axis=-1)
    for name, picture in (("room", room), ("tissue", tissue)):
        Image.fromarray((255 * picture).astype(np.uint8)).save(tmp_path / f"{name}.png")
    samples = examine(tmp_path).result["samples"]
    assert sorted(one["hidden"] for one in samples) == [
        "",
        "colours unlike tissue: may show a person",
    ]


def test_an_ultrasound_thumbnail_is_black_outside_its_sector(tmp_path):
    x_THWC, fan_HW = cine(n_frames=12)
    (tmp_path / "a").mkdir()
    dicom_objects.save(tmp_path / "a" / "us.dcm", x_THWC, "US", header={"PatientID": "x"})
    index.run(index.IndexConfig(archive=tmp_path / "a", out=tmp_path / "c", quiet=True))
    catalog = Catalog.open(tmp_path / "c")
    (record,) = catalog.records()
    picture_CHW = doctor.look_at(catalog, record).picture_CHW
    assert picture_CHW is not None
    assert picture_CHW[:, :16, :140].max() == 0  # where the name stood
    assert picture_CHW[:, fan_HW].mean() > 0.05


def test_labels_without_image_and_series_with_several_records_are_counted(tmp_path):
    affine = oblique()
    x_DHW = blob_hu(affine).astype(np.float32)
    save_nifti(tmp_path / "imagesTr" / "a.nii", x_DHW, affine)
    save_nifti(tmp_path / "labelsTr" / "a.nii", (x_DHW > 0).astype(np.uint8), affine)
    save_nifti(tmp_path / "labelsTr" / "b_seg.nii", (x_DHW > 0).astype(np.uint8), affine)
    save_nifti(tmp_path / "c.img", x_DHW, affine)  # writes c.hdr too
    (tmp_path / "c.img").unlink()
    report = examine(tmp_path, samples=0).result
    assert report["orphans"] == {
        "labels": 2,
        "labels_without_image": 1,
        "headers_without_pixels": 1,
    }
    assert "1 of 2 labels have no image" in verdict_text(report)
    assert report["samples"] == []


@pytest.mark.real
def test_a_missing_decoder_is_named(medssl_data, tmp_path):
    (file,) = medssl_data.rglob("JPEG-lossy.dcm")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.dcm").write_bytes(file.read_bytes())
    row = next(r for r in examine(tmp_path / "a").result["syntaxes"])
    assert row["uid"] == "1.2.840.10008.1.2.4.51"
    if row["decoded"] != "yes":  # with the GPL extra it decodes
        assert row["reason"] == "no_decoder:1.2.840.10008.1.2.4.51"


def test_a_folder_without_imaging_ends_with_3(tmp_path):
    (tmp_path / "empty").mkdir()
    done = call(tmp_path / "empty")
    assert done.exit_code == 3
    assert "No imaging found." in done.stdout


def test_broken_files_alone_end_with_3_and_their_reasons(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"")
    (tmp_path / "b.dcm").write_bytes(b"not a scan")
    report = examine(tmp_path)
    assert report.exit_code == 3
    assert {r["reason"] for r in report.result["quarantine"]} == {"empty_file", "not_dicom"}
    assert "None of 2 imaging files can be used." in verdict_text(report.result)


def test_a_sparse_file_of_4_gb_takes_neither_time_nor_memory(tmp_path):
    affine = oblique()
    save_nifti(tmp_path / "one.nii", blob_hu(affine), affine)
    with (tmp_path / "huge.nii").open("wb") as file:
        file.truncate(4 * 2**30)
    report = examine(tmp_path).result
    assert report["records"]["total"] == 1
    assert report["files"]["bytes"] > 4 * 2**30


def test_wrong_places_are_usage_errors(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="not a folder"):
        examine(tmp_path / "nowhere")
    (tmp_path / "a").mkdir()
    with pytest.raises(UsageError):
        examine(tmp_path / "a", tmp_path / "file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    assert call(tmp_path / "a", "-o", tmp_path / "full", "--overwrite").exit_code == 2
    assert (tmp_path / "full" / "thesis.tex").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_place_fails_before_the_work(tmp_path):
    tmp_path.chmod(0o500)
    assert call(tmp_path, "-o", tmp_path / "out").exit_code == 1


def test_sentences_name_what_is_short(examined):
    report, _ = examined
    poor = {"disk_free_bytes": 10, "shared_memory_bytes": 64 * 2**20}
    lines = verdict({**report, "machine": {**report["machine"], **poor}})
    assert lines[0][0] == "bad"
    texts = " ".join(text for _, text in lines)
    assert "choose another disk" in texts and "--shm-size" in texts


@pytest.mark.debian("chromium")
def test_a_browser_shows_the_page(examined, tmp_path):
    _, out = examined
    picture = tmp_path / "page.png"
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --window-size=1200,1600"
    subprocess.run(
        [
            "chromium",
            *flags.split(),
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--screenshot={picture}",
            (out / doctor.PAGE).as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    shown = np.asarray(Image.open(picture).convert("L"))
    assert shown.shape == (1600, 1200)
    assert len(np.unique(shown)) > 50  # cards, text and thumbnails
