"""The coding of a file changes nothing about its volumes."""

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from medssl.readers._dispatch import load
from tests.readers.dicom_files import (
    frame,
    grouped,
    voxels,
    write_enhanced,
    write_mosaic,
    write_slices,
)

X = voxels()
SYNTAXES = [
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLSLossless,
]


def recode(path, syntax):
    dataset = pydicom.dcmread(path)
    if syntax.is_encapsulated:
        dataset.compress(syntax, encoding_plugin="")
        dataset.save_as(path)
        return
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
        dataset["PixelData"].VR = "OW"
    dataset.file_meta.TransferSyntaxUID = syntax
    little = syntax != ExplicitVRBigEndian
    pydicom.dcmwrite(
        path, dataset, implicit_vr=syntax.is_implicit_VR, little_endian=little, overwrite=True
    )


def write_series(folder):
    return write_slices(folder, X, EchoTime="3")


def write_frames(folder):
    return [write_enhanced(folder / "a.dcm", X, [frame(k=k, slope=(2, k)) for k in range(5)])]


def write_tiles(folder):
    return [write_mosaic(folder / "a.dcm", X)]


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name[:20])
@pytest.mark.parametrize("write", [write_series, write_frames, write_tiles])
def test_volumes_are_the_same_in_every_coding(tmp_path, write, syntax):
    files = write(tmp_path)
    (plain,), _ = grouped(tmp_path)
    expected = load(plain)
    for file in files:
        recode(file, syntax)
    (coded,), refused = grouped(tmp_path)
    assert (refused, coded.part, coded.dtype) == ({}, plain.part, plain.dtype)
    np.testing.assert_array_equal(coded.geometry.affine, plain.geometry.affine)
    np.testing.assert_array_equal(load(coded), expected)
