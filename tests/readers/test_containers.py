"""Zip and tar archives: read as the unpacked copy would be, and every trap refused by name."""

import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medssl.core.errors import ReadError
from medssl.readers import _containers, _source
from medssl.readers._dispatch import read_header, walk
from medssl.readers._read import read, read_folder
from tests.scans import blob_hu, oblique, save_dicom

VOXELS = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
SCAN = nib.Nifti1Image(VOXELS, np.eye(4)).to_bytes()


def outcomes(folder):
    """Every file and member below a folder -> format, ``ignored:kind`` or reason."""
    found = {}
    for path in walk(folder):
        try:
            header = read_header(path)
            kind = f"ignored:{header.ignored}" if header.ignored else header.format
            found[str(path.relative_to(folder))] = kind
        except ReadError as error:
            assert str(folder) not in error.what + error.fix
            found[str(path.relative_to(folder))] = error.reason
    return found


def zipped(path, *members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def tarred(path, *members, mode="w"):
    """Members are (name, content) or TarInfo."""
    with tarfile.open(path, mode) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            archive.addfile(info, io.BytesIO(member[1]))
    return path


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz", "a.tar.xz", "a.tar.bz2", "a.zip"])
def test_a_member_reads_like_the_unpacked_file(tmp_path, name):
    modes = {"r": "w", "z": "w:gz", "x": "w:xz", "2": "w:bz2"}
    if name == "a.zip":
        zipped(tmp_path / name, ("sub/x.nii", SCAN))
    else:
        mode = "w:xz" if name.endswith("xz") else modes[name[-1]]
        tarred(tmp_path / name, ("./sub/x.nii", SCAN), mode=mode)
    assert outcomes(tmp_path)[f"{name}!/sub/x.nii"] == "nifti"
    for sample in (read(tmp_path / name), read(tmp_path / f"{name}!/sub/x.nii")):
        np.testing.assert_array_equal(sample.array[0], VOXELS.T)
    with _source.local_file(tmp_path / f"{name}!/sub/x.nii") as copy:
        assert copy.read_bytes() == SCAN
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert not copy.exists()
    assert _source.size_of(tmp_path / f"{name}!/sub/x.nii") == len(SCAN)


def test_a_large_member_is_read_through_a_file_that_has_no_name(tmp_path, monkeypatch):
    monkeypatch.setattr(_source, "MEMORY_BYTES", 100)
    path = zipped(tmp_path / "a.zip", ("x.nii", SCAN))
    with _source.open_source(Path(f"{path}!/x.nii")) as file:
        file.seek(-10, io.SEEK_END)
        assert file.read() == SCAN[-10:]


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.zip", "large.zip"])
def test_a_dicom_series_reads_like_the_unpacked_folder(tmp_path, monkeypatch, name):
    series = save_dicom(tmp_path / "series", blob_hu(oblique(), (4, 34, 30)), oblique())
    members = [(f"s/{one.name}", one.read_bytes()) for one in series.iterdir()]
    if name == "large.zip":
        monkeypatch.setattr(_source, "MEMORY_BYTES", 100)
    pack = zipped if name.endswith("zip") else tarred
    packed = pack(tmp_path / name, *members, **({"mode": "w:gz"} if name == "a.tgz" else {}))
    one, other = read(packed), read(series)
    np.testing.assert_array_equal(one.array, other.array)
    np.testing.assert_array_equal(one.geometry.affine, other.geometry.affine)


def test_two_readers_of_one_member_do_not_move_each_other(tmp_path):
    path = Path(f"{tarred(tmp_path / 'a.tar', ('x.nii', SCAN))}!/x.nii")
    with _source.open_source(path) as one, _source.open_source(path) as two:
        assert one.read(100) == SCAN[:100]
        assert two.read() == SCAN
        assert one.read() == SCAN[100:]


@pytest.mark.parametrize(
    "name", ["../../evil.nii", "/etc/x.nii", "a/../../x.nii", "C:\\x.nii", "..\\x.nii", "a\x01.nii"]
)
def test_zip_slip_absolute_paths_and_control_characters_are_refused(tmp_path, name):
    zipped(tmp_path / "a.zip", (name, SCAN), ("fine.nii", SCAN))
    tarred(tmp_path / "a.tar", (name, SCAN), ("fine.nii", SCAN))
    found = outcomes(tmp_path)
    assert found["a.zip!/#0"] == found["a.tar!/#0"] == "unsafe_path"
    assert found["a.zip!/fine.nii"] == found["a.tar!/fine.nii"] == "nifti"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.tar", "a.zip"]


def test_links_devices_and_pipes_in_a_tar_are_refused(tmp_path):
    secret = tmp_path / "secret.nii"
    secret.write_bytes(SCAN)
    tarred(
        tmp_path / "a.tar",
        special("sym.nii", tarfile.SYMTYPE, str(secret)),
        special("hard.nii", tarfile.LNKTYPE, "../secret.nii"),
        special("dev.nii", tarfile.CHRTYPE),
        special("pipe.nii", tarfile.FIFOTYPE),
        special("folder", tarfile.DIRTYPE),
    )
    found = outcomes(tmp_path)
    assert {key: found[f"a.tar!/{key}.nii"] for key in ("sym", "hard", "dev", "pipe")} == {
        "sym": "link_member",
        "hard": "link_member",
        "dev": "special_member",
        "pipe": "special_member",
    }
    assert "a.tar!/folder" not in found


def test_a_symbolic_link_in_a_zip_is_refused(tmp_path):
    info = zipfile.ZipInfo("x.nii")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    zipped(tmp_path / "a.zip", (info, "/etc/passwd"))
    assert outcomes(tmp_path)["a.zip!/x.nii"] == "link_member"


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_bomb_is_refused_before_it_is_inflated(tmp_path, method, monkeypatch):
    monkeypatch.setattr(_containers, "BOMB_FLOOR_BYTES", 2**20)
    path = zipped(tmp_path / "a.zip", ("x.nii", bytes(8 * 2**20)), method=method)
    assert path.stat().st_size < 2**15
    assert outcomes(tmp_path)["a.zip!/x.nii"] == "archive_bomb"


def test_a_zip_that_claims_10_gb_in_10_kb_is_refused(tmp_path):
    path = zipped(tmp_path / "a.zip", ("x.nii", SCAN))
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<L", 2**32 - 2)
    path.write_bytes(content)
    assert outcomes(tmp_path)["a.zip!/x.nii"] == "archive_bomb"


def test_a_member_that_lies_about_its_size_is_refused(tmp_path):
    path = zipped(tmp_path / "a.zip", ("x.nii", SCAN))
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    for claim in (len(SCAN) + 5, len(SCAN) - 5):
        content[entry + 24 : entry + 28] = struct.pack("<L", claim)
        path.write_bytes(content)
        assert outcomes(tmp_path)["a.zip!/x.nii"] in {"truncated", "corrupt"}


def test_overlapping_members_are_a_bomb(tmp_path):
    path = zipped(tmp_path / "a.zip", ("x.nii", SCAN), ("y.nii", SCAN), ("z.nii", SCAN))
    content = bytearray(path.read_bytes())
    second = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 4)
    content[second + 42 : second + 46] = bytes(4)  # the second entry points at the first's data
    path.write_bytes(content)
    found = outcomes(tmp_path)
    assert found["a.zip!/x.nii"] == found["a.zip!/y.nii"] == "archive_bomb"
    assert found["a.zip!/z.nii"] == "nifti"


