"""DICOM files of any pixel format, whole or broken on purpose."""

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medssl.core.errors import ReadError
from medssl.readers._dicom_open import opened
from medssl.readers._dicom_pixels import iter_frames
from medssl.readers._dicom_tags import PydicomElements, tags_of
from medssl.readers._dispatch import group_headers, load, read_header

NATIVE = ExplicitVRLittleEndian
RLE = "1.2.840.10008.1.2.5"
JPEG = "1.2.840.10008.1.2.4.50"
CLASSES = {
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
    "MG": "1.2.840.10008.5.1.4.1.1.1.2",
    "NM": "1.2.840.10008.5.1.4.1.1.20",
    "SC": "1.2.840.10008.5.1.4.1.1.7",
    "US": "1.2.840.10008.5.1.4.1.1.3.1",
    "XA": "1.2.840.10008.5.1.4.1.1.12.1",
    "XC": "1.2.840.10008.5.1.4.1.1.77.1.4",
}


def dataset(modality="CR", syntax=NATIVE, **values):
    """A header without pixels; ``None`` leaves a default out."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = CLASSES[modality]
    meta.MediaStorageSOPInstanceUID = generate_uid()
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    given = {
        "SOPClassUID": CLASSES[modality],
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.4",
        "PatientID": "P1",
        "Modality": "OT" if modality == "SC" else modality,
        **values,
    }
    for keyword, value in given.items():
        if value is not None:
            setattr(ds, keyword, value)
    return ds


def described(ds, x, photometric=None, **values):
    """Add the pixel description of stored values (H, W), (T, H, W), ... with colour last."""
    colour = x.shape[-1] == 3 and x.ndim > 2
    size = x.shape[:-1] if colour else x.shape
    given = {
        "SamplesPerPixel": 3 if colour else 1,
        "PhotometricInterpretation": photometric or ("RGB" if colour else "MONOCHROME2"),
        "Rows": size[-2],
        "Columns": size[-1],
        "BitsAllocated": x.dtype.itemsize * 8,
        "BitsStored": x.dtype.itemsize * 8,
        "PixelRepresentation": int(x.dtype.kind == "i"),
        **({"NumberOfFrames": size[0]} if len(size) == 3 else {}),
        **({"PlanarConfiguration": 0} if colour else {}),
        **values,
    }
    given.setdefault("HighBit", (given["BitsStored"] or 1) - 1)
    for keyword, value in given.items():
        if value is not None:
            setattr(ds, keyword, value)
    return ds


def save(path, x, modality="CR", photometric=None, header=None, **pixel):
    """An uncompressed file; ``header`` = elements beside the pixel description."""
    ds = described(dataset(modality, **(header or {})), x, photometric, **pixel)
    ds.PixelData = x.tobytes() + b"\0" * (x.nbytes % 2)
    ds["PixelData"].VR = "OW" if x.dtype.itemsize > 1 else "OB"
    ds.save_as(path, enforce_file_format=True)
    return path


def save_streams(path, streams, x, syntax, modality="CR", **pixel):
    """Compressed frames, one fragment each; ``x`` gives the description."""
    return save_value(path, encapsulate(list(streams)), x, syntax, modality, **pixel)


def save_value(path, value, x, syntax, modality="CR", end=True, **pixel):
    """Any bytes as the value of encapsulated pixel data."""
    ds = described(dataset(modality, syntax), x, **pixel)
    ds.save_as(path, enforce_file_format=True)
    head = struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF)
    tail = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0) if end else b""
    path.write_bytes(path.read_bytes() + head + value + tail)
    return path


def item(content=b""):
    """A fragment or offset table."""
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(content)) + content


def outcome(path):
    """(records, reasons) of one file; records as (Found, array), reasons of loading included."""
    try:
        found, refused = group_headers([read_header(path)])
        loaded = [(one, load(one)) for one in found]
    except ReadError as error:
        return [], [error.reason]
    return loaded, [one.reason for one in refused]


def pixels(path):
    """The array of a file that holds one record."""
    loaded, reasons = outcome(path)
    assert reasons == []
    return loaded[0][1]


def ramp(dtype=np.uint16, shape=(6, 10)):
    """Distinct values."""
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def shipped(name):
    """A test file of the pydicom wheel; never downloaded."""
    return Path(get_testdata_file(name, download=False))


def decoded(path):
    with opened(path) as source:
        tags = tags_of(PydicomElements(source.dataset))
    frames = list(iter_frames(path, tags))
    return np.stack(frames)


def picture(seed=0):
    """Smooth colours: lossy coding costs little."""
    y, x = np.mgrid[:64, :80] / 80
    return (255 * np.stack([x, y, 1 - x * y], axis=-1)).astype(np.uint8)


def jpeg(x, **options):
    out = io.BytesIO()
    Image.fromarray(x).save(out, "JPEG", quality=95, **options)
    return out.getvalue()


def frames_of(n, seed=0):
    """Different pictures and their streams."""
    pictures = [np.roll(picture(), 9 * k, axis=1) for k in range(n)]
    return np.stack(pictures), [jpeg(x) for x in pictures]
