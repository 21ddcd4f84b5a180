"""Ultrasound objects: regions, spacing, colour, masking at load."""

import numpy as np
import pytest
from pydicom.dataset import Dataset

from medssl.readers._read import read
from tests.readers.dicom_objects import decoded, outcome, save
from tests.readers.ultrasound_phantom import SHAPE, cine, ecg, fan, iou, text


def region(box, form=1, data=1, units=(3, 3), delta=(0.05, 0.04)):
    """One item of SequenceOfUltrasoundRegions; box = first and last row, first and last column."""
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = form, data, 0
    item.RegionLocationMinY0, item.RegionLocationMaxY1 = box[0], box[1]
    item.RegionLocationMinX0, item.RegionLocationMaxX1 = box[2], box[3]
    item.PhysicalUnitsYDirection, item.PhysicalUnitsXDirection = units
    item.PhysicalDeltaY, item.PhysicalDeltaX = delta
    return item


def us(path, frames, *regions, **header):
    if regions:
        header["SequenceOfUltrasoundRegions"] = list(regions)
    return save(path, frames, "US", header=header)


def records(path):
    loaded, reasons = outcome(path)
    assert reasons == []
    return loaded


WHOLE = (0, 239, 0, 319)
M_MODE = (180, 230, 20, 300)


def test_a_region_is_cut_out_in_mm(tmp_path):
    clip, _ = cine(4)
    (found, array), = records(us(tmp_path / "a.dcm", clip, region((20, 209, 40, 279))))  # fmt: skip
    assert array.shape == found.shape == (3, 4, 190, 240)
    assert found.geometry.spacing_mm == pytest.approx((0.5, 0.4))
    assert found.part == ""


def test_values_of_the_region_are_those_of_the_frame(tmp_path):
    clip, truth = cine(4)
    (_, array), = records(us(tmp_path / "a.dcm", clip, region((20, 209, 40, 279))))  # fmt: skip
    inside = fan(half_angle_deg=36.0, r0=28.0, r1=180.0)[20:210, 40:280]
    expected = np.moveaxis(clip, -1, 0)[:, :, 20:210, 40:280]
    np.testing.assert_array_equal(array[:, :, inside], expected[:, :, inside])


def test_text_is_0_after_load_in_every_frame(tmp_path):
    clip, truth = cine(6)
    (found, array), = records(us(tmp_path / "a.dcm", clip))  # fmt: skip
    planted = ((text() > 0) | (ecg(5, 6) > 0)) & ~truth
    assert not array[:, :, planted].any()
    assert iou(array.any(axis=(0, 1)), truth) > 0.95
    assert "sector_from_pixels" in found.flags


def test_any_choice_of_frames_has_the_same_mask(tmp_path):
    clip, _ = cine(20)
    path = us(tmp_path / "a.dcm", clip)
    whole = read(path).array
    np.testing.assert_array_equal(read(path, frames=[7, 2]).array, whole[:, [7, 2]])


def test_m_mode_is_a_record_of_its_own(tmp_path):
    clip, _ = cine(3)
    time_axis = region(M_MODE, form=2, units=(3, 4), delta=(0.05, 0.01))
    found = {
        one.part: (one, array)
        for one, array in records(
            us(tmp_path / "a.dcm", clip, region((10, 170, 40, 279)), time_axis)
        )
    }
    assert set(found) == {"Region=1;Type=2D", "Region=2;Type=M_MODE"}
    flat, m_mode = found["Region=1;Type=2D"][0], found["Region=2;Type=M_MODE"][0]
    assert (flat.role, m_mode.role) == ("image", "derived")
    assert m_mode.geometry.spacing_mm is None
    assert "region_m_mode" in m_mode.flags
    np.testing.assert_array_equal(
        found["Region=2;Type=M_MODE"][1], np.moveaxis(clip, -1, 0)[:, :, 180:231, 20:301]
    )


def test_a_strip_over_the_picture_is_taken_out_of_it(tmp_path):
    clip, _ = cine(3)
    clip[:, 190:215] = np.random.default_rng(0).integers(50, 255, (3, 25, 320, 1))
    strip = region((190, 214, 0, 319), form=4, data=10, units=(0, 4))
    ((found, array),) = records(us(tmp_path / "a.dcm", clip, region(WHOLE), strip))
    assert not array[:, :, 190:215].any()
    assert found.part == ""


def test_two_views_are_two_records(tmp_path):
    clip, _ = cine(2)
    loaded = records(
        us(tmp_path / "a.dcm", clip, region((0, 239, 0, 159)), region((0, 239, 160, 319)))
    )
    assert [one.part for one, _ in loaded] == ["Region=1;Type=2D", "Region=2;Type=2D"]
    assert [array.shape for _, array in loaded] == [(3, 2, 240, 160)] * 2


def test_a_colour_box_belongs_to_its_picture(tmp_path):
    clip, _ = cine(2)
    box = region((100, 140, 140, 180), data=2)
    ((found, array),) = records(us(tmp_path / "a.dcm", clip, region(WHOLE), box))
    assert "colour_doppler" in found.flags
    assert array.shape[0] == 3


