"""MPEG-2, H.264 and HEVC transfer syntaxes: the same frames, the header's identifiers and times."""

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import generate_uid

from medssl.core.errors import ReadError
from medssl.readers import dicom
from medssl.readers._dispatch import group_headers, sample
from pipelines._video_files import HEIGHT, WIDTH, encoded, numbers_of

ENDOSCOPY = "1.2.840.10008.5.1.4.1.1.77.1.1.1"
MPEG2, H264, HEVC = (f"1.2.840.10008.1.2.4.10{n}" for n in (0, 2, 7))
X265 = {"codec": "libx265", "options": {"x265-params": "log-level=none"}}
KINDS = {
    "mpeg2 program stream": (MPEG2, "mpeg", {"codec": "mpeg2video", "b_frames": 2}),
    "mpeg2 raw": (MPEG2, "mpeg2video", {"codec": "mpeg2video", "b_frames": 2}),
    "h264 mp4": (H264, "mp4", {"b_frames": 2}),
    "h264 transport stream": (H264, "mpegts", {}),
    "h264 raw": (H264, "h264", {"b_frames": 2}),
    "h264 fragmentable": (H264 + ".1", "mp4", {}),
    "hevc raw": (HEVC, "hevc", X265),
}


def wrap(path, content, syntax, *, fragments=1, n=60, **elements):
    """A video endoscopic object."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.SOPClassUID, ds.SOPInstanceUID = ENDOSCOPY, generate_uid()
    ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID = "P1", "1.2", "1.2.3"
    ds.Modality, ds.Rows, ds.Columns, ds.NumberOfFrames = "ES", HEIGHT, WIDTH, n
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 3, "YBR_PARTIAL_420"
    ds.PlanarConfiguration = ds.PixelRepresentation = 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.FrameTime = 40
    for name, value in elements.items():
        setattr(ds, name, value)
    content += b"\0" * (len(content) % 2)
    ds.PixelData = encapsulate([content], fragments_per_frame=fragments, has_bot=False)
    ds["PixelData"].is_undefined_length = True
    pydicom.dcmwrite(path, ds, enforce_file_format=True)
    return path


def clip_of(path):
    found, refused = group_headers([dicom.header(path)])
    assert not refused
    return sample(found[0]), found[0]


@pytest.mark.parametrize("fragments", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_is_the_one_asked_for(tmp_path, kind, fragments):
    syntax, container, how = KINDS[kind]
    content = encoded(container=container, **how)
    clip, found = clip_of(wrap(tmp_path / "x.dcm", content, syntax, fragments=fragments))
    assert (clip.kind, clip.shape) == ("clip", (3, 60, HEIGHT, WIDTH))
    assert numbers_of(clip.array) == list(range(60))
    assert numbers_of(clip.frames([41, 3, 59])) == [41, 3, 59]
    np.testing.assert_allclose(clip.frame_times_s, np.arange(60) / 25, atol=1e-9)
    assert (found.patient, found.study, found.series, found.modality) == (
        "P1",
        "1.2",
        "1.2.3",
        "ES",
    )
    # MPEG-2 carries its frame rate; what FFmpeg says of the other raw streams is a guess.
    source = "FrameTime" if kind in {"h264 raw", "hevc raw"} else "video"
    assert f"frame_times_from={source}" in found.flags
    assert found.role == "image"


def test_contradictions_of_header_and_video_are_flags(tmp_path):
    path = wrap(tmp_path / "x.dcm", encoded(), H264, n=50, FrameTime=33.3)
    clip, found = clip_of(path)
    assert {"frame_count_differs", "frame_rate_differs"} <= set(found.flags)
    assert numbers_of(clip.frames([59])) == [59]
    assert clip.frame_times_s[1] == 0.04


def test_another_picture_size_is_refused(tmp_path):
    header = dicom.header(wrap(tmp_path / "x.dcm", encoded(), H264, Rows=480))
    found, refused = group_headers([header])
    assert (found, refused[0].reason) == ([], "frame_size_changes")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"no video here " * 100, "not_video"), (b"\0\0\0\x18ftypisom" * 99, "bad_container")],
)
def test_what_is_no_video_is_refused(tmp_path, content, reason):
    with pytest.raises(ReadError) as caught:
        dicom.header(wrap(tmp_path / "x.dcm", content, H264))
    assert caught.value.reason == reason


def test_a_truncated_object_is_refused(tmp_path):
    path = wrap(tmp_path / "x.dcm", encoded(), H264)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ReadError) as caught:
        dicom.header(path)
    assert caught.value.reason == "truncated"


def test_outside_an_ultrasound_region_is_not_read(tmp_path):
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 16, 0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = WIDTH - 1, HEIGHT - 1
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX = region.PhysicalDeltaY = 0.05
    us = {"Modality": "US", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.3.1"}
    path = wrap(tmp_path / "x.dcm", encoded(), H264, SequenceOfUltrasoundRegions=[region], **us)
    clip, found = clip_of(path)
    assert found.format == "ultrasound"
    assert clip.shape[2:] == (HEIGHT, WIDTH - 16)
    assert clip.geometry.spacing_mm == (0.5, 0.5)
    assert clip.frames([5]).shape[1] == 1
