"""2D DICOM objects: kinds, spacing, frame times, roles."""

import numpy as np
import pytest

from tests.readers.dicom_objects import (
    JPEG,
    dataset,
    described,
    outcome,
    ramp,
    save,
    save_streams,
)

FRAMES = ramp(np.uint8, (4, 6, 10))


def record(path):
    loaded, reasons = outcome(path)
    assert reasons == []
    return loaded[0][0]


def clip(path, **header):
    return record(save(path, FRAMES, "XA", header=header))


@pytest.mark.parametrize("modality", ["CR", "DX", "MG", "XA", "XC", "SC"])
def test_a_single_frame_is_an_image(tmp_path, modality):
    (found, array), = outcome(save(tmp_path / "a.dcm", ramp(), modality))[0]  # fmt: skip
    assert (found.geometry.kind, array.shape) == ("image", (1, 6, 10))
    np.testing.assert_array_equal(array[0], ramp())


def test_several_frames_are_a_clip(tmp_path):
    (found, array), = outcome(save(tmp_path / "a.dcm", FRAMES, "XA"))[0]  # fmt: skip
    assert (found.geometry.kind, array.shape) == ("clip", (1, 4, 6, 10))
    np.testing.assert_array_equal(array[0], FRAMES)


def test_frames_of_a_clip_in_any_order(tmp_path):
    from medssl.readers._read import read

    path = save(tmp_path / "a.dcm", FRAMES, "XA")
    np.testing.assert_array_equal(read(path, frames=[3, 0]).array[0], FRAMES[[3, 0]])


def test_colour_comes_channel_first(tmp_path):
    x = np.random.default_rng(0).integers(0, 255, (5, 7, 3)).astype(np.uint8)
    (_, array), = outcome(save(tmp_path / "a.dcm", x, "XC"))[0]  # fmt: skip
    np.testing.assert_array_equal(array, x.transpose(2, 0, 1))


SPACINGS = {
    "detector_only": ({"ImagerPixelSpacing": [0.2, 0.1]}, (0.2, 0.1), True),
    "same_as_detector": (
        {"PixelSpacing": [0.2, 0.1], "ImagerPixelSpacing": [0.2, 0.1]},
        (0.2, 0.1),
        True,
    ),
    "corrected_for_magnification": (
        {
            "PixelSpacing": [0.15, 0.08],
            "ImagerPixelSpacing": [0.2, 0.1],
            "PixelSpacingCalibrationType": "GEOMETRY",
        },
        (0.15, 0.08),
        False,
    ),
    "unknown": ({}, None, False),
    "zero": ({"PixelSpacing": [0, 0]}, None, False),
}


@pytest.mark.parametrize("case", SPACINGS)
def test_spacing_says_where_it_lies(tmp_path, case):
    header, expected, in_detector = SPACINGS[case]
    found = record(save(tmp_path / "a.dcm", ramp(), "DX", header=header))
    assert found.geometry.spacing_mm == expected
    assert ("imager_spacing" in found.flags) == in_detector


TIMES = {
    "FrameTime": ({"FrameTime": 40}, [0, 0.04, 0.08, 0.12], "FrameTime"),
    "FrameTimeVector": (
        {"FrameTimeVector": [0, 10, 20, 30]},
        [0, 0.01, 0.03, 0.06],
        "FrameTimeVector",
    ),
    "CineRate": ({"CineRate": 25}, [0, 0.04, 0.08, 0.12], "CineRate"),
    "display_rate": (
        {"RecommendedDisplayFrameRate": 10},
        [0, 0.1, 0.2, 0.3],
        "RecommendedDisplayFrameRate",
    ),
    "measured_before_display": (
        {"FrameTime": 50, "CineRate": 30},
        [0, 0.05, 0.1, 0.15],
        "FrameTime",
    ),
    "pointer_names_the_vector": (
        {"FrameTime": 50, "FrameTimeVector": [0, 10, 20, 30], "FrameIncrementPointer": 0x00181065},
        [0, 0.01, 0.03, 0.06],
        "FrameTimeVector",
    ),
}


@pytest.mark.parametrize("case", TIMES)
def test_frame_times_name_their_source(tmp_path, case):
    header, expected, source = TIMES[case]
    found = clip(tmp_path / "a.dcm", **header)
    np.testing.assert_allclose(found.geometry.frame_times_s, expected)
    assert f"frame_times_from={source}" in found.flags


BAD_TIMES = [{"FrameTime": 0}, {"FrameTime": -33}, {"FrameTime": "nan"}, {"FrameTime": "1e30"}]
BAD_TIMES += [{"FrameTimeVector": [0, 10]}, {"FrameTimeVector": [0, 10, -10, 10]}, {"CineRate": 0}]


@pytest.mark.parametrize("header", BAD_TIMES)
def test_impossible_frame_times_are_unknown(tmp_path, header):
    import pydicom

    with pydicom.config.disable_value_validation():
        found = clip(tmp_path / "a.dcm", **header)
    assert found.geometry.frame_times_s is None
    assert {"frame_times_unknown", "bad_frame_time"} <= set(found.flags)


