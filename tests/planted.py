"""An archive full of identifiers that occur nowhere else, and a search for them in any file."""

import base64
import gzip
import io
import re
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import polars as pl
import pydicom
from PIL import Image, PngImagePlugin
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import MRImageStorage

from tests.scans import save_dicom
from tests.training_archive import save, volume
from tests.us_dicom import banner_cine, save_us

FAMILY, GIVEN, FOLDER, MEMBER = "Zwetschgenberg", "Kunigunde", "Holzapfelin", "Quittenmus"
PATIENT_ID, ACCESSION, DEVICE = "ZX-4711-0815", "ACC-99-770077", "SN-31415-27182"
BIRTH, STUDY_DATE, UID = "19031231", "20190317", "1.2.826.0.1.998877665544"
KANJI, CYRILLIC = (
    "\u5c71\u7530^\u592a\u90ce",
    "\u041b\u044e\u043a\u0441\u0435\u043c\u0431\u0443\u0440\u0433",
)
WORDS = [FAMILY, GIVEN, FOLDER, MEMBER, PATIENT_ID, ACCESSION, DEVICE, BIRTH, STUDY_DATE, UID]
# In the bytes that each character set gives.
SECRETS = {
    **{word: {word.lower().encode(c) for c in ("utf-8", "utf-16-le")} for word in WORDS},
    # Two characters of four bytes turn up by chance in megabytes of weights: the whole name there.
    "kanji": {KANJI.encode(c).lower() for c in ("utf-16-le", "euc_jp", "shift_jis", "iso2022_jp")}
    | {"\u5c71\u7530".encode().lower(), b"\\u5c71\\u7530"},
    "cyrillic": {CYRILLIC.lower().encode(c) for c in ("utf-8", "utf-16-le")}
    | {CYRILLIC.encode("iso8859_5").lower(), CYRILLIC.encode("unicode_escape").lower()},
}  # fmt: skip
DATA_URI = re.compile(rb"data:[\w/+-]+;base64,([A-Za-z0-9+/=]+)")


def found_in(content):
    """Names of the secrets that lower-case bytes hold."""
    content = content.lower()
    return sorted(n for n, forms in SECRETS.items() if any(form in content for form in forms))


