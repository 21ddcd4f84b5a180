"""What `medssl deidentify` writes: nothing that was planted, and the same pictures."""

import gzip
import hashlib
import json
import os
import re
import stat
import struct
import subprocess
import sys
import zipfile
from collections import Counter

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

import medssl
from medssl.core.errors import NothingUsableError, ReadError, ResourceError, UsageError
from medssl.readers._dispatch import group_headers, read_header, sample, walk
from tests.scans import blob_hu, oblique, save_dicom, save_nifti
from tests.support import ROOT

NAME = "QUIXANO^ALONSO"
SECRETS = [b"quixano", b"alonso", b"mancha-77", b"19611030", b"rocinante"]


def deidentify(tmp_path, **more):
    return medssl.deidentify(tmp_path / "in", out=tmp_path / "out", workers=0, **more)


def copies(tmp_path, suffix="dcm"):
    return sorted((tmp_path / "out" / "files").rglob(f"*.{suffix}"))


def written(tmp_path):
    """Every byte and every name below the output folder, lower case."""
    files = list((tmp_path / "out").rglob("*"))
    names = "\n".join(str(file.relative_to(tmp_path)) for file in files).encode()
    return (names + b"".join(f.read_bytes() for f in files if f.is_file())).lower()


def series(tmp_path, name="ct", **more):
    affine = oblique()
    return save_dicom(tmp_path / "in" / name, blob_hu(affine)[:5], affine, **more)


def edit(folder, change):
    """Change every data set of a folder."""
    for file in folder.iterdir():
        dataset = pydicom.dcmread(file)
        change(dataset)
        dataset.save_as(file)


def volume(folder):
    (found,) = group_headers(read_header(path) for path in walk(folder))[0]
    return sample(found)


def plant_private(ds):
    block = ds.private_block(0x0011, "Rocinante", create=True)
    block.add_new(1, "LO", NAME)


def plant_nested(ds):
    inner, outer = Dataset(), Dataset()
    inner.PatientName, inner.InstitutionName = NAME, "mancha-77"
    outer.SourceImageSequence = Sequence([inner])
    ds.SharedFunctionalGroupsSequence = Sequence([outer])


def plant_description(ds):
    ds.StudyDescription = f"follow-up of {NAME}"


def plant_uid(ds):
    with pydicom.config.disable_value_validation():
        ds.FrameOfReferenceUID = "1.2.quixano.19611030"


def plant_unlisted_uid(ds):
    ds.InstanceCreatorUID = "1.2.3.19611030"


def plant_unknown_vr(ds, monkeypatch):
    monkeypatch.setattr(pydicom.config, "replace_un_with_known_vr", False)
    name = struct.pack("<HHL", 0x0010, 0x0010, 14) + NAME.encode()
    item = struct.pack("<HHL", 0xFFFE, 0xE000, len(name)) + name
    ds.add_new(0x00082112, "UN", item)  # a sequence that the writer did not know
    ds.add_new(0x0018FFF0, "UN", NAME.encode())  # an attribute of no edition


def plant_preamble(ds):
    ds.preamble = NAME.encode().ljust(128, b"\0")


def plant_date_garbage(ds):
    with pydicom.config.disable_value_validation():
        ds.add_new("AcquisitionDate", "DA", NAME)


def plant_ideographs(ds):
    ds.SpecificCharacterSet = ["ISO 2022 IR 6", "ISO 2022 IR 87"]
    ds.PatientName = (
        "Quixano^Alonso=\u5c71\u7530^\u592a\u90ce=\u3084\u307e\u3060^\u305f\u308d\u3046"
    )
    ds.Manufacturer = "\u5c71\u7530"


def plant_kept_text(ds):
    ds.SequenceName = "ep2d"
    ds.ProtocolName, ds.ReceiveCoilName = "head", "coil of Alonso Quixano"


def plant_wrong_vr(ds):
    ds.add_new(0x00181151, "LO", NAME)  # tube current, by the standard a number


