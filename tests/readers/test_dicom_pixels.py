"""Decoded DICOM pixels against independent decoders."""

import io

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image

from medssl.readers._dicom_open import opened
from medssl.readers._dicom_pixels import iter_frames
from medssl.readers._dicom_tags import PydicomElements, tags_of
from tests.readers.dicom_objects import (
    JPEG,
    dataset,
    decoded,
    described,
    frames_of,
    item,
    jpeg,
    picture,
    pixels,
    ramp,
    save,
    save_streams,
    save_value,
    shipped,
)

# --- one image in several syntaxes ---------------------------------------------------------

MR = ["RLE", "bigendian", "expb", "implicit", "jp2klossless", "jpeg_ls_lossless"]


@pytest.mark.parametrize("syntax", MR)
def test_one_mr_slice_is_the_same_in_every_lossless_syntax(syntax):
    reference = pydicom.dcmread(shipped("MR_small.dcm"))
    stored = np.frombuffer(reference.PixelData, "<i2").reshape(64, 64)
    np.testing.assert_array_equal(decoded(shipped(f"MR_small_{syntax}.dcm"))[0], stored)


SAME_AS = {
    "liver_expb_1frame.dcm": "liver_1frame.dcm",
    "rtdose_rle.dcm": "rtdose.dcm",
    "rtdose_expb.dcm": "rtdose.dcm",
    "rtdose_rle_1frame.dcm": "rtdose_1frame.dcm",
    "SC_rgb_small_odd_big_endian.dcm": "SC_rgb_small_odd.dcm",
}


@pytest.mark.parametrize(("one", "other"), SAME_AS.items())
def test_pairs_of_the_same_pixels(one, other):
    np.testing.assert_array_equal(decoded(shipped(one)), decoded(shipped(other)))


GDCM_READS = ["CT_small.dcm", "MR_small_RLE.dcm", "JPEGLSNearLossless_16.dcm", "SC_rgb_rle.dcm"]
GDCM_READS += ["693_J2KI.dcm", "SC_rgb_jpeg_gdcm.dcm", "image_dfl.dcm", "ExplVR_BigEnd.dcm"]
GDCM_READS += ["MR_small_jpeg_ls_lossless.dcm", "GDCMJ2K_TextGBR.dcm", "SC_rgb_gdcm_KY.dcm"]


@pytest.mark.parametrize("name", GDCM_READS)
def test_equals_simpleitk(name):
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(shipped(name))))
    np.testing.assert_allclose(decoded(shipped(name)), expected, atol=0)


# --- colour --------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"subsampling": 2}, {"subsampling": 0}, {"keep_rgb": True}])
@pytest.mark.parametrize("stated", ["RGB", "YBR_FULL_422", "YBR_FULL"])
def test_jpeg_colours_are_converted_once_whatever_the_header_says(tmp_path, options, stated):
    stream = jpeg(picture(), **options)
    expected = np.array(Image.open(io.BytesIO(stream))).astype(int)
    path = save_streams(tmp_path / "a.dcm", [stream], picture(), JPEG, photometric=stated)
    assert np.abs(decoded(path)[0].astype(int) - expected).max() <= 4


def test_planar_configuration_of_a_jpeg_header_is_nonsense_and_ignored(tmp_path):
    files = [
        save_streams(tmp_path / f"{k}.dcm", [jpeg(picture())], picture(), JPEG,
                     photometric="YBR_FULL_422", PlanarConfiguration=k)
        for k in (0, 1)
    ]  # fmt: skip
    np.testing.assert_array_equal(*map(decoded, files))


def test_planes_and_pixels_in_either_order(tmp_path):
    x = picture()
    path = save(tmp_path / "a.dcm", np.moveaxis(x, -1, 0).copy(), Rows=64, Columns=80,
                SamplesPerPixel=3, PhotometricInterpretation="RGB", NumberOfFrames=None,
                PlanarConfiguration=1)  # fmt: skip
    np.testing.assert_array_equal(decoded(path)[0], x)