def unpacked(path):
    """A file's bytes as they are, and everything that is packed in them."""
    raw = path.read_bytes()
    parts = [raw]
    if raw[:2] == b"\x1f\x8b":
        parts.append(gzip.decompress(raw))
    if raw[:4] == b"PAR1":
        table = pl.read_parquet(path)
        parts += [str(row).encode() for row in table.iter_rows()]
        parts.append(str(pl.read_parquet_metadata(path)).encode())
    if raw[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(path) as archive:
            parts += [n.encode() + archive.read(n) for n in archive.namelist()]
    if raw[:4] == b"\x89PNG":
        parts.append(str(Image.open(io.BytesIO(raw)).info).encode())
    if path.suffix == ".b2nd":
        import blosc2

        array = blosc2.open(str(path))
        parts += [array[:].tobytes(), str(dict(array.schunk.vlmeta)).encode()]
    parts += [base64.b64decode(text) for text in DATA_URI.findall(raw)]
    return b"\n".join(parts)


def write_planted(root):
    """Write the archive; returns its folder."""
    root = root / f"{FOLDER}_archive"
    for seed, name in enumerate((f"{FAMILY}^{GIVEN}", f"{FAMILY}^{KANJI}", CYRILLIC)):
        _series(root / f"{FOLDER}_{GIVEN}" / f"pat{seed}", seed, name)
    _zipped(root)
    for seed in range(3, 6):
        _nifti(root / f"{FAMILY}_{seed}.nii.gz", seed)
    ds_path = save_us(root / "us" / f"{FAMILY}.dcm", banner_cine(6), patient=f"{FAMILY}^{GIVEN}")
    _plant(pydicom.dcmread(ds_path)).save_as(ds_path)
    _picture(root / f"{GIVEN}.png")
    _video(root / f"{FAMILY}.mp4")
    _broken(root)
    return root


def _series(folder, seed, name):
    x_DHW, _ = volume(seed)
    save_dicom(folder, x_DHW, np.diag([1.0, 1.0, 1.5, 1.0]), modality="MR", prefix=FAMILY)
    for file in folder.iterdir():
        ds = pydicom.dcmread(file)
        if name == CYRILLIC:
            ds.SpecificCharacterSet = "ISO_IR 144"
        if KANJI in name:
            ds.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
            name = f"{FAMILY}^x={KANJI}"
        ds.PatientName = name
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
        _plant(ds).save_as(file)


def _plant(ds):
    ds.PatientID, ds.PatientBirthDate, ds.AccessionNumber = PATIENT_ID, BIRTH, ACCESSION
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = STUDY_DATE
    ds.StudyDescription = ds.SeriesDescription = ds.ProtocolName = f"{FAMILY} {GIVEN} follow-up"
    ds.InstitutionName, ds.StationName = f"{FOLDER} clinic", "ST-" + FAMILY[:10]
    ds.DeviceSerialNumber, ds.ImageComments = DEVICE, f"{GIVEN} {BIRTH}"
    ds.BodyPartExamined = FAMILY.upper()
    ds.StudyInstanceUID = f"{UID}.1"
    ds.SeriesInstanceUID = f"{UID}.2.{ds.SeriesInstanceUID[-12:].lstrip('0.')}"
    ds.FrameOfReferenceUID = f"{UID}.3"
    ds.private_block(0x0029, f"{FAMILY} HEADER", create=True).add_new(1, "LO", GIVEN)
    item = Dataset()
    item.ReferencedSOPInstanceUID, item.PatientName = f"{UID}.4", f"{FAMILY}^{GIVEN}"
    ds.ReferencedStudySequence = Sequence([item])
    ds.preamble = FAMILY.encode().ljust(128, b"\0")
    return ds


def _zipped(root):
    folder = root / "unpacked"
    _series(folder, 7, f"{FAMILY}^{GIVEN}")
    with zipfile.ZipFile(root / f"{FAMILY}.zip", "w") as archive:
        archive.comment = GIVEN.encode()
        for file in sorted(folder.iterdir()):
            archive.write(file, f"{MEMBER}/{file.name}")
            file.unlink()
    folder.rmdir()


def _nifti(path, seed):
    save(path, volume(seed)[0])
    image = nib.Nifti1Image.from_bytes(gzip.decompress(path.read_bytes()))
    image.header["descrip"], image.header["db_name"] = f"{FAMILY} {BIRTH}".encode(), GIVEN.encode()
    image.header["intent_name"], image.header["aux_file"] = GIVEN.encode(), FOLDER.encode()
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", FAMILY.encode()))
    nib.save(image, path)
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text(
        f'{{"PatientName": "{FAMILY}"}}'
    )


def _picture(path):
    note = PngImagePlugin.PngInfo()
    note.add_text("Comment", f"{FAMILY} {GIVEN}")
    pixels = np.random.default_rng(0).integers(0, 255, (80, 96), dtype=np.uint8)
    Image.fromarray(pixels).save(path, pnginfo=note)


def _video(path):
    import av

    with av.open(str(path), "w") as container:
        container.metadata["title"] = f"{FAMILY} {GIVEN}"
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 80, "yuv420p"
        for number in range(12):
            pixels = np.random.default_rng(number).integers(0, 255, (80, 96, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def _broken(root):
    some = next(Path(root).rglob("*.dcm")).read_bytes()
    (root / f"cut_{FAMILY}.dcm").write_bytes(some[: len(some) // 2])
    (root / f"head_{GIVEN}.dcm").write_bytes(some[:700])
    (root / f"{FAMILY}.dcm").write_text(f"letter about {FAMILY} {GIVEN}")
    (root / f"{FAMILY}.txt").write_text(f"{FAMILY} {PATIENT_ID}")
    (root / f"{GIVEN}_empty.nii.gz").write_bytes(b"")
    (root / f"{GIVEN}_bad.nii.gz").write_bytes(gzip.compress(FAMILY.encode() * 30))
    (root / f"{GIVEN}_link.dcm").symlink_to(root / FAMILY / "gone.dcm")
