"""Which changes fit which modality."""

import numpy as np
import pytest

from medssl.core.errors import ConfigError
from medssl.core.viewspec import Intensity, Spatial, View, ViewSpec
from medssl.views.guard import check_views, levels_of, may_mirror
from tests.views.sources import one_view, source


def spec(style=None, **intensity):
    view = View(crop=(8, 8), intensity=Intensity(probability=1.0, **intensity))
    return ViewSpec(views=(view,), style=style)


@pytest.mark.parametrize("modality", ["CT", "MR", "US", "DX", "OP", "unknown"])
def test_left_and_right_are_kept_unless_asked_otherwise(modality):
    assert not may_mirror(None, modality)
    assert may_mirror(True, modality)


@pytest.mark.parametrize("modality", ["ES", "XC", "GM", "SM"])
def test_endoscopy_and_photographs_are_mirrored_unless_asked_otherwise(modality):
    assert may_mirror(None, modality)
    assert not may_mirror(False, modality)


@pytest.mark.parametrize(("modality", "mirrored"), [("ES", True), ("CT", False)])
def test_views_follow_the_laterality_rule(modality, mirrored):
    places = [
        one_view(seed, source(modality=modality), spatial=Spatial())["place"] for seed in range(20)
    ]
    assert (min(np.linalg.det(place[:, :3]) for place in places) < 0) == mirrored


@pytest.mark.parametrize(
    ("change", "modalities", "channels"),
    [
        ({"hue": 0.1}, {"CT"}, 1),
        ({"hue": 0.1}, {"US"}, 3),
        ({"hue": 0.1}, {"ES"}, 1),
        ({"saturation": (0.8, 1.2)}, {"MR", "CT"}, 1),
        ({"window_jitter_hu": 50}, {"MR"}, 1),
        ({"bias_field": 0.3}, {"CT", "US"}, 1),
        ({"style": (0.1, 0.2)}, {"CT", "MR"}, 1),
    ],
)
def test_changes_that_fit_none_of_the_data_are_refused_before_training(
    change, modalities, channels
):
    with pytest.raises(ConfigError) as error:
        check_views(spec(**change), modalities, channels)
    assert all(modality in error.value.what for modality in modalities)
    assert error.value.fix


@pytest.mark.parametrize(
    ("change", "modalities", "channels"),
    [
        ({"hue": 0.1}, {"ES", "CT"}, 3),
        ({"hue": 0.1}, {"unknown"}, 3),
        ({"window_jitter_hu": 50}, {"CT", "MR"}, 1),
        ({"bias_field": 0.3}, {"MR"}, 2),
        ({"gamma": (0.7, 1.5), "noise": 0.1}, {"US"}, 1),
        ({"style": (0.1, 0.2)}, {"MR"}, 1),
    ],
)
def test_changes_that_fit_some_of_the_data_are_accepted(change, modalities, channels):
    check_views(spec(**change), modalities, channels)


def test_levels_follow_modality_channels_and_form():
    assert levels_of("MR", (0.0,), None, picture=False).receive_field
    assert levels_of("ES", (0.0,) * 3, None, picture=True).colour
    assert not levels_of("ES", (0.0,) * 3, None, picture=False).colour  # sequences of a volume
    assert not levels_of("US", (0.0,) * 3, None, picture=True).colour  # Doppler is painted
