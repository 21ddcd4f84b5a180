"""Ranges that make no sense are refused when a view is asked for."""

import pytest
from pydantic import ValidationError

from medssl.core.viewspec import Intensity, MaskSpec, Spatial, ViewSpec


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
    ],
)
def test_ranges_without_sense_are_refused(kind, values):
    with pytest.raises(ValidationError):
        kind(**values)
