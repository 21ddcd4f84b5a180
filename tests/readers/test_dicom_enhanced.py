"""Enhanced multi-frame objects: frames are slices, wherever a frame or all of them say so."""

import numpy as np
import pydicom
import pytest

from medssl.core.errors import ReadError
from medssl.readers._dispatch import load
from tests.readers.dicom_files import AXIAL, frame, group_of, grouped, voxels, write_enhanced

X = voxels()


def frames(**more):
    return [frame(k=k, **more) for k in range(len(X))]


def test_frames_are_ordered_by_position(tmp_path):
    order = [3, 0, 4, 1, 2]
    write_enhanced(tmp_path / "a.dcm", X[order], [frame(k=k) for k in order])
    (found,), refused = grouped(tmp_path)
    assert (found.files, found.shape, refused) == ((str(tmp_path / "a.dcm"),), (1, 5, 8, 10), {})
    np.testing.assert_array_equal(load(found)[0], X)
    np.testing.assert_allclose(found.geometry.affine, AXIAL, atol=1e-5)


def test_thickness_of_the_pixel_measures_is_not_the_spacing(tmp_path):
    write_enhanced(tmp_path / "a.dcm", X, frames())
    (found,), _ = grouped(tmp_path)
    assert found.geometry.spacing_mm == pytest.approx((2.5, 1.3, 0.7))


def test_what_all_frames_share_holds_for_each(tmp_path):
    own = frames()
    shared = pydicom.Dataset()
    for one in own:
        shared.PlaneOrientationSequence = one.PlaneOrientationSequence
        shared.PixelMeasuresSequence = one.PixelMeasuresSequence
        del one.PlaneOrientationSequence, one.PixelMeasuresSequence
    shared.PixelValueTransformationSequence = group_of(RescaleSlope=2.0, RescaleIntercept=-5.0)
    write_enhanced(tmp_path / "a.dcm", X, own, shared)
    (found,), _ = grouped(tmp_path)
    np.testing.assert_array_equal(load(found)[0], 2 * X - 5)


def test_magnitude_and_field_map_in_one_file_have_their_own_scales(tmp_path):
    magnitude = frames(echo=1.52, slope=(1.25, 0.0))
    field = frames(echo=2.0, slope=(0.5, -500.0))
    mixed = [one for pair in zip(magnitude, field, strict=True) for one in pair]
    stored = np.repeat(X, 2, axis=0)
    write_enhanced(tmp_path / "a.dcm", stored, mixed)
    found, _ = grouped(tmp_path)
    assert [one.part for one in found] == ["EchoTime=1.52", "EchoTime=2"]
    np.testing.assert_array_equal(load(found[0])[0], (1.25 * X).astype(np.float32))
    np.testing.assert_array_equal(load(found[1])[0], (0.5 * X - 500).astype(np.float32))


def test_each_frame_is_rescaled_with_its_own_numbers(tmp_path):
    own = [frame(k=k, slope=(1.0 + k, -k)) for k in range(len(X))]
    write_enhanced(tmp_path / "a.dcm", X, own)
    (found,), _ = grouped(tmp_path)
    expected = [(1 + k) * X[k].astype(int) - k for k in range(len(X))]
    np.testing.assert_array_equal(load(found)[0], expected)


def test_time_points_in_one_file_and_in_several_are_records(tmp_path):
    for time in (1, 2):
        own = [*frames(TemporalPositionIndex=2 * time), *frames(TemporalPositionIndex=2 * time + 1)]
        stored = np.concatenate([X + 10 * time, X + 10 * time + 1])
        write_enhanced(tmp_path / f"{time}.dcm", stored, own)
    found, _ = grouped(tmp_path)
    assert [one.part for one in found] == [f"TemporalPositionIndex={n}" for n in (2, 3, 4, 5)]
    assert [int((load(one)[0] - X).max()) for one in found] == [10, 11, 20, 21]


def test_diffusion_frames_are_split_by_b_value_and_direction(tmp_path):
    own = []
    for b_value, direction in [(0.0, None), (1000.0, [1.0, 0, 0]), (1000.0, [0, 1.0, 0])]:
        for one in frames():
            one.MRDiffusionSequence = group_of(DiffusionBValue=b_value)
            if direction:
                nested = group_of(DiffusionGradientOrientation=direction)
                one.MRDiffusionSequence[0].DiffusionGradientDirectionSequence = nested
            own.append(one)
    write_enhanced(tmp_path / "a.dcm", np.concatenate([X, X, X]), own)
    found, _ = grouped(tmp_path)
    assert [one.part for one in found] == [
        "DiffusionBValue=0",
        "DiffusionBValue=1000;DiffusionGradientOrientation=0,1,0",
        "DiffusionBValue=1000;DiffusionGradientOrientation=1,0,0",
    ]


def test_single_frame_enhanced_objects_stack_like_slices(tmp_path):
    for k in range(len(X)):
        write_enhanced(tmp_path / f"{k}.dcm", X[k : k + 1], [frame(k=k)])
    (found,), _ = grouped(tmp_path)
    np.testing.assert_array_equal(load(found)[0], X)


@pytest.mark.parametrize("described", [4, 6])
def test_frames_that_are_not_all_described_are_a_contradiction(tmp_path, described):
    own = [frame(k=k) for k in range(described)]
    write_enhanced(tmp_path / "a.dcm", X, own)
    assert list(grouped(tmp_path)[1]) == ["header_contradiction"]


def test_a_frame_without_a_place_spoils_the_file(tmp_path):
    own = frames()
    del own[2].PlanePositionSequence
    write_enhanced(tmp_path / "a.dcm", X, own)
    assert grouped(tmp_path)[1] == {"bad_geometry": [str(tmp_path / "a.dcm")]}


def test_more_frames_than_pixels_are_truncated_pixels(tmp_path):
    own = [frame(k=k) for k in range(50)]
    write_enhanced(tmp_path / "a.dcm", X, own, NumberOfFrames=50)
    assert list(grouped(tmp_path)[1]) == ["truncated"]


def test_frames_that_moved_since_the_index_are_noticed(tmp_path):
    write_enhanced(tmp_path / "a.dcm", X, frames())
    (found,), _ = grouped(tmp_path)
    write_enhanced(tmp_path / "a.dcm", X[::-1], frames()[::-1])
    with pytest.raises(ReadError) as caught:
        load(found)
    assert caught.value.reason == "changed"
