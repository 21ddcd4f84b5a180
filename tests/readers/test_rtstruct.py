"""RTSTRUCT on an image's grid: volumes against closed forms, and what is refused."""

import numpy as np
import pydicom
import pytest

import medssl
from medssl.core.errors import ReadError
from medssl.core.geometry import Geometry
from medssl.readers import _contours, _rtstruct
from medssl.readers.labels import label_record, labels_on_grid
from tests.readers.label_files import circle, in_mm, series, write_rtstruct
from tests.scans import oblique, save_dicom

SHAPE = (20, 48, 40)
AFFINE = oblique()
GRID = Geometry.of_volume(AFFINE)
CENTRE_WHD = np.array([18.7, 22.3, 0])
SQUARE = np.array([[9.5, 7.5], [29.5, 7.5], [29.5, 17.5], [9.5, 17.5]])  # 20 x 10 pixels


@pytest.fixture
def source(tmp_path):
    return series(save_dicom(tmp_path / "ct", np.zeros(SHAPE), AFFINE), AFFINE)[0]


@pytest.fixture
def draw(tmp_path, source):
    def write(structures, **more):
        return write_rtstruct(tmp_path / "rs.dcm", structures, source, **more)

    return write


def flat(points_WH, place, affine=AFFINE):
    """Points of one slice in mm."""
    return in_mm([(*point, place) for point in points_WH], affine)


def reason(path, geometry=GRID, shape=SHAPE):
    with pytest.raises(ReadError) as caught:
        labels_on_grid(path, geometry, shape)
    assert "DOE" not in caught.value.what + caught.value.fix
    return caught.value.reason


def test_a_square_fills_its_voxels_exactly(draw):
    path = draw({"DOE box": [flat(SQUARE, k) for k in (3, 4, 5)]})
    found = labels_on_grid(path, GRID, SHAPE)
    wanted = np.zeros(SHAPE, np.uint8)
    wanted[3:6, 8:18, 10:30] = 1
    np.testing.assert_array_equal(found.labels_DHW, wanted)
    assert found.names == {0: "background", 1: "DOE box"} and found.flags == ()


def test_an_ellipsoid_has_its_volume(draw):
    radii = np.array([8.0, 13.0, 11.0])  # D, H, W in voxels
    contours = []
    for k in range(2, 18):
        share = np.sqrt(1 - ((k - 9.6) / radii[0]) ** 2)
        if np.isfinite(share):
            outline = circle(CENTRE_WHD[1::-1], 1.0, k, np.eye(4)) - CENTRE_WHD
            outline[:, :2] *= share * radii[[2, 1]]
            contours.append(in_mm(outline + CENTRE_WHD, AFFINE))
    found = labels_on_grid(draw({"a": contours}), GRID, SHAPE)
    voxel_mm3 = abs(np.linalg.det(AFFINE[:3, :3]))
    wanted_mm3 = 4 / 3 * np.pi * radii.prod() * voxel_mm3
    assert found.labels_DHW.sum() * voxel_mm3 == pytest.approx(wanted_mm3, rel=0.02)


def test_the_centroid_of_a_circle_is_where_it_was_drawn(draw):
    path = draw({"a": [circle((20.3, 17.8), 9.0, k, AFFINE) for k in range(4, 9)]})
    labels = labels_on_grid(path, GRID, SHAPE).labels_DHW
    centre = np.argwhere(labels).mean(axis=0)
    np.testing.assert_allclose(centre, [6, 20.3, 17.8], atol=0.1)
    assert labels.sum() == pytest.approx(5 * np.pi * 81, rel=0.02)


def test_a_contour_within_another_is_a_hole_and_so_is_a_keyhole(draw):
    inner = np.array([[14.5, 9.5], [24.5, 9.5], [24.5, 15.5], [14.5, 15.5]])  # 10 x 6 pixels
    keyhole = np.concatenate([SQUARE, SQUARE[:1], inner[::-1], inner[-1:]])
    path = draw({"a": [flat(SQUARE, 3), flat(inner, 3), flat(keyhole, 5)]})
    labels = labels_on_grid(path, GRID, SHAPE).labels_DHW
    assert labels[3].sum() == labels[5].sum() == 200 - 60
    np.testing.assert_array_equal(labels[3], labels[5])


def test_structures_that_share_an_edge_share_no_voxel(draw):
    path = draw({"a": [flat(SQUARE, 3)], "b": [flat(SQUARE + np.array([20, 0]), 3)]})
    labels = labels_on_grid(path, GRID, (20, 48, 50)).labels_DHW
    assert (labels == 1).sum() == (labels == 2).sum() == 200


def test_slices_between_contours_are_not_filled_but_counted(draw):
    found = labels_on_grid(draw({"a": [flat(SQUARE, k) for k in (3, 6)]}), GRID, SHAPE)
    assert found.labels_DHW.any(axis=(1, 2)).nonzero()[0].tolist() == [3, 6]
    assert found.flags == ("slices_between_contours=2",)


def test_a_contour_stored_twice_is_one_contour(draw):
    found = labels_on_grid(draw({"a": [flat(SQUARE, 3), flat(SQUARE, 3)]}), GRID, SHAPE)
    assert found.labels_DHW.sum() == 200


