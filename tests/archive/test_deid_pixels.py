"""Drawn text goes, the picture stays; what cannot be told apart is refused."""

import io
import subprocess

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence
from pydicom.uid import JPEGBaseline8Bit, RLELossless
from scipy import ndimage

from medssl.archive._deid_dicom import copy_dicom
from medssl.archive._deid_streams import without_comments
from medssl.core.errors import ReadError
from medssl.readers._dispatch import group_headers, read_header, sample
from tests.scans import blob_hu, oblique, save_dicom
from tests.us_dicom import BANNER, SHAPE, banner_cine, drawn, save_us, true_fan

BURNED_IN = {"BurnedInAnnotation": "YES"}
SCREENSHOT = ["DERIVED", "SECONDARY", "SCREEN SAVE"]
PET = "1.2.840.10008.5.1.4.1.1.128"
SCREEN = "1.2.840.10008.5.1.4.1.1.7"
ENDOSCOPE = "1.2.840.10008.5.1.4.1.1.77.1.1.1"
RADIOGRAPH = "1.2.840.10008.5.1.4.1.1.1.1"


def copy(path):
    return pydicom.dcmread(io.BytesIO(copy_dicom(path, b"key", "id")[1]))


def inner_fan():
    # The sector is found to a few pixels.
    return ndimage.binary_erosion(true_fan(), iterations=4)


def outside():
    return ~ndimage.binary_dilation(true_fan(), iterations=12)


def tesseract(picture):
    """What an OCR reads in a grey picture."""
    png = io.BytesIO()
    Image.fromarray(255 - picture).resize((SHAPE[1] * 2, SHAPE[0] * 2)).save(png, "PNG")
    done = subprocess.run(
        ["tesseract", "stdin", "stdout", "--psm", "11"],
        input=png.getvalue(),
        capture_output=True,
        check=False,
    )
    return done.stdout.decode()


def test_frames_are_exact_in_the_fan_and_black_around_it(tmp_path):
    frames = banner_cine()
    new = copy(save_us(tmp_path / "a.dcm", frames))
    np.testing.assert_array_equal(new.pixel_array[:, inner_fan()], frames[:, inner_fan()])
    assert not new.pixel_array[:, outside()].any()
    assert new.BurnedInAnnotation == "NO"
    assert [c.CodeValue for c in new.DeidentificationMethodCodeSequence] == ["113100", "113101"]


@pytest.mark.debian("tesseract")
def test_an_ocr_reads_the_name_before_and_nothing_after(tmp_path):
    frames = banner_cine()
    new = copy(save_us(tmp_path / "a.dcm", frames)).pixel_array
    assert "DOE" in tesseract(frames[0, ..., 0]) and "1961" in tesseract(frames[0, ..., 0])
    band = np.zeros(SHAPE, np.uint8)
    band[:50] = new[0, :50, :, 0]
    assert tesseract(band).strip() == ""
    assert not {"DOE", "JOHN", "1961"} & set(tesseract(new[0, ..., 0]).split())


def test_a_lossless_cine_is_as_exact_and_a_lossy_one_stays_marked_lossy(tmp_path):
    frames = banner_cine(3)
    path = save_us(tmp_path / "a.dcm", frames)
    ds = pydicom.dcmread(path)
    ds.compress(RLELossless)
    ds.save_as(path)
    new = copy(path)
    np.testing.assert_array_equal(new.pixel_array[:, inner_fan()], frames[:, inner_fan()])
    assert not new.pixel_array[:, outside()].any()
    save_jpeg(path, frames, ds)
    lossy, seen = copy(path), pydicom.dcmread(path).pixel_array
    assert lossy.file_meta.TransferSyntaxUID.is_compressed is False
    assert lossy.LossyImageCompression == "01"
    assert not lossy.pixel_array[:, outside()].any()
    apart = np.abs(lossy.pixel_array[:, inner_fan(), 0].astype(int) - seen[:, inner_fan(), 0])
    assert apart.max() <= 3  # two decoders, see dependencies.md


def save_jpeg(path, frames, ds, comment=b""):
    ds = pydicom.dcmread(path)
    streams = []
    for frame in frames:
        out = io.BytesIO()
        Image.fromarray(frame).save(out, "JPEG", quality=95, subsampling=0, comment=comment)
        streams.append(out.getvalue())
    ds.PixelData = encapsulate(streams)
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds.PhotometricInterpretation = "YBR_FULL"
    ds.save_as(path)


def test_medssl_reads_the_copy_as_the_same_clip(tmp_path):
    old = save_us(tmp_path / "a.dcm", banner_cine())
    new = tmp_path / "b.dcm"
    new.write_bytes(copy_dicom(old, b"key", "id")[1])
    before, after = (sample(group_headers([read_header(p)])[0][0]) for p in (old, new))
    assert after.shape == before.shape and after.frame_times_s == before.frame_times_s
    inside = inner_fan()
    np.testing.assert_array_equal(after.array[..., inside], before.array[..., inside])


