"""The OpenCV and albumentations side: same values as SciPy, offline, loaded for pictures only."""

import numpy as np
import pytest
from scipy import ndimage

from medssl.views import pictures
from tests.support import ROOT, fresh_python

PICTURE = np.random.default_rng(0).random((3, 40, 50), dtype=np.float32)
LOADED = "import sys; print([name for name in ('cv2', 'albumentations') if name in sys.modules])"
BUILD = """
import numpy as np
from tests.views.sources import one_view, source
from medssl.core.viewspec import Intensity, Spatial
colour = Intensity(hue=0.1, saturation=(0.5, 0.9), probability=1.0)
picture = np.random.default_rng(0).random((3, 1, 40, 40), dtype=np.float32)
"""


def test_sampling_equals_scipy():
    rows, columns = np.random.default_rng(1).uniform(-5, 55, (2, 30, 30)).astype(np.float32)
    wanted = [ndimage.map_coordinates(x, [rows, columns], order=1, mode="nearest") for x in PICTURE]
    np.testing.assert_allclose(pictures.sample(PICTURE, rows, columns), wanted, atol=1e-5)


@pytest.mark.parametrize("sigma", [(1.0, 1.0), (0.5, 2.0), (0.0, 1.0), (1.0, 0.0)])
def test_blur_equals_scipy(sigma):
    wanted = [ndimage.gaussian_filter(x, sigma, mode="nearest") for x in PICTURE]
    np.testing.assert_allclose(pictures.blur(PICTURE, *sigma), wanted, atol=2e-3)


def test_low_resolution_by_two_has_the_means_of_blocks():
    blocks = PICTURE.reshape(3, 20, 2, 25, 2).mean((2, 4))
    coarse = pictures.low_resolution(PICTURE, 2.0).reshape(3, 20, 2, 25, 2).mean((2, 4))
    smooth = [ndimage.convolve(x, np.outer([1, 6, 1], [1, 6, 1]) / 64, mode="nearest")
              for x in blocks]  # fmt: skip
    np.testing.assert_allclose(coarse, smooth, atol=1e-5)


def test_colour_is_replayed_by_its_seed():
    one, again = (pictures.colour(PICTURE, 0.1, 0.7, seed=5) for _ in range(2))
    assert np.array_equal(one, again)


@pytest.mark.parametrize(("record", "loaded"), [
    ("one_view(0, source(), spatial=Spatial(rotate_deg=9), intensity=colour)", []),
    ("one_view(0, source(picture), crop=(8, 8), spatial=Spatial(rotate_deg=9))", ["cv2"]),
])  # fmt: skip
def test_volumes_are_changed_without_the_picture_libraries(record, loaded):
    assert fresh_python(f"{BUILD}{record}\n{LOADED}").strip() == str(loaded)


def test_changing_colours_asks_no_network(offline):
    code = f"{BUILD}one_view(0, source(picture, modality='ES'), crop=(8, 8), intensity=colour)\n"
    done = offline.run("-c", code + LOADED)
    assert "albumentations" in done.stdout
    assert offline.attempts() == []


def test_one_module_imports_the_picture_libraries():
    words = ("import cv2", "import albumentations", "from cv2", "from albumentations")
    files = [
        file.relative_to(ROOT).as_posix()
        for folder in ("medssl", "pipelines", "examples")
        for file in (ROOT / folder).rglob("*.py")
        if any(word in file.read_text() for word in words)
    ]
    assert files == ["medssl/views/pictures.py"]