def test_a_compressed_tar_that_inflates_to_a_bomb_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(_containers, "BOMB_FLOOR_BYTES", 2**20)
    for mode in ("gz", "xz", "bz2"):
        tarred(tmp_path / f"a.tar.{mode}", ("x.nii", bytes(30 * 2**20)), mode=f"w:{mode}")
    assert set(outcomes(tmp_path).values()) == {"archive_bomb"}


def test_encrypted_nested_and_foreign_archives_have_reasons(tmp_path):
    path = zipped(tmp_path / "a.zip", ("x.nii", SCAN), ("in.tar.gz", b"x"), ("IN.ZIP", b"PK"))
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 8] |= 1
    path.write_bytes(content)
    (tmp_path / "b.7z").write_bytes(b"7z\xbc\xaf\x27\x1c")
    assert outcomes(tmp_path) == {
        "a.zip": "ignored:zip",
        "a.zip!/IN.ZIP": "nested_archive",
        "a.zip!/in.tar.gz": "nested_archive",
        "a.zip!/x.nii": "encrypted",
        "b.7z": "unsupported_archive",
    }


def test_archives_under_other_names_are_no_documents(tmp_path):
    packed = zipped(tmp_path / "a.docx", ("x.nii", SCAN)).read_bytes()
    (tmp_path / "EXPORT7").write_bytes(packed)
    (tmp_path / "1.2.840.113").write_bytes(packed)
    tarred(tmp_path / "disc", ("x.nii", SCAN))
    (tmp_path / "MR.gz").write_bytes(gzip.compress(b"\0" * 128 + b"DICM" + bytes(99)))
    (tmp_path / "x.log.gz").write_bytes(gzip.compress(b"patient notes"))
    refused = dict.fromkeys(["EXPORT7", "1.2.840.113", "disc", "MR.gz"], "unsupported_archive")
    ignored = {"a.docx": "ignored:zip", "x.log.gz": "ignored:gzip"}
    assert outcomes(tmp_path) == refused | ignored


