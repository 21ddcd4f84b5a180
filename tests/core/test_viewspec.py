"""Ranges that make no sense are refused when a view is asked for."""

import pytest
from pydantic import ValidationError

from medssl.core.viewspec import (
    ClipSpec,
    Intensity,
    MaskSpec,
    Setting,
    Spatial,
    TargetSpec,
    View,
    ViewSpec,
)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Spatial, {"scale": (1.2, 0.8)}),
        (Spatial, {"scale": (0.0, 1.0)}),
        (Spatial, {"rotate_deg": -5}),
        (Spatial, {"elastic_mm": -1}),
        (Intensity, {"gamma": (0.0, 1.0)}),
        (Intensity, {"blur": (-1.0, 1.0)}),
        (Intensity, {"low_resolution": (0.0, 1.0)}),
        (Intensity, {"probability": 1.5}),
        (MaskSpec, {"token_size": (4,), "ratio": (0.8, 0.2)}),
        (MaskSpec, {"token_size": (4,), "ratio": (0.5, 1.2)}),
        (ViewSpec, {"views": (), "style": (0.5, 0.1)}),
        (ViewSpec, {"views": (), "overlap": 1.1}),
        (ClipSpec, {"stride_ms": (0.0, 40.0)}),
        (ClipSpec, {"stride_ms": (80.0, 40.0)}),
        (ClipSpec, {"short": "crash"}),
    ],
)
def test_ranges_without_sense_are_refused(kind, values):
    with pytest.raises(ValidationError):
        kind(**values)


TUBES = MaskSpec(token_size=(2, 8, 8), kind="tube")
FULL_TIME = TargetSpec(token_size=(2, 8, 8), full_time=True)


@pytest.mark.parametrize("more", [{"mask": TUBES}, {"targets": FULL_TIME}, {"twin": True}])
def test_clips_may_be_masked_through_time(more):
    view = View(crop=(16, 64, 64), **more)
    assert ViewSpec(views=(view,), clip=ClipSpec()).views == (view,)


@pytest.mark.parametrize(
    ("view", "spec"),
    [
        ({"mask": TUBES}, {}),
        ({"targets": FULL_TIME}, {}),
        ({"crop": (64, 64)}, {"clip": ClipSpec()}),
        ({"tiles": (1, 2, 2)}, {"clip": ClipSpec()}),
        ({"segments": 8}, {"clip": ClipSpec()}),
        ({}, {"clip": ClipSpec(), "partitions": 3}),
        ({}, {"clip": ClipSpec(), "foreground": 0.5}),
        ({"crop": (64, 64)}, {"clip": ClipSpec(), "stack": 4}),
    ],
)
def test_what_makes_no_sense_for_clips_is_refused(view, spec):
    with pytest.raises(ValidationError, match=r"clip|stack"):
        ViewSpec(views=(View(**{"crop": (16, 64, 64), **view}),), **spec)


def test_three_axes_are_a_volume_unless_they_are_said_to_be_a_clip():
    assert Setting(crop=(16, 64, 64), records=1).kind == "volume"
    assert Setting(crop=(64, 64), records=1).kind == "image"
    assert Setting(crop=(16, 64, 64), records=1, kind="clip").kind == "clip"


def test_only_clips_are_told_which_frames_to_show():
    clip = ClipSpec(stride_ms=(33.0, 99.0))
    asked = {"crop": (16, 64, 64), "records": 1, "clip": clip}
    assert Setting(**asked, kind="clip").frames == clip
    assert Setting(**asked).frames is None
