"""Still images: values as stored, no invented spacing, never half an image."""

import numpy as np
import pytest
from PIL import Image

from medssl.core.errors import ReadError
from medssl.readers._read import read

RGB = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_lossless_files_read_back_channel_first(tmp_path, suffix):
    Image.fromarray(RGB).save(tmp_path / f"x.{suffix}", dpi=(72, 72))
    sample = read(tmp_path / f"x.{suffix}")
    np.testing.assert_array_equal(sample.array, RGB.transpose(2, 0, 1))
    assert (sample.kind, sample.geometry.spacing_mm) == ("image", None)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_images_have_one_channel_and_keep_their_depth(tmp_path, dtype):
    grey = (RGB[..., 0].astype(dtype) * (np.iinfo(dtype).max // 255)).astype(dtype)
    Image.fromarray(grey).save(tmp_path / "x.png")
    sample = read(tmp_path / "x.png")
    assert sample.array.dtype == dtype
    np.testing.assert_array_equal(sample.array[0], grey)


def test_a_palette_becomes_its_colours(tmp_path):
    Image.fromarray(RGB).quantize(16).save(tmp_path / "x.png")
    expected = np.asarray(Image.open(tmp_path / "x.png").convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(read(tmp_path / "x.png").array, expected)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_half_an_image_is_refused(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(np.repeat(RGB, 20, axis=0)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ReadError) as caught:
        _ = read(path).array
    assert caught.value.reason in {"truncated", "corrupt", "not_image"}


@pytest.mark.parametrize(("content", "reason"), [(b"", "empty_file"), (b"hello", "not_image")])
def test_what_is_no_image_says_so(tmp_path, content, reason):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(ReadError) as caught:
        read(tmp_path / "x.png")
    assert caught.value.reason == reason


def test_several_pages_are_refused(tmp_path):
    pages = [Image.fromarray(RGB) for _ in range(3)]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ReadError) as caught:
        read(tmp_path / "x.tif")
    assert caught.value.reason == "unsupported_multiframe"
