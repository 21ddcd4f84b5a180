"""DICOM pixels that must be refused, each with its reason, and never half decoded."""

import struct
import time
import zlib

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, generate_frames

from medssl.core.errors import ReadError
from medssl.readers._dicom_codestream import read_codestream
from tests.readers.dicom_objects import (
    JPEG,
    NATIVE,
    RLE,
    dataset,
    decoded,
    described,
    frames_of,
    item,
    jpeg,
    outcome,
    picture,
    pixels,
    ramp,
    save,
    save_streams,
    save_value,
    shipped,
)


def reason(path):
    with pytest.raises(ReadError) as caught:
        decoded(path)
    return caught.value.reason


BROKEN_FRAMES = {
    "no_fragment": (lambda s: item(), "corrupt_pixels"),
    "no_table": (lambda s: b"", "corrupt_pixels"),
    "no_delimiter": (lambda s: item() + item(s[0]) + item(s[1]), "truncated"),
    "one_frame_missing": (lambda s: item() + item(s[0]), "frames_mismatch"),
    "one_frame_too_many": (lambda s: item() + item(s[0]) * 3, "frames_mismatch"),
    "table_outside": (
        lambda s: item(struct.pack("<2L", 0, 10**6)) + item(s[0]) + item(s[1]),
        "corrupt_pixels",
    ),
    "table_too_short": (
        lambda s: item(struct.pack("<L", 0)) + item(s[0]) + item(s[1]),
        "frames_mismatch",
    ),
    "no_item": (lambda s: item() + b"\1\2\3\4\5\6\7\0", "corrupt_pixels"),
    "fragment_past_the_end": (
        lambda s: item() + item(s[0]) + struct.pack("<HHL", 0xFFFE, 0xE000, 10**6),
        "truncated",
    ),
    "not_an_image": (lambda s: item() + item(b"\0" * 64) * 2, "corrupt_pixels"),
}


@pytest.mark.parametrize("case", BROKEN_FRAMES)
def test_broken_encapsulation_is_refused(tmp_path, case):
    value, expected = BROKEN_FRAMES[case]
    x, streams = frames_of(2)
    streams = [stream + b"\0" * (len(stream) % 2) for stream in streams]
    path = save_value(tmp_path / "a.dcm", value(streams), x, JPEG, end=case != "no_delimiter",
                      photometric="YBR_FULL_422")  # fmt: skip
    assert reason(path) == expected


# --- what must never come back half decoded ------------------------------------------------