def plate_with_text():
    return np.full((1, *SHAPE, 1), 90, np.uint8) + drawn()[None, ..., None] // 2


@pytest.mark.parametrize(
    ("frames", "more"),
    [
        (banner_cine(2), {"sop_class": SCREEN, "Modality": "OT"}),
        (banner_cine(2), {"sop_class": SCREEN, "Modality": "CT"}),
        (banner_cine(2), {"Modality": "ES", "sop_class": ENDOSCOPE}),
        (banner_cine(1)[..., :1], {"Modality": "CT", "sop_class": PET, **BURNED_IN}),
        (banner_cine(1)[..., :1], {"Modality": "CT", "sop_class": PET, "ImageType": SCREENSHOT}),
        (banner_cine(2), {"Modality": "CT", "sop_class": PET}),
        (banner_cine(3, moving=False), {}),
        (banner_cine(3, text=drawn(at=(220, 240))), {}),
        (plate_with_text(), {"Modality": "DX", "sop_class": RADIOGRAPH}),
    ],
    ids=[
        *("screen", "captured CT", "endoscopy", "says so", "screen save"),
        *("coloured", "only text", "text in the fan", "radiograph"),
    ],
)  # fmt: skip
def test_what_may_show_text_is_refused(tmp_path, frames, more):
    path = save_us(tmp_path / "a.dcm", frames, **more)
    with pytest.raises(ReadError) as error:
        copy(path)
    assert error.value.reason == "burned_in_text_possible"


def test_ultrasound_that_says_it_is_ct_is_refused(tmp_path):
    with pytest.raises(ReadError) as error:
        copy(save_us(tmp_path / "a.dcm", banner_cine(2), Modality="CT"))
    assert error.value.reason in {"header_contradiction", "burned_in_text_possible"}


def test_a_radiograph_without_text_is_copied_as_it_is(tmp_path):
    noise = np.random.default_rng(0).normal(size=(256, 256))
    smooth = 2000 + 9000 * ndimage.gaussian_filter(noise, 8)
    picture = (smooth + 20 * noise)[None, ..., None].astype(np.uint16)
    path = save_us(tmp_path / "a.dcm", picture, sop_class=RADIOGRAPH, Modality="DX")
    new = copy(path)
    np.testing.assert_array_equal(new.pixel_array, picture[0, ..., 0])
    assert "BurnedInAnnotation" not in new  # nothing was cleaned, nothing is claimed


def test_only_the_regions_that_the_header_names_stay(tmp_path):
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType = 1, 1
    item.RegionLocationMinX0, item.RegionLocationMinY0 = 0, 60
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = 639, 299
    path = save_us(tmp_path / "a.dcm", banner_cine(), SequenceOfUltrasoundRegions=Sequence([item]))
    new = copy(path).pixel_array
    assert not new[:, 300:].any() and not new[:, :60].any()
    assert new[:, 150:250, 300:340].any()


def test_comments_in_compressed_frames_go_and_the_picture_stays(tmp_path):
    picture = banner_cine(1, text=np.zeros(SHAPE, np.uint8))[0]
    for kind in ("JPEG", "JPEG2000"):
        out = io.BytesIO()
        more = {"comment": BANNER.encode()} | ({"no_jp2": True} if kind == "JPEG2000" else {})
        Image.fromarray(picture).save(out, kind, **more)
        clean = without_comments(out.getvalue() + b"DOE behind the end")
        assert b"DOE" in out.getvalue() and b"DOE" not in clean
        old = np.asarray(Image.open(io.BytesIO(out.getvalue())))
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(clean))), old)


def test_a_compressed_slice_keeps_its_coding(tmp_path):
    affine = oblique()
    path = next(save_dicom(tmp_path / "s", blob_hu(affine)[:1], affine).iterdir())
    ds = pydicom.dcmread(path)
    ds.compress(RLELossless)
    ds.save_as(path)
    new = copy(path)
    assert new.file_meta.TransferSyntaxUID == RLELossless
    frames = [list(generate_frames(d.PixelData, number_of_frames=1)) for d in (ds, new)]
    assert frames[0] == frames[1]


def test_overlays_in_unused_bits_go(tmp_path):
    affine = oblique()
    path = next(save_dicom(tmp_path / "s", blob_hu(affine)[:1] + 1024, affine).iterdir())
    ds = pydicom.dcmread(path)
    clean = ds.pixel_array.astype(np.uint16)
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, 0
    ds.PixelData = (clean | 0x8000).tobytes()
    ds.save_as(path)
    assert copy(path).PixelData == clean.tobytes()
