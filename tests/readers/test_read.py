"""medssl.read and read_folder: one scan, or a clear word why not."""

import logging

import numpy as np
import pytest

from medssl.archive.phantom import save_nifti
from medssl.core.errors import NothingUsableError, ReadError, ResourceError, UsageError
from medssl.readers._dispatch import walk
from medssl.readers._read import read, read_folder

CUBE = np.arange(64, dtype=np.float32).reshape(4, 4, 4)


def nifti(path):
    save_nifti(path, CUBE, np.eye(4), np.float32)
    return path


def test_the_array_is_loaded_on_first_access_only(tmp_path):
    sample = read(nifti(tmp_path / "x.nii.gz"))
    (tmp_path / "x.nii.gz").unlink()
    with pytest.raises(ReadError) as caught:
        _ = sample.array
    assert caught.value.reason == "unreadable"


def test_an_array_above_the_cap_is_refused_before_it_is_read(tmp_path):
    sample = read(nifti(tmp_path / "x.nii.gz"))
    sample.byte_cap = 255
    with pytest.raises(ResourceError):
        _ = sample.array


def test_a_file_that_changed_since_its_header_is_refused(tmp_path):
    sample = read(nifti(tmp_path / "x.nii.gz"))
    save_nifti(tmp_path / "x.nii.gz", CUBE[:3], np.eye(4), np.float32)
    with pytest.raises(ReadError) as caught:
        _ = sample.array
    assert caught.value.reason == "changed"


def test_a_folder_with_two_volumes_names_them(tmp_path):
    nifti(tmp_path / "a.nii.gz")
    nifti(tmp_path / "b.nii.gz")
    with pytest.raises(ReadError) as caught:
        read(tmp_path)
    assert "a.nii.gz" in caught.value.where and "b.nii.gz" in caught.value.where
    assert [sample.name for sample in read_folder(tmp_path)] == ["a.nii.gz", "b.nii.gz"]


def test_read_folder_reports_what_it_leaves_out(tmp_path, caplog):
    nifti(tmp_path / "a.nii.gz")
    (tmp_path / "secret_name.nii.gz").write_bytes(b"")
    with caplog.at_level(logging.WARNING, "medssl"):
        assert len(list(read_folder(tmp_path))) == 1
    assert "1 empty_file" in caplog.text and "secret_name" not in caplog.text


def test_wrong_calls_are_usage_errors(tmp_path):
    with pytest.raises(UsageError):
        read(tmp_path / "nowhere")
    with pytest.raises(NothingUsableError):
        read(tmp_path)
    with pytest.raises(UsageError):
        read(nifti(tmp_path / "x.nii.gz"), frames=[0])


def test_symlink_loops_end_and_linked_folders_count_once(tmp_path):
    (tmp_path / "a").mkdir()
    nifti(tmp_path / "a" / "x.nii.gz")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert [file.name for file in walk(tmp_path)] == ["gone", "x.nii.gz"]