def plant_code_word(ds):
    with pydicom.config.disable_value_validation():
        ds.BodyPartExamined = "Alonso, chest"


def plant_number(ds):
    with pydicom.config.disable_value_validation():
        ds.add_new("KVP", "LT", NAME)


PLANTS = [
    plant_private, plant_nested, plant_description, plant_uid, plant_unlisted_uid,
    plant_unknown_vr, plant_preamble, plant_date_garbage, plant_ideographs, plant_kept_text,
    plant_wrong_vr, plant_code_word, plant_number,
]  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS, ids=lambda f: f.__name__)
def test_nothing_planted_in_a_header_is_in_any_byte_written(tmp_path, plant, monkeypatch):
    folder = series(tmp_path, patient=NAME)

    def change(ds):
        ds.PatientBirthDate, ds.AccessionNumber = "19611030", "mancha-77"
        plant(ds, *([monkeypatch] if plant is plant_unknown_vr else []))

    edit(folder, change)
    assert all(b"QUIX" in f.read_bytes().upper() for f in folder.iterdir())
    monkeypatch.undo()
    deidentify(tmp_path)
    assert len(copies(tmp_path)) == 5
    found = written(tmp_path)
    assert [secret for secret in SECRETS if secret in found] == []
    for text in ("\u5c71\u7530", "\u592a\u90ce"):
        assert text.encode("iso2022_jp")[3:-3].lower() not in found


def test_names_of_files_and_folders_and_trailing_bytes_stay_behind(tmp_path):
    folder = series(tmp_path, name="Quixano_Alonso", prefix="Rocinante_")
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes() + b"\0" * 10 + NAME.encode())
    deidentify(tmp_path)
    assert len(copies(tmp_path)) == 5
    assert not any(secret in written(tmp_path) for secret in SECRETS)


