"""Every file of the pydicom wheel: read, quarantined with a reason, or ignored; nothing else."""

import pytest

from pipelines._references_pixels import against_pydicom, outcomes
from pipelines.check_pydicom_files import WHEEL

OUTCOMES = {"read", "quarantined", "ignored"}
READ = [
    *("ExplVR_BigEnd", "GDCMJ2K_TextGBR", "JPEG2000", "JPEGLSNearLossless_08", "SC_rgb_jpeg"),
    *("JPEGLSNearLossless_16", "SC_jpeg_no_color_transform", "SC_rgb_dcmtk_+eb+cy+np"),
    *("SC_rgb_gdcm_KY", "SC_rgb_jls_lossy_line", "SC_rgb_jpeg_gdcm", "SC_rgb_rle_2frame"),
    *("SC_rgb_small_odd_big_endian", "SC_ybr_full_422_uncompressed", "examples_jpeg2k"),
    *("examples_palette", "examples_rgb_color", "examples_ybr_color", "image_dfl"),
]
QUARANTINED = {
    "CT_small.dcm": "too_few_slices",
    "JPEG2000-embedded-sequence-delimiter.dcm": "corrupt_pixels",
    "no_meta.dcm": "not_dicom",
}
IGNORED = {
    "README.txt": "text",
    "reportsi.dcm": "dicom_sr",
    "rtplan.dcm": "dicom_rt",
    "rtdose.dcm": "dicom_rt",
    "waveform_ecg.dcm": "dicom_waveform",
    "dicomdirtests/DICOMDIR-bigEnd": "dicomdir",
}
GPL = {"JPEG-lossy.dcm", "JPGExtended.dcm"}


def one(name):
    return outcomes([WHEEL / name])[WHEEL / name]


@pytest.mark.parametrize("folder", sorted({f.parent for f in WHEEL.rglob("*") if f.is_file()}))
def test_there_is_no_fourth_outcome(folder):
    files = [file for file in folder.iterdir() if file.is_file()]
    for group in [files, *([file] for file in files)]:
        found = outcomes(group)
        assert set(found) == set(group)
        assert {outcome for outcome, _ in found.values()} <= OUTCOMES
        assert all(detail for _, detail in found.values())


@pytest.mark.parametrize("name", READ)
def test_must_be_read(name):
    assert one(f"{name}.dcm")[0] == "read"


@pytest.mark.parametrize(("name", "reason"), QUARANTINED.items())
def test_must_be_quarantined(name, reason):
    assert one(name) == ("quarantined", reason)


@pytest.mark.parametrize(("name", "kind"), IGNORED.items())
def test_must_be_ignored(name, kind):
    assert one(name) == ("ignored", kind)


def test_every_decoded_image_equals_pydicoms():
    verdicts = {file.name: against_pydicom(file) for file in WHEEL.glob("*.dcm")}
    wrong = {n: v for n, v in verdicts.items() if v and v != "equal" and "refused" not in v}
    assert wrong == {}
    assert sum(v == "equal" for v in verdicts.values()) > 50
    refused = {n for n, v in verdicts.items() if "refused" in v} - GPL
    assert refused == {
        *("JPEG2000-embedded-sequence-delimiter.dcm", "MR_truncated.dcm", "badVR.dcm"),
        *("MR_small_padded.dcm", "no_meta.dcm"),
    }