def test_an_impossible_source_is_passed_over(tmp_path):
    found = clip(tmp_path / "a.dcm", FrameTime=0, CineRate=20)
    np.testing.assert_allclose(found.geometry.frame_times_s, [0, 0.05, 0.1, 0.15])
    assert {"bad_frame_time", "frame_times_from=CineRate"} <= set(found.flags)


def test_a_secondary_capture_never_trains(tmp_path):
    found = record(save(tmp_path / "a.dcm", ramp(), "SC"))
    assert found.role == "derived"
    assert {"secondary_capture", "burned_in_text_possible"} <= set(found.flags)


def test_views_of_a_scintigram_are_images_of_their_own(tmp_path):
    header = {"ImageType": ["ORIGINAL", "PRIMARY", "WHOLE BODY", "EMISSION"]}
    loaded, _ = outcome(save(tmp_path / "a.dcm", FRAMES[:2], "NM", header=header))
    assert [one.part for one, _ in loaded] == ["Frame=1", "Frame=2"]
    for (_, array), x in zip(loaded, FRAMES, strict=False):
        np.testing.assert_array_equal(array[0], x)


def test_projections_of_a_tomogram_are_neither_views_nor_times(tmp_path):
    header = {"ImageType": ["ORIGINAL", "PRIMARY", "GATED TOMO", "EMISSION"]}
    assert outcome(save(tmp_path / "a.dcm", FRAMES, "NM", header=header))[0] == []


def test_objects_of_one_series_have_parts_of_their_own(tmp_path):
    from medssl.readers._dispatch import group_headers, read_header

    numbers = [1, 2, 2, None]
    files = [
        save(tmp_path / f"{k}.dcm", ramp(), "CR", header={"InstanceNumber": number})
        for k, number in enumerate(numbers)
    ]
    found, _ = group_headers([read_header(file) for file in files])
    assert len({one.part for one in found}) == 4


def test_the_window_is_kept_apart(tmp_path):
    header = {"WindowCenter": 40, "WindowWidth": 400}
    (found, array), = outcome(save(tmp_path / "a.dcm", ramp(), "DX", header=header))[0]  # fmt: skip
    assert found.options["window"] == [40, 400]
    np.testing.assert_array_equal(array[0], ramp())


def test_free_text_of_the_header_reaches_no_record(tmp_path):
    header = {"ImageComments": "DOE JANE", "SeriesDescription": "DOE", "ViewPosition": "DOE"}
    header |= {"PatientName": "DOE^JANE", "ImageType": ["ORIGINAL", "PRIMARY", "DOE"]}
    found = record(save(tmp_path / "a.dcm", FRAMES, "XA", header=header))
    assert "DOE" not in str({k: v for k, v in vars(found).items() if k not in {"patient"}})


def test_a_file_that_grew_since_the_index_is_refused(tmp_path):
    from medssl.core.errors import ReadError
    from medssl.readers._dispatch import load

    found = record(save(tmp_path / "a.dcm", ramp(), "CR"))
    save(tmp_path / "a.dcm", ramp(shape=(8, 10)), "CR")
    with pytest.raises(ReadError) as caught:
        load(found)
    assert caught.value.reason == "changed"


@pytest.mark.parametrize("frames", [10**5, 2**31 - 1])
def test_a_claim_of_many_frames_costs_nothing(tmp_path, frames):
    path = save_streams(
        tmp_path / "a.dcm", [b"\xff\xd8"], FRAMES, JPEG, "XA", NumberOfFrames=frames
    )
    found, reasons = outcome(path)
    assert found == []
    assert reasons[0] in {"frames_mismatch", "too_large"}


def test_an_empty_header_value_is_no_crash(tmp_path):
    ds = described(dataset("XA"), FRAMES)
    ds.FrameTime, ds.CineRate, ds.PixelSpacing = None, None, None
    ds.PixelData = FRAMES.tobytes()
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert record(tmp_path / "a.dcm").geometry.spacing_mm is None


def test_pictures_that_share_a_uid_are_copies_only_if_their_times_agree(tmp_path):
    times = ["101530", "101531", "101530"]
    first, other, copy = [
        record(
            save(
                tmp_path / f"{k}.dcm",
                ramp(),
                header={"SOPInstanceUID": "1.2.3", "AcquisitionTime": time, "PatientID": f"P{k}"},
            )
        ).objects
        for k, time in enumerate(times)
    ]
    assert first == copy
    assert first != other


def test_views_of_one_file_are_no_copies_of_each_other(tmp_path):
    header = {"ImageType": ["ORIGINAL", "PRIMARY", "WHOLE BODY", "EMISSION"]}
    loaded, _ = outcome(save(tmp_path / "a.dcm", FRAMES[:2], "NM", header=header))
    assert len({one.objects for one, _ in loaded}) == 2
