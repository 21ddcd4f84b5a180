"""Siemens mosaics: tiles become slices where the CSA header says how."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medssl.core.errors import ReadError
from medssl.readers._dicom_mosaic import read_csa
from medssl.readers._dispatch import load
from tests.core.orientations import CASES, affine_of
from tests.readers.dicom_files import csa_header, grouped, voxels, write_mosaic


def right_handed(affine):
    return np.linalg.det(affine[:3, :3]) > 0


@pytest.mark.parametrize("second_form", [True, False])
@pytest.mark.parametrize("n", [3, 4, 7, 10])
def test_tiles_become_slices_and_empty_tiles_none(tmp_path, n, second_form):
    x_DHW = voxels(shape=(n, 6, 8))
    write_mosaic(tmp_path / "m.dcm", x_DHW, second_form=second_form)
    (found,), refused = grouped(tmp_path)
    assert (found.shape, refused) == ((1, n, 6, 8), {})
    np.testing.assert_array_equal(load(found)[0], x_DHW)


@pytest.mark.parametrize("case", CASES[::7])
def test_the_position_is_that_of_the_tile_not_of_the_large_image(tmp_path, case):
    affine, x_DHW = affine_of(case, (12, -7, 30)), voxels(shape=(5, 6, 8))
    write_mosaic(tmp_path / "m.dcm", x_DHW, affine)
    (found,), _ = grouped(tmp_path)
    place = (np.linalg.inv(found.geometry.affine) @ affine).round(6)
    ours, start = load(found)[0], place @ [0, 0, 0, 1]
    assert ours[tuple(start[2::-1].astype(int))] == x_DHW[0, 0, 0]
    assert np.abs(np.abs(place[:3, :3]) - np.eye(3)).max() < 1e-5


def test_garbage_above_the_stored_bits_is_not_seen(tmp_path):
    x_DHW = voxels(shape=(4, 6, 8))
    write_mosaic(tmp_path / "m.dcm", x_DHW | np.int16(0x5000))
    (found,), _ = grouped(tmp_path)
    np.testing.assert_array_equal(load(found)[0], x_DHW)


def test_mosaics_of_one_series_are_time_points(tmp_path):
    for time in range(3):
        write_mosaic(tmp_path / f"{time}.dcm", voxels(time), AcquisitionNumber=str(time + 1))
    found, _ = grouped(tmp_path)
    assert [one.part for one in found] == [f"AcquisitionNumber={n}" for n in (1, 2, 3)]
    np.testing.assert_array_equal(load(found[2])[0], voxels(2))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"n": 1000}, "header_contradiction"),
        ({"normal": [0.6, 0.8, 0.0]}, "header_contradiction"),
        ({"Rows": 17}, "header_contradiction"),
        ({"SpacingBetweenSlices": "0"}, "bad_geometry"),
        ({"ImagePositionPatient": None}, "bad_geometry"),
    ],
)
def test_a_mosaic_whose_numbers_do_not_fit_is_refused(tmp_path, change, reason):
    write_mosaic(tmp_path / "m.dcm", voxels(), **change)
    assert grouped(tmp_path) == ([], {reason: [str(tmp_path / "m.dcm")]})


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_a_csa_header_or_refused(content, magic):
    try:
        read_csa(b"SV10\4\3\2\1" * magic + content)
    except ReadError as error:
        assert error.reason == "unsupported_mosaic"


@given(st.integers(0, 2000), st.integers(0, 255), st.booleans())
def test_a_csa_header_with_one_wrong_byte_never_crashes(at, byte, second_form):
    good = bytearray(csa_header({"A": ["1", "2"], "B": ["3.5"]}, second_form=second_form))
    good[at % len(good)] = byte
    try:
        read_csa(bytes(good))
    except ReadError as error:
        assert error.reason == "unsupported_mosaic"