@pytest.mark.parametrize("name", ["scan", "scan.gz", "scan.dcm"])
def test_a_packed_nifti_is_told_by_its_content(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(SCAN))
    np.testing.assert_array_equal(read(tmp_path / name).array[0], VOXELS.T)


def test_of_two_members_with_one_name_the_later_counts_and_the_earlier_is_named(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        zipped(tmp_path / "a.zip", ("x.nii", b"old"), ("x.nii", SCAN))
    tarred(tmp_path / "a.tar", ("x.nii", b"old"), ("./x.nii", SCAN))
    found = outcomes(tmp_path)
    for name in ("a.zip", "a.tar"):
        assert (found[f"{name}!/#0"], found[f"{name}!/x.nii"]) == ("duplicate_member", "nifti")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + b"x" * 99, b"patient notes" * 90])
def test_what_is_no_archive_says_so(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert outcomes(tmp_path) == {name: "corrupt_archive"}


def test_a_truncated_archive_keeps_what_is_whole_and_is_in_the_ledger(tmp_path):
    noise = np.random.default_rng(0).bytes(5000)
    path = tarred(tmp_path / "a.tar", ("x.nii", SCAN), ("y.nii", noise), ("z.nii", noise))
    path.write_bytes(path.read_bytes()[:8000])
    found = outcomes(tmp_path)
    assert found["a.tar!/x.nii"] == "nifti"
    assert found["a.tar!/z.nii"] == "truncated" or found["a.tar"] == "corrupt_archive"
    cut = zipped(tmp_path / "b.zip", ("x.nii", SCAN))
    cut.write_bytes(cut.read_bytes()[:-30])
    assert outcomes(tmp_path)["b.zip"] == "corrupt_archive"


def test_a_damaged_header_in_the_middle_of_a_tar_is_not_its_end(tmp_path):
    path = tarred(tmp_path / "a.tar", ("x.nii", SCAN), ("y.nii", SCAN))
    content = bytearray(path.read_bytes())
    content[content.index(b"y.nii") + 150] ^= 0xFF  # its check sum
    path.write_bytes(content)
    assert outcomes(tmp_path) == {"a.tar": "corrupt_archive", "a.tar!/x.nii": "nifti"}


def test_a_flipped_bit_in_a_member_is_seen(tmp_path):
    path = zipped(tmp_path / "a.zip", ("x.nii", SCAN), method=zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.index(SCAN[352:]) + 20] ^= 4
    path.write_bytes(content)
    assert outcomes(tmp_path)["a.zip!/x.nii"] == "corrupt"


def test_names_in_any_alphabet_are_read(tmp_path):
    zipped(tmp_path / "a.zip", ("Größe/患者.nii", SCAN))
    tarred(tmp_path / "a.tar", ("Größe/患者.nii", SCAN))
    info = tarfile.TarInfo("x")
    info.size = len(SCAN)
    with tarfile.open(tmp_path / "b.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        info.name = b"na\xefve\xff.nii".decode("utf-8", "surrogateescape")
        archive.addfile(info, io.BytesIO(SCAN))
    found = outcomes(tmp_path)
    assert sorted(found.values()) == ["ignored:tar"] * 2 + ["ignored:zip"] + ["nifti"] * 3


def test_a_stamp_changes_with_the_member_and_with_the_archive(tmp_path):
    path = zipped(tmp_path / "a.zip", ("x.nii", SCAN), ("y.nii", SCAN[:-1] + b"!"))
    x, y = Path(f"{path}!/x.nii"), Path(f"{path}!/y.nii")
    first = _source.stamp_of(x)
    assert first != _source.stamp_of(y)
    assert first == _source.stamp_of(x)
    os.utime(path, ns=(1, 1))
    assert _source.stamp_of(x) != first


def test_a_folder_named_like_the_inside_of_an_archive_is_ambiguous(tmp_path):
    zipped(tmp_path / "a.zip", ("x.nii", SCAN))
    (tmp_path / "a.zip!").mkdir()
    assert outcomes(tmp_path) == {"a.zip": "ambiguous_name"}


def test_an_archive_and_a_dicom_file_at_once_is_named(tmp_path):
    path = zipped(tmp_path / "a.zip", ("x.nii", SCAN))
    content = path.read_bytes()
    path.write_bytes(bytes(128) + b"DICM" + content)
    assert outcomes(tmp_path) == {"a.zip": "polyglot", "a.zip!/x.nii": "nifti"}


def test_a_scan_named_as_an_archive_is_still_read(tmp_path):
    (tmp_path / "a.zip").write_bytes(SCAN)
    assert outcomes(tmp_path) == {"a.zip": "nifti"}


def test_headers_that_run_in_a_circle_end(tmp_path):
    path = tarred(tmp_path / "a.tar", ("x.nii", SCAN))
    content = bytearray(path.read_bytes())
    content[124:136] = b"\xff" * 12  # size -1 in the base-256 notation
    content[148:156] = b" " * 8
    content[148:154] = b"%06o" % sum(content[:512])
    path.write_bytes(content)
    assert outcomes(tmp_path)["a.tar"] in {"corrupt_archive", "archive_bomb"}


def test_an_extended_header_of_gigabytes_is_not_read(tmp_path):
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 8 * 2**30
    (tmp_path / "a.tar").write_bytes(info.tobuf() + bytes(1024))
    assert outcomes(tmp_path)["a.tar"] == "corrupt_archive"


def test_a_directory_larger_than_the_cap_is_not_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr(_containers, "MAX_DIRECTORY_BYTES", 1000)
    zipped(tmp_path / "a.zip", *((f"{n}.txt", b"") for n in range(50)))
    assert outcomes(tmp_path) == {"a.zip": "archive_bomb"}


def test_read_folder_gives_what_lies_in_archives(tmp_path):
    zipped(tmp_path / "a.zip", ("x.nii", SCAN), ("report.pdf", b"%PDF-1.4"))
    tarred(tmp_path / "b.tgz", ("y.nii", SCAN), mode="w:gz")
    assert [sample.shape for sample in read_folder(tmp_path)] == [(1, 6, 5, 4)] * 2


def test_the_end_record_of_a_zip64_is_understood():
    record = b"PK\x06\x06" + bytes(36) + struct.pack("<Q", 7 * 2**30) + bytes(8)
    locator = b"PK\x06\x07" + bytes(4) + struct.pack("<QL", 0, 1)
    end = b"PK\x05\x06" + bytes(8) + b"\xff" * 8 + bytes(2)
    content = record + locator + end
    assert _containers.directory_bytes(io.BytesIO(content), len(content)) == 7 * 2**30


def test_crc_of_python_and_of_the_archive_agree(tmp_path):
    path = zipped(tmp_path / "a.zip", ("x.nii", SCAN))
    with path.open("rb") as file:
        listing, _ = _containers.list_zip(file, path.stat().st_size)
    assert listing.members[0].check == zlib.crc32(SCAN)
