"""Masks as pictures: values as stored, palettes, lossy coding, and what is no label map."""

import numpy as np
import pytest
from PIL import Image

from medssl.core.errors import ReadError
from medssl.readers._mask import THRESHOLDED, read_mask


def disk(shape=(60, 80), value=255):
    inside = ((np.indices(shape) - np.array(shape)[:, None, None] / 2) ** 2).sum(0) < 400
    return (value * inside).astype(np.uint8)


def save(tmp_path, image, name="m.png", **options):
    path = tmp_path / name
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path, **options)
    return path


@pytest.mark.parametrize("value", [1, 7, 255])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_values_are_labels(tmp_path, value, ending):
    labels, flags = read_mask(save(tmp_path, disk(value=value), f"m.{ending}"))
    np.testing.assert_array_equal(labels, disk(value=value))
    assert flags == ()


def test_a_palette_is_its_numbers(tmp_path):
    image = Image.fromarray(disk(value=2)).convert("P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    labels, _ = read_mask(save(tmp_path, image))
    assert set(np.unique(labels)) == {0, 2}


def test_bits_are_0_and_1(tmp_path):
    labels, _ = read_mask(save(tmp_path, Image.fromarray(disk()).convert("1")))
    assert set(np.unique(labels)) == {0, 1}


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_equal_channels_are_one(tmp_path, mode):
    labels, _ = read_mask(save(tmp_path, Image.fromarray(disk()).convert(mode)))
    np.testing.assert_array_equal(labels, disk())


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("quality", [30, 75, 95])
def test_jpeg_is_cut_at_half_and_says_so(tmp_path, mode, quality):
    path = save(tmp_path, Image.fromarray(disk()).convert(mode), "m.jpg", quality=quality)
    assert len(np.unique(np.asarray(Image.open(path)))) > 2
    labels, flags = read_mask(path)
    np.testing.assert_array_equal(labels, disk())
    assert flags == (THRESHOLDED,)


def test_jpeg_of_three_labels_is_refused(tmp_path):
    labels = disk()
    labels[:, :40] //= 2
    assert reason(save(tmp_path, labels, "m.jpg")) == "soft_label"


def test_colours_are_refused(tmp_path):
    colour = np.stack([disk(), 0 * disk(), 0 * disk()], -1)
    assert reason(save(tmp_path, colour)) == "colour_label"


def test_soft_edges_are_refused(tmp_path):
    soft = Image.fromarray(disk((300, 300))).resize((290, 290), Image.Resampling.BICUBIC)
    assert reason(save(tmp_path, soft)) == "soft_label"


def test_more_than_a_byte_is_refused(tmp_path):
    assert reason(save(tmp_path, disk().astype(np.uint16) * 4)) == "unknown_label_values"


def test_three_levels_of_a_png_are_three_labels(tmp_path):
    labels = disk()
    labels[:, :40] //= 2
    found, flags = read_mask(save(tmp_path, labels))
    assert (set(np.unique(found)), flags) == ({0, 127, 255}, ())


def test_half_a_file(tmp_path):
    path = save(tmp_path, np.random.default_rng(0).integers(0, 2, (90, 90)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:200])
    assert reason(path) == "truncated"


def reason(path):
    with pytest.raises(ReadError) as caught:
        read_mask(path)
    return caught.value.reason