COMPRESSED = ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"]
COMPRESSED += [
    "SC_rgb_jpeg_gdcm.dcm",
    "SC_rgb_dcmtk_+eb+cy+np.dcm",
    "693_J2KI.dcm",
    "SC_rgb_rle.dcm",
]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("name", COMPRESSED)
def test_a_cut_stream_is_refused(tmp_path, name, share):
    ds = pydicom.dcmread(shipped(name))
    stream = next(generate_frames(ds.PixelData, number_of_frames=1))
    ds.PixelData = encapsulate([stream[: int(len(stream) * share) // 2 * 2]])
    ds.save_as(tmp_path / "a.dcm")
    assert reason(tmp_path / "a.dcm") in {"truncated", "corrupt_pixels"}


@pytest.mark.parametrize("name", ["MR_small_jp2klossless.dcm", "693_J2KI.dcm"])
def test_a_cut_jpeg_2000_stream_with_an_end_marker_is_refused(tmp_path, name):
    ds = pydicom.dcmread(shipped(name))
    stream = next(generate_frames(ds.PixelData, number_of_frames=1))
    ds.PixelData = encapsulate([stream[: len(stream) // 4 * 2] + b"\xff\xd9"])
    ds.save_as(tmp_path / "a.dcm")
    assert reason(tmp_path / "a.dcm") in {"truncated", "corrupt_pixels"}


def test_a_cut_uncompressed_file_is_refused(tmp_path):
    path = save(tmp_path / "a.dcm", ramp(shape=(64, 64)))
    path.write_bytes(path.read_bytes()[:-2])
    assert outcome(path) == ([], ["truncated"])


def test_bytes_that_the_header_does_not_explain_are_refused():
    assert reason(shipped("MR_small_padded.dcm")) == "frames_mismatch"


def test_a_lost_padding_byte_loses_nothing(tmp_path):
    x = ramp(np.uint8, (5, 5))
    path = save(tmp_path / "a.dcm", x)
    path.write_bytes(path.read_bytes()[:-1])
    np.testing.assert_array_equal(pixels(path)[0], x)


def test_no_pixels_at_all(tmp_path):
    described(dataset(), ramp()).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert outcome(tmp_path / "a.dcm")[1] in (["no_pixels"], ["truncated"])


def test_a_broken_jp2_wrapper_does_not_hang_the_decoder(tmp_path):
    content = shipped("GDCMJ2K_TextGBR.dcm").read_bytes()
    start = content.index(b"jp2c") + 4
    broken = bytearray(content.replace(b"jp2c", b"jp\xb1c"))
    broken[start + 242] = 132
    (tmp_path / "a.dcm").write_bytes(bytes(broken))
    began = time.monotonic()
    outcome(tmp_path / "a.dcm")
    assert time.monotonic() - began < 5


CONTRADICTIONS = {
    "more_frames_than_pixels": ({"NumberOfFrames": 5}, "truncated"),
    "fewer_frames_than_pixels": ({"Rows": 3}, "frames_mismatch"),
    "negative_frames": ({"NumberOfFrames": -2}, "bad_pixel_format"),
    "three_samples_of_grey": ({"SamplesPerPixel": 3, "PlanarConfiguration": 0}, "bad_pixel_format"),
    "planar_configuration_2": (
        {"SamplesPerPixel": 3, "PlanarConfiguration": 2, "PhotometricInterpretation": "RGB"},
        "bad_pixel_format",
    ),
    "one_sample_of_colour": ({"PhotometricInterpretation": "RGB"}, "bad_pixel_format"),
    "unknown_colours": ({"PhotometricInterpretation": "CMYK"}, "unsupported_colour"),
    "no_colour_model": ({"PhotometricInterpretation": None}, "unsupported_colour"),
    "palette_missing": ({"PhotometricInterpretation": "PALETTE COLOR"}, "bad_palette"),
    "stored_beyond_allocated": ({"BitsStored": 17, "HighBit": 16}, "bad_pixel_format"),
    "high_bit_below_stored": ({"BitsStored": 12, "HighBit": 7}, "bad_pixel_format"),
    "no_rows": ({"Rows": 0}, "bad_pixel_format"),
    "24_bits": ({"BitsAllocated": 24, "BitsStored": 24, "HighBit": 23}, "unsupported_dtype"),
    "overflow": ({"Rows": 65535, "Columns": 65535, "NumberOfFrames": 2**31 - 1}, "truncated"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictions_are_refused(tmp_path, case):
    values, expected = CONTRADICTIONS[case]
    assert outcome(save(tmp_path / "a.dcm", ramp(), **values)) == ([], [expected])


def test_a_stream_of_another_size_is_refused(tmp_path):
    path = save_streams(tmp_path / "a.dcm", [jpeg(picture())], picture()[:32], JPEG,
                        photometric="YBR_FULL_422")  # fmt: skip
    assert reason(path) == "corrupt_pixels"


@pytest.mark.parametrize("uid", ["57", "70", "80", "90", "201"])
def test_a_stream_of_another_coding_is_refused(tmp_path, uid):
    stream, syntax = jpeg(picture()), f"1.2.840.10008.1.2.4.{uid}"
    path = save_streams(tmp_path / "a.dcm", [stream], picture(), syntax, photometric="RGB")
    assert reason(path) == "corrupt_pixels"


def test_uncompressed_bytes_under_a_compressed_syntax(tmp_path):
    ds = described(dataset("CR", RLE), ramp())
    ds.PixelData = encapsulate([ramp().tobytes()])
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert reason(tmp_path / "a.dcm") == "corrupt_pixels"


@pytest.mark.parametrize("uid", ["1.2.840.10008.1.2.4.55", "1.2.840.10008.1.2.6.1"])
def test_syntaxes_without_decoder_are_named(tmp_path, uid):
    path = save_streams(tmp_path / "a.dcm", [b"\0" * 100], ramp(), uid)
    # What is no syntax of the standard may be free text.
    assert reason(path) == ("no_decoder" if uid == "1.2.3.4" else f"no_decoder:{uid}")


@pytest.mark.parametrize("uid", ["1.2.3.4", "1.2.840.DOE", "1.2.276.19700101"])
def test_a_syntax_outside_the_standard_is_not_repeated_in_the_ledger(tmp_path, uid):
    path = save_streams(tmp_path / "a.dcm", [b"\0" * 100], ramp(), uid)
    assert reason(path) == "no_decoder"


def test_12_bit_jpeg_is_left_to_the_gpl_extra():
    name = "JPGExtended.dcm"
    try:
        import libjpeg  # noqa: F401
    except ImportError:
        with pytest.raises(ReadError, match="gpl") as caught:
            decoded(shipped(name))
        assert caught.value.reason == "no_decoder:1.2.840.10008.1.2.4.51"
    else:
        assert decoded(shipped(name)).max() > 255


# --- deflated ------------------------------------------------------------------------------


def deflated(path, ds, extra=b""):
    """The data set after the file meta information, deflated, with anything behind it."""
    ds.file_meta.TransferSyntaxUID = NATIVE
    ds.save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    start = 132 + 12 + int.from_bytes(content[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(content[start:] + extra) + packer.flush()
    meta = content[:start].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    grown = len(meta) - start
    size = int.from_bytes(meta[140:144], "little") + grown
    meta = meta[:140] + size.to_bytes(4, "little") + meta[144:]
    at = meta.index(b"1.2.840.10008.1.2.1.99")
    meta = meta[: at - 2] + (22).to_bytes(2, "little") + meta[at:]
    path.write_bytes(meta + packed)
    return path


def with_pixels(x):
    ds = described(dataset(), x)
    ds.PixelData = x.tobytes()
    return ds


def test_deflated_equals_plain(tmp_path):
    path = deflated(tmp_path / "a.dcm", with_pixels(ramp()))
    np.testing.assert_array_equal(pixels(path)[0], ramp())


def test_a_deflate_bomb_is_refused_before_it_is_inflated(tmp_path):
    path = deflated(tmp_path / "a.dcm", with_pixels(ramp()), extra=bytes(10**9 // 2))
    assert path.stat().st_size < 10**6
    assert outcome(path) == ([], ["too_large"])


def test_a_cut_deflated_file_is_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 2**16, (64, 64)).astype(np.uint16)
    path = deflated(tmp_path / "a.dcm", with_pixels(noise))
    path.write_bytes(path.read_bytes()[:-1000])
    assert outcome(path)[1] == ["truncated"]


# --- codestream headers --------------------------------------------------------------------


@pytest.mark.parametrize("n", range(0, 60, 7))
def test_cut_codestream_headers_are_none(n):
    stream = jpeg(picture())
    assert read_codestream(stream[:n]) is None


def test_garbage_has_no_codestream_header():
    rng = np.random.default_rng(0)
    for start in (b"\xff\xd8", b"\xff\x4f\xff\x51", b""):
        for _ in range(50):
            found = read_codestream(start + rng.bytes(200))
            assert found is None or (found.rows, found.columns) != picture().shape[:2]
