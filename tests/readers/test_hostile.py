"""Files made to harm: each attack of the test list is a test of its own name.

Archives have theirs in test_containers.py, pixel data in test_dicom_pixels_refused.py.
"""

import gzip
import io
import os
import resource
import struct
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from medssl.core.errors import ReadError
from medssl.readers import dicom
from medssl.readers._dispatch import group_headers, load, read_header, walk
from tests.fuzz.seeds import _bytes, ct, seeds_of
from tests.readers.test_containers import outcomes


def series(folder, **values):
    """A CT series of five slices whose third has other values."""
    for number in range(5):
        one = ct(number)
        with pydicom.config.disable_value_validation():
            for keyword, value in values.items() if number == 2 else ():
                setattr(one, keyword, value)
        (folder / f"{number}.dcm").write_bytes(_bytes(one))
    return read(folder)


def read(folder):
    """(shapes, reasons) of a folder, loaded."""
    headers, reasons = [], []
    for path in walk(folder):
        try:
            headers.append(read_header(path))
        except ReadError as error:
            reasons.append(error.reason)
    found, refused = group_headers(headers)
    return [load(one).shape for one in found], sorted({*reasons, *(r.reason for r in refused)})


@pytest.mark.parametrize("size", [(65535, 65535), (1, 1), (11, 12)])
def test_rows_times_columns_that_overflow_or_lie(tmp_path, size):
    shapes, reasons = series(tmp_path, Rows=size[0], Columns=size[1])
    assert shapes == []
    assert reasons


def test_frames_beyond_all_memory(tmp_path):
    one = ct(0)
    one.NumberOfFrames = 2**31 - 1
    (tmp_path / "x.dcm").write_bytes(_bytes(one))
    shapes, reasons = read(tmp_path)
    assert (shapes, len(reasons)) == ([], 1)


@pytest.mark.parametrize(
    "spacing", [["0", "0.7"], ["nan", "0.7"], ["inf", "1"], ["-1", "1"], ["1e300", "1"]]
)
def test_spacing_that_is_no_number_or_impossible(tmp_path, spacing):
    for number in range(5):
        one = ct(number)
        del one.PixelSpacing
        content = _bytes(one)
        element = (
            struct.pack("<HH2sH", 0x28, 0x30, b"DS", 20) + "\\".join(spacing).ljust(20).encode()
        )
        at = content.index(b"\x28\x00\x00\x01")  # BitsAllocated follows
        (tmp_path / f"{number}.dcm").write_bytes(content[:at] + element + content[at:])
    shapes, reasons = read(tmp_path)
    assert (shapes, reasons) == ([], ["bad_geometry"])


@pytest.mark.parametrize("uid", ["../../../tmp/x", "/etc/passwd", "..\\..\\x", "1.2.3/../../x"])
def test_a_uid_that_is_a_path_leads_nowhere(tmp_path, uid):
    folder = tmp_path / "in"
    folder.mkdir()
    series(folder, SOPInstanceUID=uid)
    for number in range(5):
        one = ct(number)
        with pydicom.config.disable_value_validation():
            one.SeriesInstanceUID, one.StudyInstanceUID = uid, uid
        (folder / f"{number}.dcm").write_bytes(_bytes(one))
    shapes, _ = read(folder)
    assert shapes == [(1, 5, 10, 12)]
    assert [one.name for one in tmp_path.iterdir()] == ["in"]


def nested(depth, *, defined):
    tag = struct.pack("<HH", 0x0040, 0x0275)
    if not defined:
        head = tag + b"SQ\0\0" + b"\xff" * 4 + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
        tail = struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
        return head * depth + tail * depth
    body = b""
    for _ in range(depth):
        item = struct.pack("<HHL", 0xFFFE, 0xE000, len(body)) + body
        body = tag + b"SQ\0\0" + struct.pack("<L", len(item)) + item
    return body


@pytest.mark.parametrize("depth", [1000, 20_000])
@pytest.mark.parametrize("defined", [False, True])
def test_a_nesting_bomb_ends_in_the_ledger_or_is_skipped_over(tmp_path, depth, defined):
    content = _bytes(ct(0))
    at = content.rindex(b"\xe0\x7f\x10\x00")
    path = tmp_path / "x.dcm"
    path.write_bytes(content[:at] + nested(depth, defined=defined) + content[at:])
    if defined:  # its length is known: nobody looks inside
        assert read_header(path).format == "dicom"
        return
    with pytest.raises(ReadError) as caught:
        read_header(path)
    assert caught.value.reason == "nesting_too_deep"


def test_a_polyglot_preamble_is_dicom_and_nothing_else(tmp_path):
    for number in range(5):
        content = bytearray(_bytes(ct(number)))
        content[:8] = [
            b"II*\0\x08\0\0\0",
            b"MZ\x90\0PE\0\0",
            b"PK\3\4\0\0\0\0",
            b"%PDF-1.7",
            b"#!/bin/s",
        ][number]
        (tmp_path / f"{number}.tif").write_bytes(content)
    assert read(tmp_path) == ([(1, 5, 10, 12)], [])


@pytest.mark.parametrize(
    "suffix", [".nii", ".nii.gz", ".dcm", ".png", ".nrrd", ".mha", ".mp4", ".zip"]
)
def test_zero_bytes_and_a_wrong_extension_are_refused_by_name(tmp_path, suffix):
    (tmp_path / f"empty{suffix}").write_bytes(b"")
    (tmp_path / f"text{suffix}").write_bytes(b"Dictated but not read.\n" * 40)
    found = outcomes(tmp_path)
    assert len(found) == 2
    assert not any(outcome in {"nifti", "dicom", "image"} for outcome in found.values())
    assert not any(outcome.startswith("ignored") for outcome in found.values())


