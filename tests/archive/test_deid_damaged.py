"""Damaged files are refused by name or copied clean; nothing else happens."""

import numpy as np
import pytest

from medssl.archive._deid_dicom import Ignored, copy_dicom
from medssl.archive._deid_nifti import copy_nifti
from medssl.core.errors import ReadError
from medssl.core.reasons import REASONS
from tests.planted import FAMILY, GIVEN, found_in
from tests.scans import blob_hu, oblique, save_dicom, save_nifti


def mutated(content, rng):
    """One of: flipped bits, a cut, two swapped words, inserted bytes; mostly in the header."""
    data = bytearray(content)
    head = min(len(data) - 8, 1200)
    kind = rng.integers(4)
    if kind == 0:
        for at in rng.integers(0, head, 6):
            data[at] ^= 1 << rng.integers(8)
    elif kind == 1:
        del data[rng.integers(len(data)) :]
    elif kind == 2:
        a, b = rng.integers(0, head, 2)
        data[a : a + 4], data[b : b + 4] = data[b : b + 4], data[a : a + 4]
    else:
        at = rng.integers(head)
        data[at:at] = rng.bytes(9)
    return bytes(data)


@pytest.fixture
def dicom(tmp_path):
    affine = oblique()
    folder = save_dicom(tmp_path / "s", blob_hu(affine)[:1], affine, patient=f"{FAMILY}^{GIVEN}")
    return next(folder.iterdir()).read_bytes()


def test_mutated_dicom_is_refused_or_copied_whole(tmp_path, dicom):
    rng, path = np.random.default_rng(5), tmp_path / "m.dcm"
    copied = 0
    for _ in range(400):
        path.write_bytes(mutated(dicom, rng))
        try:
            _, content = copy_dicom(path, b"key", "id")
        except Ignored:
            continue
        except ReadError as error:
            assert error.reason.partition(":")[0] in REASONS, error.reason
            assert found_in(error.what.encode()) == []
            continue
        copied += 1
        assert content[:128] == b"\0" * 128 and content[128:132] == b"DICM"
    assert copied > 50


def test_mutated_nifti_is_refused_or_copied_whole(tmp_path):
    affine = oblique()
    source = save_nifti(tmp_path / "a.nii", blob_hu(affine)[:4], affine).read_bytes()
    rng, path = np.random.default_rng(5), tmp_path / "m.nii"
    for _ in range(200):
        path.write_bytes(mutated(source, rng))
        try:
            copy_nifti(path)
        except ReadError as error:
            assert error.reason.partition(":")[0] in REASONS, error.reason
