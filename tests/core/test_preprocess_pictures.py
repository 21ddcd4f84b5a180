"""Pictures under the preprocessing contract: intensities, channels, size, and the way back."""

import numpy as np
import pytest
from PIL import Image

from medssl.core.errors import ReadError
from medssl.core.geometry import Geometry
from medssl.core.preprocess import Contract, as_channels, prepare, prepare_labels, restore_labels

UNKNOWN_PX = Geometry(kind="image")
FINE_MM = Geometry(kind="image", spacing_mm=(0.2, 0.1))


def picture(shape=(3, 40, 60), seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_a_picture_is_one_slice_without_a_place():
    prepared = prepare(picture(), UNKNOWN_PX, "ES", Contract())
    assert prepared.array.shape == (3, 1, 40, 60)
    assert (prepared.affine, prepared.spacing_mm) == (None, None)


@pytest.mark.parametrize("modality", ["ES", "XC", "unknown", "OT"])
def test_levels_of_8_bit_pictures_keep_their_meaning(modality):
    x = picture()
    prepared = prepare(x, UNKNOWN_PX, modality, Contract())
    np.testing.assert_allclose(prepared.array[:, 0], x / 255, atol=1e-3)


def test_colours_keep_their_ratio_where_a_channel_is_constant():
    x = picture()
    x[2] = 7
    prepared = prepare(x, UNKNOWN_PX, "unknown", Contract())
    np.testing.assert_allclose(prepared.array[2], 7 / 255, atol=1e-4)


def test_radiographs_of_any_gain_are_one():
    x = np.random.default_rng(0).integers(0, 4096, (1, 50, 50)).astype(np.uint16)
    one, other = (prepare(k * x, UNKNOWN_PX, "DX", Contract()).array for k in (1, 3))
    np.testing.assert_allclose(one, other, atol=2e-3)


def test_12_bits_of_unknown_origin_fill_the_range():
    x = np.random.default_rng(0).integers(0, 4096, (1, 50, 50)).astype(np.uint16)
    prepared = prepare(x, UNKNOWN_PX, "unknown", Contract())
    assert prepared.array.std() == pytest.approx(1, abs=0.01)


def test_padding_of_a_bright_picture_is_black_and_no_tissue():
    x = np.maximum(picture(), 100)
    prepared = prepare(x, UNKNOWN_PX, "ES", Contract())
    assert prepared.fill == (0.0, 0.0, 0.0)
    assert all(fill <= air for fill, air in zip(prepared.fill, prepared.air, strict=True))


@pytest.mark.parametrize("value", [0, 255])
def test_a_constant_picture_is_refused(value):
    with pytest.raises(ReadError) as caught:
        prepare(np.full((3, 8, 8), value, np.uint8), UNKNOWN_PX, "ES", Contract())
    assert caught.value.reason == "constant"


def test_nan_is_refused():
    x = np.ones((1, 8, 8), np.float32)
    x[0, 3, 3] = np.nan
    with pytest.raises(ReadError) as caught:
        prepare(x, UNKNOWN_PX, "DX", Contract())
    assert caught.value.reason == "nan_voxels"


@pytest.mark.parametrize(
    ("shape", "wanted"), [((40, 60), (20, 30)), ((90, 41), (44, 20)), ((5, 11), (20, 44))]
)
def test_size_px_is_the_shorter_side(shape, wanted):
    prepared = prepare(picture((1, *shape)), UNKNOWN_PX, "ES", Contract(size_px=20))
    assert prepared.array.shape[2:] == wanted


def test_shrinking_averages_like_a_box():
    # A checkerboard of single pixels is grey from afar: without a low pass it would be stripes.
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    prepared = prepare(board[None], UNKNOWN_PX, "ES", Contract(size_px=9))
    inner = prepared.array[0, 0, 1:-1, 1:-1]
    np.testing.assert_allclose(inner, 0.5, atol=0.02)


def test_spacing_follows_the_scale():
    prepared = prepare(picture((1, 40, 60)), FINE_MM, "DX", Contract(size_px=20))
    assert prepared.spacing_mm == pytest.approx((0.4, 0.2))


def test_pictures_of_known_spacing_are_resampled_to_the_contract():
    prepared = prepare(picture((1, 40, 60)), FINE_MM, "DX", Contract(spacing_mm=(5.0, 0.4, 0.4)))
    assert prepared.array.shape == (1, 1, 20, 15)
    assert prepared.spacing_mm == pytest.approx((0.4, 0.4))


def test_a_spacing_is_never_invented():
    with pytest.raises(ReadError) as caught:
        prepare(picture(), UNKNOWN_PX, "ES", Contract(spacing_mm=(1.0, 1.0, 1.0)))
    assert caught.value.reason == "spacing_unknown"


def test_luminance_is_pillows():
    x = picture()
    golden = np.asarray(Image.fromarray(np.moveaxis(x, 0, -1)).convert("L"))
    np.testing.assert_allclose(as_channels(x.astype(np.float32), 1)[0], golden, atol=1)


def test_grey_is_copied():
    x = picture((1, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(as_channels(x, 3), np.repeat(x, 3, 0))


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_no_colour(channels):
    with pytest.raises(ReadError) as caught:
        prepare(picture((channels, 8, 8)), UNKNOWN_PX, "ES", Contract(picture_channels=3))
    assert caught.value.reason == "channel_mismatch"


@pytest.mark.parametrize("shape", [(40, 60), (33, 17), (1, 50)])
@pytest.mark.parametrize("size_px", [None, 8, 70])
def test_scores_come_back_at_the_size_of_the_picture(shape, size_px):
    contract = Contract(size_px=size_px)
    prepared = prepare(picture((1, *shape)), UNKNOWN_PX, "ES", contract)
    scores = np.zeros((2, *prepared.array.shape[1:]), np.float32)
    scores[1] = 1
    assert (restore_labels(scores, prepared) == np.ones((1, *shape))).all()


def test_labels_lie_on_the_grid_of_their_picture():
    labels = np.zeros((1, 40, 60), np.uint8)
    labels[:, 10:30, 20:40] = 2
    on_grid = prepare_labels(labels, UNKNOWN_PX, Contract(size_px=20))
    golden = np.zeros((1, 20, 30))
    golden[:, 5:15, 10:20] = 2
    np.testing.assert_array_equal(on_grid, golden)
