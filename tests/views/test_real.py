"""Views of real scans and pictures."""

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from medssl.core.geometry import Geometry
from medssl.core.preprocess import Contract, prepare
from medssl.core.viewspec import Intensity, Spatial, View
from medssl.objectives._parts.views import GENTLE
from tests.views.sources import grid_of, in_record, in_view, source, views_of

pytestmark = pytest.mark.real
TURNED = Spatial(rotate_deg=10, scale=(0.8, 1.25), flip=True)


def hippocampus(folder):
    image = nib.load(next(iter(sorted((folder / "hippocampus" / "imagesTr").glob("[!.]*.nii.gz")))))
    array = np.asarray(image.dataobj, dtype=np.float32).transpose(2, 1, 0)[None]
    prepared = prepare(array, Geometry.of_volume(image.affine), "MR", Contract())
    return source(
        prepared.array.astype(np.float32), spacing_mm=prepared.spacing_mm, air=prepared.air,
        fill=prepared.fill, modality="MR",
    )  # fmt: skip


def polyp(folder):
    path = next(iter(sorted((folder / "polyps" / "images").iterdir())))
    picture = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255
    return source(picture.transpose(2, 0, 1)[:, None], air=(0.0,) * 3, fill=(0.0,) * 3,
                  modality="ES")  # fmt: skip


@pytest.mark.parametrize(("record", "crop"), [(hippocampus, (24, 32, 24)), (polyp, (128, 128))])
def test_two_views_show_the_same_where_they_overlap(medssl_data, record, crop):
    data = record(medssl_data)
    for seed in range(5):
        first, other = views_of(seed, data, View(crop=crop, count=2, spatial=TURNED), overlap=0.5)
        points, size = grid_of(first)
        places = in_view(other["place"], in_record(first["place"], points))
        inside = ((places >= 0) & (places <= np.array(grid_of(other)[1]) - 1)).all(1)
        there = other["x"][0].reshape(grid_of(other)[1])
        shown = ndimage.map_coordinates(there, places[inside].T, order=1)
        assert inside.mean() > 0.5 ** len(crop)
        assert np.corrcoef(shown, first["x"][0].ravel()[inside])[0, 1] > 0.95


@pytest.mark.parametrize(("record", "crop"), [(hippocampus, (24, 32, 24)), (polyp, (128, 128))])
def test_gentle_views_differ_yet_stay_alike(medssl_data, record, crop):
    data = record(medssl_data)
    for seed in range(10):
        plain, gentle = (
            views_of(seed, data, View(crop=crop, intensity=kind))[0]["x"]
            for kind in (Intensity(), GENTLE.model_copy(update={"probability": 1.0}))
        )
        assert not np.array_equal(plain, gentle)
        assert np.corrcoef(plain.ravel(), gentle.ravel())[0, 1] > 0.9