def test_members_of_a_zip_are_copied_without_their_names(tmp_path):
    folder = series(tmp_path, name="x")
    with zipfile.ZipFile(tmp_path / "in" / "Quixano.zip", "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"alonso/{file.name}")
            file.unlink()
    deidentify(tmp_path)
    assert len(copies(tmp_path)) == 5
    assert not any(secret in written(tmp_path) for secret in SECRETS)


def test_a_ct_series_is_the_same_volume_afterwards(tmp_path):
    folder = series(tmp_path)
    deidentify(tmp_path)
    before, after = volume(folder), volume(tmp_path / "out" / "files")
    np.testing.assert_array_equal(after.array, before.array)
    np.testing.assert_array_equal(after.geometry.affine, before.geometry.affine)


def test_the_copy_says_what_was_done(tmp_path):
    series(tmp_path)
    deidentify(tmp_path)
    ds = pydicom.dcmread(copies(tmp_path)[0])
    assert ds.PatientIdentityRemoved == "YES"
    assert "2024b" in ds.DeidentificationMethod
    assert [c.CodeValue for c in ds.DeidentificationMethodCodeSequence] == ["113100"]
    assert ds.LongitudinalTemporalInformationModified == "REMOVED"
    assert ds.PatientID == ds.PatientName != "DOE^JOHN"
    assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
    assert "BurnedInAnnotation" not in ds
    assert ds.preamble == b"\0" * 128


def test_references_between_files_still_meet(tmp_path):
    folder = series(tmp_path)
    files = sorted(folder.iterdir())
    first = pydicom.dcmread(files[0])
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = (
        first.SOPClassUID,
        first.SOPInstanceUID,
    )
    second = pydicom.dcmread(files[1])
    second.SourceImageSequence = Sequence([item])
    second.save_as(files[1])
    deidentify(tmp_path)
    new = [pydicom.dcmread(file) for file in copies(tmp_path)]
    (reference,) = [d.SourceImageSequence[0] for d in new if "SourceImageSequence" in d]
    assert reference.ReferencedSOPInstanceUID in {d.SOPInstanceUID for d in new}
    assert reference.ReferencedSOPClassUID == first.SOPClassUID  # registered: no identifier
    assert len({d.SeriesInstanceUID for d in new}) == 1
    assert len({d.SOPInstanceUID for d in new}) == 5


def test_the_same_key_gives_the_same_patient_another_key_another(tmp_path):
    series(tmp_path)
    for name, key in (("a", "one"), ("b", "one"), ("c", "two")):
        out, secret = tmp_path / name, tmp_path / f"{key}.key"
        medssl.deidentify(tmp_path / "in", out=out, key=secret, workers=0)
    a, b, c = (sorted(p.name for p in (tmp_path / n / "files").iterdir()) for n in "abc")
    assert a == b != c


def test_the_key_is_the_owners_and_never_inside_the_copies(tmp_path):
    series(tmp_path)
    deidentify(tmp_path)
    for name in ("out.key", "out.key.paths.parquet"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert (tmp_path / "out.key").read_bytes() not in written(tmp_path)
    assert b"out.key" not in (tmp_path / "out" / "run.json").read_bytes()
    with pytest.raises(UsageError, match="key lies in the output"):
        medssl.deidentify(tmp_path / "in", out=tmp_path / "b", key=tmp_path / "b" / "k")
    (tmp_path / "out.key").chmod(0o644)
    with pytest.raises(UsageError, match="others may read"):
        deidentify(tmp_path, overwrite=True)


def test_resume_copies_only_what_is_missing_and_refuses_another_key(tmp_path):
    series(tmp_path)
    deidentify(tmp_path)
    whole = written(tmp_path)
    gone = copies(tmp_path)[2]
    content = gone.read_bytes()
    gone.unlink()
    again = deidentify(tmp_path, resume=True)
    assert (again.result["copied"], again.result["kept"]) == (1, 4)
    assert gone.read_bytes() == content and len(written(tmp_path)) == pytest.approx(len(whole), 0.1)
    with pytest.raises(UsageError, match="another key"):
        deidentify(tmp_path, resume=True, key=tmp_path / "other.key")


def test_what_cannot_be_cleaned_is_listed_and_not_copied(tmp_path):
    folder = series(tmp_path)
    (folder / "empty.dcm").write_bytes(b"")
    first = sorted(folder.glob("0*.dcm"))[0].read_bytes()
    (folder / "cut.dcm").write_bytes(first[: len(first) - 100])
    (folder / "cut_header.dcm").write_bytes(first[:300])
    (folder / "Quixano.txt").write_text(NAME)
    from PIL import Image

    Image.fromarray(np.zeros((64, 64), np.uint8)).save(folder / "alonso.png")
    done = deidentify(tmp_path)
    assert done.exit_code == 4
    assert done.result["copied"] == 5
    assert done.result["reasons"] == {
        "empty_file": 1, "not_deidentified:image": 1, "truncated": 1, **done.result["reasons"],
    }  # fmt: skip
    assert sum(done.result["reasons"].values()) == 4
    assert done.result["ignored"] == {"ignored:text": 1}
    assert not any(secret in written(tmp_path) for secret in SECRETS)


def test_pipes_and_broken_links_are_passed_by(tmp_path):
    series(tmp_path)
    os.mkfifo(tmp_path / "in" / "pipe.dcm")
    (tmp_path / "in" / "link.dcm").symlink_to(tmp_path / "nowhere")
    done = subprocess.run(
        [sys.executable, "-m", "medssl", "deidentify", "-i", "in", "-o", "out"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )
    result = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (done.returncode, result["copied"]) == (4, 5)
    assert result["ignored"] == {"ignored:special_file": 1}
    assert result["reasons"] == {"unreadable": 1}


def test_nifti_keeps_voxels_and_place_and_loses_its_text(tmp_path):
    path = tmp_path / "in" / "Quixano.nii.gz"
    affine = oblique()
    save_nifti(path, blob_hu(affine), affine)
    image = nib.Nifti1Image.from_bytes(gzip.decompress(path.read_bytes()))
    image.header["descrip"], image.header["aux_file"] = b"Alonso 19611030", b"rocinante"
    image.header["intent_name"], image.header["db_name"] = b"mancha-77", b"Quixano"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", NAME.encode()))
    nib.save(image, path)
    deidentify(tmp_path)
    (copy,) = copies(tmp_path, "nii.gz")
    after = nib.load(copy)
    np.testing.assert_array_equal(after.get_fdata(), image.get_fdata())
    np.testing.assert_array_equal(after.affine, image.affine)
    plain = after.to_bytes().lower()
    assert [secret for secret in SECRETS if secret in plain + written(tmp_path)] == []
    assert not after.header.extensions


def test_nothing_to_copy_and_overlapping_folders_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("x")
    with pytest.raises(NothingUsableError):
        deidentify(tmp_path)
    with pytest.raises(UsageError, match="overlap"):
        medssl.deidentify(tmp_path / "in", out=tmp_path / "in" / "out")


def test_a_full_disk_ends_the_run_and_resume_goes_on(tmp_path, monkeypatch):
    series(tmp_path)

    def full(path, data, **_):
        raise ResourceError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("medssl.stages.deidentify.write_bytes", full)
        with pytest.raises(ResourceError):
            deidentify(tmp_path)
    assert deidentify(tmp_path, overwrite=(tmp_path / "out").exists()).result["copied"] == 5


def dicom_volumes(folder):
    """Hash of voxels, affine and shape of every DICOM volume below a folder, counted."""
    headers = []
    for path in walk(folder):
        try:
            headers.append(read_header(path))
        except ReadError:
            continue  # counted by the run itself
    found = group_headers(h for h in headers if not h.ignored)[0]
    volumes = [one for one in found if one.format == "dicom" and one.geometry.kind == "volume"]
    return Counter(
        (hashlib.sha256(sample(one).array.tobytes()).hexdigest(), one.geometry.affine.tobytes())
        for one in volumes
    )


def test_ids_are_never_parts_of_a_path(tmp_path):
    folder = series(tmp_path, patient="../../../quixano")
    with pydicom.config.disable_value_validation():
        edit(folder, lambda ds: setattr(ds, "SeriesInstanceUID", "../x/../../etc"))
        deidentify(tmp_path)
    names = {str(file.relative_to(tmp_path / "out" / "files")) for file in copies(tmp_path)}
    assert len(names) == 5
    assert all(re.fullmatch(r"([0-9a-f]{16}/){3}[0-9a-f]{16}\.dcm", name) for name in names)


FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
from medssl.cli.main import main
main()
"""


def test_a_disk_that_fills_up_is_exit_6_and_leaves_whole_files_only(tmp_path):
    series(tmp_path)
    words = ["deidentify", "-i", tmp_path / "in", "-o", tmp_path / "out", "workers=0"]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, "2500", *map(str, words)],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 6, done.stderr
    assert b"Traceback" not in done.stderr
    assert not list((tmp_path / "out").rglob("*.tmp")) and not copies(tmp_path)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("dcmqa_enh", 0),  # enhanced multi-frame
        ("dcmqa_nih", 8),  # a 4D series; 8 mosaics are unpacked by private tags, which go
        ("mr_oblique_series", 0),
        ("ct_organs", 0),
    ],
)
def test_real_volumes_are_the_same_afterwards(tmp_path, medssl_data, name, lost):
    medssl.deidentify(medssl_data / name, out=tmp_path / "out", workers=0)
    before, after = (dicom_volumes(p) for p in (medssl_data / name, tmp_path / "out" / "files"))
    assert before and after <= before
    assert sum((before - after).values()) == lost


@pytest.mark.parametrize("file", ["medssl/stages/deidentify.py", "medssl/cli/main.py"])
def test_the_word_guarantee_occurs_only_where_it_is_denied(file):
    text = " ".join((ROOT / file).read_text().split())
    assert text.count("guarantee") == text.count("does not guarantee")
    assert "reduces the risk" in text
