"""What every registered reader promises: a broken file is a ReadError with a code, never else."""

import inspect
import pickle
import re

import numpy as np
import pytest

from medssl.core.errors import ReadError
from medssl.core.registry import READERS

SUFFIX = {
    "dicom": ".dcm",
    "image": ".png",
    "labels": ".dcm",
    "nifti": ".nii",
    "video": ".mp4",
    "mha": ".mha",
    "nrrd": ".nrrd",
    "ultrasound": ".dcm",
}
# First bytes that make a reader believe the file is its own.
HEAD = {
    "dicom": bytes(128) + b"DICM",
    "image": b"\x89PNG\r\n\x1a\n",
    "labels": bytes(128) + b"DICM",
    "mha": b"ObjectType = Image\nNDims = 3\n",
    "nifti": (348).to_bytes(4, "little"),
    "nrrd": b"NRRD0005\n",
    "ultrasound": bytes(128) + b"DICM",
    "video": b"\0\0\0\x18ftypisom",
}


@pytest.fixture(params=READERS.names())
def reader(request):
    return request.param, READERS.module(request.param)[0]


def test_offers_the_five_functions(reader):
    _, module = reader
    found = {name: len(inspect.signature(getattr(module, name)).parameters) for name in
             ("matches", "header", "group", "load", "trusted")}  # fmt: skip
    assert found == {"matches": 2, "header": 1, "group": 2, "load": 2, "trusted": 1}


@pytest.mark.parametrize("seed", range(20))
def test_garbage_is_a_read_error_with_a_code(reader, tmp_path, seed):
    name, module = reader
    rng = np.random.default_rng(seed)
    path = tmp_path / f"file{SUFFIX[name]}"
    path.write_bytes(HEAD[name] + rng.bytes(int(rng.integers(0, 3000))))
    try:
        header = module.header(path)
        found, refused = module.group([header])
        for one in found:
            module.load(one)
        assert found or refused or header.ignored
    except ReadError as error:
        assert re.fullmatch(r"[a-z0-9_]+(:[0-9.]+)?", error.reason)
        assert str(path) not in error.what
        assert pickle.loads(pickle.dumps(error)).reason == error.reason


def test_empty_file_is_refused(reader, tmp_path):
    name, module = reader
    path = tmp_path / f"file{SUFFIX[name]}"
    path.write_bytes(b"")
    with pytest.raises(ReadError):
        module.header(path)


def test_nothing_to_group_gives_nothing(reader):
    assert reader[1].group([]) == ([], [])


def test_text_is_not_claimed_without_the_suffix(reader, tmp_path):
    assert not reader[1].matches(tmp_path / "notes.txt", b"Dictated but not read.\n")
