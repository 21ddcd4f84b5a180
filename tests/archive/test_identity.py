"""Patients by file name and header; hashes that tell nothing."""

import stat
from pathlib import Path

import pytest

from medssl.archive.identity import hash_id, load_salt, patient_of
from medssl.core.geometry import Geometry
from medssl.readers._base import Found

ROOT = Path("archive")


def found(path, kind="nifti", **ids):
    geometry = Geometry(kind="volume")
    return Found(
        files=(str(ROOT / path),),
        format=kind,
        shape=(1, 4, 4, 4),
        dtype="f4",
        geometry=geometry,
        **ids,
    )


@pytest.mark.parametrize(
    ("path", "patient"),
    [
        ("imagesTr/liver_012_0000.nii.gz", "liver_012"),
        ("labelsTr/liver_012.nii.gz", "liver_012"),
        ("sub-A07/ses-1/anat/sub-A07_T1w.nii.gz", "sub-A07"),
        ("Smith/t1.nii.gz", "Smith"),
        ("Smith/flair.nii.gz", "Smith"),
        ("scans/P_3.nii", "P_3"),
    ],
)
def test_file_names_tell_the_patient(path, patient):
    assert patient_of(found(path), ROOT) == patient


def test_dicom_ids_come_before_names():
    assert patient_of(found("x/IM1", "dicom", patient="P", study="S", series="E"), ROOT) == "P"
    assert patient_of(found("x/IM1", "dicom", study="S", series="E"), ROOT) == "S"
    assert patient_of(found("x/SEG", "labels", patient="P", study="S"), ROOT) == "P"
    assert patient_of(found("x/IM1", "dicom", series="E"), ROOT) == "E"


def test_the_salt_is_made_once_and_is_private(tmp_path):
    salt = load_salt(tmp_path)
    assert load_salt(tmp_path) == salt and len(salt) == 32
    assert stat.S_IMODE((tmp_path / "salt").stat().st_mode) == 0o600


def test_hashes_agree_with_rfc_2104_and_differ_by_salt():
    import hashlib
    import hmac

    expected = hmac.new(b"salt", b"patient\0P1", hashlib.sha256).hexdigest()[:16]
    assert hash_id(b"salt", "patient", "P1") == expected != hash_id(b"other", "patient", "P1")
    assert hash_id(b"salt", "patient", "\udcff") != expected  # names need not be valid text