@pytest.mark.parametrize("name", ["scan.txt", "scan", "scan.dcm.bak", "SCAN.JPG"])
@pytest.mark.parametrize("kind", ["nifti", "nrrd", "dicom"])
def test_a_scan_under_a_wrong_name_is_found_by_its_content(tmp_path, name, kind):
    seed = {"nifti": "plain", "nrrd": "raw", "dicom": "enhanced"}[kind]
    (content,) = seeds_of(kind)[seed].values()
    (tmp_path / name).write_bytes(content)
    assert len(read(tmp_path)[0]) == 1


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 192", "Müller^Jürgen"),
        ("ISO 2022 IR 87", "Yamada^Tarou=山田^太郎"),
        ("ISO 2022 IR 149", "Hong^Gildong=洪^吉洞"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
    ],
)
def test_patient_names_in_any_character_set_do_not_matter(tmp_path, charset, name):
    shapes, reasons = series(tmp_path, SpecificCharacterSet=charset, PatientName=name)
    assert (shapes, reasons) == ([(1, 5, 10, 12)], [])


@pytest.mark.parametrize("charset", ["RGB", "ISO_IR 999", "\\\\\\", "ISO 2022 IR 87\\nonsense"])
def test_a_character_set_that_does_not_exist_is_no_crash(tmp_path, charset):
    shapes, _ = series(tmp_path, SpecificCharacterSet=charset)
    assert shapes


def test_file_names_that_are_no_text(tmp_path):
    folder = str(tmp_path).encode() + b"/\xff\xfe"
    path = Path(os.fsdecode(folder + b"/M\xfcller.nii"))
    path.parent.mkdir()
    path.write_bytes(seeds_of("nifti")["plain"]["x.nii"])
    assert len(read(tmp_path)[0]) == 1


def peak_growth_mb(work):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def test_a_nifti_gz_bomb_is_refused_without_memory(tmp_path):
    header = nib.Nifti1Image(np.zeros((3, 3, 3), np.int16), np.eye(4)).to_bytes()[:352]
    bomb = zlib.compressobj(9, wbits=31)
    content = bomb.compress(header)
    content += b"".join(bomb.compress(bytes(2**20)) for _ in range(300)) + bomb.flush()
    (tmp_path / "x.nii.gz").write_bytes(content)
    assert len(content) < 400_000
    found = {}
    assert peak_growth_mb(lambda: found.update(outcomes(tmp_path))) < 100
    assert found == {"x.nii.gz": "extra_bytes"}


def test_a_header_of_10_gb_in_10_kb(tmp_path):
    image = nib.Nifti1Image(np.zeros((3, 3, 3), np.int16), np.eye(4))
    image.header["dim"][1:4] = 1720
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(image.header.binaryblock + bytes(9000)))
    (tmp_path / "x.nii").write_bytes(image.header.binaryblock + bytes(9000))
    assert set(outcomes(tmp_path).values()) == {"truncated"}


def test_pictures_that_unfold_to_gigabytes(tmp_path):
    def chunk(kind, body):
        return (
            struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))
        )

    head = struct.pack(">LLBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(10**6))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(png)
    small = io.BytesIO()
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(small, "TIFF", compression="tiff_lzw")
    tiff = bytearray(small.getvalue())
    for tag in (b"\x00\x01", b"\x01\x01"):  # ImageWidth, ImageLength
        at = tiff.rindex(tag + b"\x04\x00\x01\x00\x00\x00") if tag + b"\x04\x00" in tiff else -1
        if at < 0:
            at = tiff.rindex(tag + b"\x03\x00\x01\x00\x00\x00")
            tiff[at + 2] = 4
        tiff[at + 8 : at + 12] = struct.pack("<L", 60_000)
    (tmp_path / "x.tif").write_bytes(tiff)
    assert read(tmp_path)[0] == []


def test_links_that_run_in_a_circle_and_links_to_nowhere(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a" / "x.nii").symlink_to(tmp_path / "gone.nii")
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a" / "self")
    assert outcomes(tmp_path) == {"a/self": "ignored:broken_link", "a/x.nii": "unreadable"}


def test_a_dicomdir_is_never_followed(tmp_path):
    outside = tmp_path / "secret.dcm"
    outside.write_bytes(_bytes(ct(0)))
    folder = tmp_path / "in"
    folder.mkdir()
    entry = Dataset()
    entry.OffsetOfTheNextDirectoryRecord = 0
    entry.RecordInUseFlag, entry.OffsetOfReferencedLowerLevelDirectoryEntity = 0xFFFF, 0
    entry.DirectoryRecordType, entry.ReferencedFileID = "IMAGE", ["..", "secret.dcm"]
    one = ct(1)
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(one, keyword)
    one.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    del one.SOPClassUID
    one.DirectoryRecordSequence = [entry]
    (folder / "DICOMDIR").write_bytes(_bytes(one))
    assert outcomes(folder) == {"DICOMDIR": "ignored:dicomdir"}


def test_a_mistake_of_ours_is_no_broken_header(tmp_path, monkeypatch):
    """Only what pydicom raises is blamed on the file; a mistake of ours costs this file only."""

    def mistake(*_args, **_kwargs):
        raise AttributeError

    path = tmp_path / "x.dcm"
    path.write_bytes(_bytes(ct(0)))
    monkeypatch.setattr(dicom, "lean_elements", lambda *_: None)
    assert read_header(path).format == "dicom"
    monkeypatch.setattr(dicom, "tags_of", mistake)
    with pytest.raises(ReadError, match=r"AttributeError at dicom\.py:\d+") as caught:
        read_header(path)
    assert caught.value.reason == "internal_error"
    assert isinstance(caught.value.__cause__, AttributeError)