def test_uncompressed_ybr_is_bt_601(tmp_path):
    grey = np.full((4, 4, 3), 128, np.uint8)
    grey[..., 0] = np.arange(16).reshape(4, 4) * 16
    red = grey.copy()
    red[..., 2] = 228  # 100 above the middle: R = Y + 140, G = Y - 71
    flat = decoded(save(tmp_path / "a.dcm", grey, photometric="YBR_FULL"))[0]
    np.testing.assert_array_equal(flat, np.repeat(grey[..., :1], 3, axis=-1))
    y, r, g = 96, *decoded(save(tmp_path / "b.dcm", red, photometric="YBR_FULL"))[0][1, 2, :2]
    assert (r, g) == (y + 140, y - 71)


def palette(bits, entries=256):
    """Red rises, green falls, blue is flat."""
    dtype = np.uint8 if bits == 8 else np.uint16
    top = 2**bits - 1
    ramp = np.linspace(0, top, entries).astype(dtype)
    values = {"Red": ramp, "Green": ramp[::-1], "Blue": np.full(entries, top // 2, dtype)}
    header = {}
    for name, table in values.items():
        header[f"{name}PaletteColorLookupTableDescriptor"] = [entries, 0, bits]
        header[f"{name}PaletteColorLookupTableData"] = table.tobytes()
    return header


@pytest.mark.parametrize("bits", [8, 16])
def test_palette_gives_8_bit_rgb(tmp_path, bits):
    index = np.arange(256, dtype=np.uint8).reshape(16, 16)
    path = save(tmp_path / "a.dcm", index, photometric="PALETTE COLOR", header=palette(bits))
    x = decoded(path)[0]
    assert x.dtype == np.uint8
    assert np.abs(x[..., 0].astype(int) - index).max() <= 1
    assert np.abs(x[..., 1].astype(int) - (255 - index)).max() <= 1


def test_segmented_palette(tmp_path):
    header = {}
    for name in ("Red", "Green", "Blue"):
        header[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        # discrete 0, then a linear segment of 255 entries up to 0xFF00 (PS3.3 C.7.9.2)
        table = np.array([0, 1, 0, 1, 255, 0xFF00], "<u2").tobytes()
        header[f"Segmented{name}PaletteColorLookupTableData"] = table
    index = np.arange(256, dtype=np.uint8).reshape(16, 16)
    x = decoded(save(tmp_path / "a.dcm", index, photometric="PALETTE COLOR", header=header))[0]
    assert np.abs(x[..., 0].astype(int) - index).max() <= 1


# --- values --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32])
def test_every_integer_type_survives(tmp_path, dtype):
    limits = np.iinfo(dtype)
    x = np.array([[limits.min, limits.max], [0, 1]], dtype)
    np.testing.assert_array_equal(pixels(save(tmp_path / "a.dcm", x))[0], x)


def test_garbage_above_the_stored_bits_is_dropped(tmp_path):
    x = ramp() | 0xA000
    path = save(tmp_path / "a.dcm", x, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(decoded(path)[0], ramp())


def test_sign_is_that_of_the_stored_bits(tmp_path):
    x = np.array([[0x0FFF, 0x0800], [0x07FF, 0x7001]], np.uint16)
    path = save(tmp_path / "a.dcm", x, BitsStored=12, HighBit=11, PixelRepresentation=1)
    np.testing.assert_array_equal(decoded(path)[0], [[-1, -2048], [2047, 1]])


def test_values_in_the_high_bits_of_their_words(tmp_path):
    path = save(tmp_path / "a.dcm", ramp() << 4, BitsStored=12, HighBit=15)
    np.testing.assert_array_equal(decoded(path)[0], ramp())


def test_monochrome1_is_inverted_within_its_stored_range(tmp_path):
    path = save(tmp_path / "a.dcm", ramp(), photometric="MONOCHROME1", BitsStored=10)
    np.testing.assert_array_equal(decoded(path)[0], 1023 - ramp())


def test_float_pixels(tmp_path):
    x = np.linspace(-1, 1, 60, dtype=np.float32).reshape(6, 10)
    ds = described(dataset("SC"), ramp(np.uint32), BitsStored=None, HighBit=None,
                   PixelRepresentation=None)  # fmt: skip
    ds.FloatPixelData = x.tobytes()
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(pixels(tmp_path / "a.dcm")[0], x)


def test_modality_table_is_applied_and_voi_is_not(tmp_path):
    x = np.arange(16, dtype=np.uint8).reshape(4, 4)
    ds = described(dataset("CR"), x, WindowCenter=3, WindowWidth=2)
    table = pydicom.Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [16, 0, 16], "OD"
    table.LUTData = (np.arange(16, dtype="<u2") ** 2).tobytes()
    ds.ModalityLUTSequence = [table]
    ds.PixelData = x.tobytes()
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(pixels(tmp_path / "a.dcm")[0], x.astype(int) ** 2)


def test_rescale_gives_the_smallest_exact_type(tmp_path):
    header = {"RescaleSlope": 2, "RescaleIntercept": -1000}
    x = pixels(save(tmp_path / "a.dcm", ramp(), BitsStored=12, header=header))
    assert x.dtype == np.int16
    np.testing.assert_array_equal(x[0], ramp().astype(int) * 2 - 1000)


def test_single_bits_cross_byte_borders(tmp_path):
    bits = np.random.default_rng(0).integers(0, 2, (3, 5, 7)).astype(np.uint8)
    packed = np.packbits(bits.ravel(), bitorder="little")
    ds = described(dataset("SC"), bits, BitsAllocated=1, BitsStored=1, HighBit=0)
    ds.PixelData = packed.tobytes()
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(decoded(tmp_path / "a.dcm"), bits)


REAL_PAIRS = {
    "liver_rle": "liver",
    "liver_deflate": "liver",
    "liver_j2k": "liver",
    "liver_expb": "liver",
    "liver_nonbyte_aligned_rle": "liver_nonbyte_aligned",
    "liver_nonbyte_aligned_deflate": "liver_nonbyte_aligned",
    "liver_nonbyte_aligned_j2k": "liver_nonbyte_aligned",
    "emri_small_RLE": "emri_small",
    "emri_small_jpeg_2k_lossless": "emri_small",
    "emri_small_jpeg_ls_lossless": "emri_small",
    "emri_small_big_endian": "emri_small",
    "color-pl": "color-px",
    "SC_rgb_expb_16bit_2frame": "SC_rgb_16bit_2frame",
    "SC_rgb_expb_32bit": "SC_rgb_32bit",
}


@pytest.mark.real
@pytest.mark.parametrize(("one", "other"), REAL_PAIRS.items())
def test_the_same_image_in_several_syntaxes(medssl_data, one, other):
    folder = medssl_data / "dicom_codecs" / "pydicom_data"
    np.testing.assert_array_equal(decoded(folder / f"{one}.dcm"), decoded(folder / f"{other}.dcm"))


@pytest.mark.real
@pytest.mark.parametrize("kind", ["+cr", "+cy+n1", "+cy+n2", "+cy+np", "+cy+s2", "+cy+s4"])
def test_jpeg_colours_equal_those_of_dcmtk(medssl_data, kind):
    plain = kind.replace("+", "")
    by_dcmtk = medssl_data / "dicom_codecs/pydicom_data" / f"SC_rgb_dcmtk_eb{plain}_dcmd.dcm"
    ours = decoded(shipped(f"SC_rgb_dcmtk_+eb{kind}.dcm")).astype(int)
    assert np.abs(ours - decoded(by_dcmtk)).max() <= 3


# --- frames and fragments ------------------------------------------------------------------


def halves(stream):
    cut = len(stream) // 4 * 2
    return [stream[:cut], stream[cut:] + b"\0" * (len(stream) % 2)]


@pytest.mark.parametrize("table", ["none", "basic"])
def test_fragmented_frames(tmp_path, table):
    x, streams = frames_of(3)
    whole = decoded(save_streams(tmp_path / "a.dcm", streams, x, JPEG, photometric="YBR_FULL_422"))
    parts = [half for stream in streams for half in halves(stream)]
    starts = np.cumsum([0, *(len(part) + 8 for part in parts)])[:-1:2]
    offsets = item() if table == "none" else item(starts.astype("<u4").tobytes())
    value = offsets + b"".join(item(part) for part in parts)
    path = save_value(tmp_path / "b.dcm", value, x, JPEG, photometric="YBR_FULL_422")
    np.testing.assert_array_equal(decoded(path), whole)


def test_frames_come_in_the_order_asked_for(tmp_path):
    x, streams = frames_of(4)
    path = save_streams(tmp_path / "a.dcm", streams, x, JPEG, photometric="YBR_FULL_422")
    with opened(path) as source:
        tags = tags_of(PydicomElements(source.dataset))
    everything = decoded(path)
    np.testing.assert_array_equal(
        np.stack(list(iter_frames(path, tags, [3, 1]))), everything[[3, 1]]
    )
