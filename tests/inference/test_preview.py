"""The preview shows true proportions and the patient's right on the left."""

import numpy as np
import pytest
from PIL import Image

from medssl.core.geometry import Reorientation
from medssl.inference.preview import PANEL_PX, PICTURE_PX, write_picture_preview, write_preview


def coloured(path):
    """Columns and rows of overlay pixels in each of the three panels, relative to its centre."""
    rgb = np.asarray(Image.open(path)).astype(int)
    hit = rgb[..., 0] - rgb[..., 1] > 20  # orange: picture and letters have as much green as red
    spots = []
    for k in range(3):
        rows, columns = np.nonzero(hit[:, k * PANEL_PX : (k + 1) * PANEL_PX])
        spots.append((columns - PANEL_PX / 2, rows - PANEL_PX / 2))
    return spots


def scene(shape=(20, 20, 20)):
    x, labels = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    x[0] = 1.0
    labels[14:18, 14:18, 14:18] = 1  # superior, anterior, right in RAS+
    return x, labels


def check(path):
    axial, coronal, sagittal = coloured(path)
    assert axial[0].max() < 0 and axial[1].max() < 0  # right is left, anterior is up
    assert coronal[0].max() < 0 and coronal[1].max() < 0  # superior is up
    assert sagittal[0].max() < 0 and sagittal[1].max() < 0  # anterior is left


def test_orientation_of_the_panels(tmp_path):
    x, labels = scene()
    write_preview(tmp_path / "p.png", x, labels, np.eye(4))
    check(tmp_path / "p.png")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("flips", [(True, False, False), (False, True, True)])
def test_storage_order_does_not_change_the_picture(tmp_path, order, flips):
    x, labels = scene()
    stored = Reorientation(order, flips)
    affine = stored.affine(np.eye(4), x.shape)
    write_preview(tmp_path / "p.png", stored.apply(x), stored.apply(labels), affine)
    check(tmp_path / "p.png")


def test_thick_slices_are_drawn_thick(tmp_path):
    # A 20 mm cube in 1 x 1 x 5 mm voxels is a square in every panel.
    x, labels = np.zeros((12, 60, 60), np.float32), np.zeros((12, 60, 60), np.uint8)
    labels[4:8, 20:40, 20:40] = 1
    write_preview(tmp_path / "p.png", x, labels, np.diag([1.0, 1.0, 5.0, 1.0]))
    for columns, rows in coloured(tmp_path / "p.png"):
        assert np.ptp(columns) == pytest.approx(np.ptp(rows), abs=6)


def test_a_case_without_labels_has_a_picture(tmp_path):
    x, labels = scene()
    write_preview(tmp_path / "p.png", x, labels * 0, np.eye(4))
    assert Image.open(tmp_path / "p.png").size == (3 * PANEL_PX, PANEL_PX)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_picture_stands_beside_itself_with_labels(tmp_path, dtype):
    grey = np.random.default_rng(0).integers(0, 200, (1, 60, 90)).astype(dtype)
    x_CHW = np.repeat(grey, 3, 0)
    labels = np.zeros((60, 90), np.uint8)
    labels[10:20, 60:80] = 1
    write_picture_preview(tmp_path / "p.png", x_CHW, labels)
    rgb = np.asarray(Image.open(tmp_path / "p.png")).astype(int)
    assert rgb.shape == (60, 180, 3)
    rows, columns = np.nonzero(np.ptp(rgb, axis=-1) > 10)
    assert (rows.min(), rows.max() + 1) == (10, 20)
    assert (columns.min() - 90, columns.max() + 1 - 90) == (60, 80)


def test_a_large_picture_has_a_small_preview(tmp_path):
    x_CHW = np.random.default_rng(0).integers(0, 200, (1, 900, 1400)).astype(np.uint16)
    write_picture_preview(tmp_path / "p.png", x_CHW, np.zeros((900, 1400), np.uint8))
    assert max(Image.open(tmp_path / "p.png").size) == 2 * PICTURE_PX