def test_points_open_lines_and_empty_structures_are_counted(draw):
    structures = {"a": [flat(SQUARE, 3)], "b": [], "c": [flat(SQUARE[:2], 3)]}
    found = labels_on_grid(draw(structures), GRID, SHAPE)
    assert set(found.flags) == {"empty_structures=2", "open_contours_left_out=1"}
    found = labels_on_grid(draw({"a": [flat(SQUARE, 3)]}, kind="POINT"), GRID, SHAPE)
    assert not found.labels_DHW.any() and "open_contours_left_out=1" in found.flags


def test_the_values_are_those_of_the_names(draw):
    path = draw({"a": [flat(SQUARE, 3)], "body": [flat(SQUARE, 3)]})
    assert reason(path) == "overlapping_labels"
    found = labels_on_grid(path, GRID, SHAPE, names={0: "background", 7: "a"})
    assert np.unique(found.labels_DHW).tolist() == [0, 7]
    assert found.flags == ("segments_left_out=1",)


NAN = np.array([[1.0, 2.0, np.nan]] * 3)
EIGHT = SQUARE[[0, 2, 1, 3]]  # crosses itself


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (flat(SQUARE, 3.4), "contour_off_slice"),
        (flat(SQUARE, -1), "contour_off_slice"),
        (flat(SQUARE, 20), "contour_off_slice"),
        (in_mm([[5, 5, 2], [5, 20, 2], [5, 20, 9], [5, 5, 9]], AFFINE), "contour_off_slice"),
        (flat(SQUARE + np.array([30, 0]), 3), "contour_volume_error"),
        (flat(EIGHT, 3), "contour_volume_error"),
        (NAN, "broken_contour"),
    ],
)
def test_contours_that_cannot_be_filled_as_drawn_are_refused(draw, points, expected):
    assert reason(draw({"DOE": [points]})) == expected


@pytest.mark.parametrize("text", [b"DOE", b"1e999", b"", b"1\\2"])
def test_text_in_place_of_a_number_is_refused(draw, text):
    path = draw({"a": [np.full((3, 3), 7.1234)]})
    content = path.read_bytes()
    assert content.count(b"7.1234") == 9
    path.write_bytes(content.replace(b"7.1234", text.ljust(6), 1))
    assert reason(path) == "broken_contour"


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.999])
def test_a_set_that_ends_early_is_refused_not_read_in_part(draw, share):
    path = draw({"a": [flat(SQUARE, k) for k in range(3, 15)]})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert reason(path) in {"truncated", "broken_header"}


def drop_contours(one):
    del one.ROIContourSequence


def drop_structures(one):
    one.StructureSetROISequence.pop()


def rename(one):
    one.ROIContourSequence[0].ReferencedROINumber = 9


@pytest.mark.parametrize("change", [drop_contours, drop_structures, rename])
def test_contours_and_structures_that_do_not_fit_are_refused(draw, change):
    path = draw({"a": [flat(SQUARE, 3)]})
    one = pydicom.dcmread(path)
    change(one)
    one.save_as(path)
    assert reason(path) == "broken_header"


def test_a_number_of_points_that_is_not_theirs_is_refused(draw):
    path = draw({"a": [flat(SQUARE, 3)]})
    one = pydicom.dcmread(path)
    one.ROIContourSequence[0].ContourSequence[0].NumberOfContourPoints = 5
    one.save_as(path)
    assert reason(path) == "broken_contour"


def test_more_points_than_any_drawing_are_refused(draw, monkeypatch):
    monkeypatch.setattr(_rtstruct, "MAX_POINTS", 700)
    assert reason(draw({"a": [circle((20, 17), 9, 3, AFFINE)]})) == "too_large"
    monkeypatch.setattr(_rtstruct, "MAX_POINTS", 10_000)
    monkeypatch.setattr(_contours, "MAX_CROSSINGS", 10)
    assert reason(draw({"a": [circle((20, 17), 9, 3, AFFINE)]})) == "too_large"


def test_many_points_are_no_trouble(draw):
    path = draw({"a": [circle((20.3, 17.8), 9.0, 3, AFFINE, n=10**5)]})
    labels = labels_on_grid(path, GRID, SHAPE).labels_DHW
    assert labels.sum() == pytest.approx(np.pi * 81, rel=0.02)


def test_without_an_image_there_are_no_voxels(draw):
    path = draw({"DOE": [flat(SQUARE, 3)]})
    record = label_record(path)
    assert (record.role, record.shape, record.flags) == ("label", (1, 0, 0, 0), ("contours",))
    with pytest.raises(ReadError) as caught:
        _ = medssl.read(path).array
    assert caught.value.reason == "needs_image_grid"


def test_a_tilted_stack_is_filled_slice_by_slice(draw):
    sheared = AFFINE.copy()
    sheared[:3, 2] += 0.4 * AFFINE[:3, 1]
    path = draw({"a": [flat(SQUARE, k, sheared) for k in (3, 4)]})
    found = labels_on_grid(path, Geometry.of_volume(sheared), SHAPE)
    assert found.labels_DHW[3, 8:18, 10:30].all() and found.labels_DHW.sum() == 400


@pytest.mark.real
def test_a_real_structure_set_is_listed(medssl_data):
    record = label_record(medssl_data / "dicom_codecs" / "pydicom_test_files" / "rtstruct.dcm")
    assert record.shape == (3, 0, 0, 0) and len(record.references) == 1