GREY = {
    "header_says_grey": ({"UltrasoundColorDataPresent": 0}, 1),
    "header_says_colour": ({"UltrasoundColorDataPresent": 1}, 3),
    "header_says_nothing": ({}, 3),
}


@pytest.mark.parametrize("case", GREY)
def test_channels_follow_the_header(tmp_path, case):
    header, channels = GREY[case]
    clip, truth = cine(2)
    ((found, array),) = records(us(tmp_path / "a.dcm", clip, **header))
    assert array.shape == found.shape == (channels, 2, *SHAPE)
    inside = fan(half_angle_deg=36.0, r0=28.0, r1=180.0)
    np.testing.assert_array_equal(array[0][:, inside], clip[..., 0][:, inside])


def test_a_grey_palette_is_one_channel(tmp_path):
    clip, _ = cine(1)
    ramp = bytes(range(256))
    header = {}
    for name in ("Red", "Green", "Blue"):
        header[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 8]
        header[f"{name}PaletteColorLookupTableData"] = ramp
    path = save(tmp_path / "a.dcm", clip[0, ..., 0], "US", "PALETTE COLOR", header)
    ((found, array),) = records(path)
    assert array.shape == (1, *SHAPE)


BOXES = {
    "outside": (0, 500, 0, 319),
    "empty": (50, 50, 10, 200),
    "turned_round": (200, 20, 10, 200),
    "beyond_2_31": (0, 2**32 - 1, 0, 2**32 - 1),
}


@pytest.mark.parametrize("case", BOXES)
def test_an_impossible_box_gives_no_spacing(tmp_path, case):
    clip, _ = cine(2)
    ((found, _),) = records(us(tmp_path / "a.dcm", clip, region(BOXES[case])))
    assert found.shape == (3, 2, *SHAPE)
    assert found.geometry.spacing_mm is None
    assert {"bad_region", "burned_in_text_possible"} <= set(found.flags)


def test_a_thousand_regions_are_a_slip(tmp_path):
    clip, _ = cine(1)
    ((found, _),) = records(us(tmp_path / "a.dcm", clip, *[region(WHOLE)] * 1000))
    assert "bad_region" in found.flags


def test_a_size_instead_of_a_last_pixel_is_understood(tmp_path):
    clip, _ = cine(2)
    ((found, _),) = records(us(tmp_path / "a.dcm", clip, region((0, 240, 0, 320))))
    assert found.shape == (3, 2, *SHAPE)


@pytest.mark.parametrize(
    ("units", "delta"),
    [((3, 4), (0.05, 0.05)), ((0, 0), (1, 1)), ((3, 3), (0, 0.05)), ((3, 3), (np.nan, 0.05))],
)
def test_what_is_no_length_is_no_spacing(tmp_path, units, delta):
    clip, _ = cine(2)
    ((found, _),) = records(us(tmp_path / "a.dcm", clip, region(WHOLE, 1, 1, units, delta)))
    assert found.geometry.spacing_mm is None


def test_graphics_alone_count_as_no_regions(tmp_path):
    clip, _ = cine(2)
    bar = region((0, 200, 300, 310), form=5, data=13)
    ((found, _),) = records(us(tmp_path / "a.dcm", clip, bar))
    assert "sector_from_pixels" in found.flags


def test_a_picture_without_sector_is_not_called_clean(tmp_path):
    frames = np.repeat(np.broadcast_to(text(), (3, *SHAPE))[..., None], 3, axis=-1)
    ((found, array),) = records(us(tmp_path / "a.dcm", np.ascontiguousarray(frames)))
    assert "burned_in_text_possible" in found.flags
    np.testing.assert_array_equal(array[0], frames[..., 0])


REAL = "us_cine_dicom"


@pytest.mark.real
def test_a_real_cine_has_30_frames_of_33_ms(medssl_data):
    ((found, array),) = records(medssl_data / REAL / "examples_ybr_color.dcm")
    assert array.shape == (3, 30, 240, 320)
    np.testing.assert_allclose(np.diff(found.geometry.frame_times_s), 0.033333, atol=1e-6)


@pytest.mark.real
def test_fragmented_jpeg_equals_the_rgb_version(medssl_data):
    folder = medssl_data / REAL
    plain = decoded(folder / "IM00001.implicit_little_endian.dcm").astype(float)
    lossy = decoded(folder / "IM00001.fragmented_no_bot_jpeg_baseline.50.dcm")
    assert np.abs(lossy - plain).mean() < 6
    errors = [[np.abs(lossy[i] - plain[j]).mean() for j in range(8)] for i in range(8)]
    assert np.argmin(errors, axis=1).tolist() == list(range(8))


@pytest.mark.real
def test_real_colour_doppler_keeps_its_colours(medssl_data):
    for _, array in records(medssl_data / REAL / "IM00001.implicit_little_endian.dcm"):
        spread = array.max(axis=0).astype(int) - array.min(axis=0)
        assert (spread > 100).mean() > 0.05
