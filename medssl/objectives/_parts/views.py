"""Views that several objectives ask for, with options a user may change."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from medssl.core.config import Config
from medssl.core.errors import ConfigError
from medssl.core.viewspec import Intensity, Setting, Share, Spatial, View, ViewSpec

# Gentle: grey values and texture are the signal (nnssl's ranges; no solarising, no hue).
GENTLE = Intensity(
    gamma=(0.7, 1.5),
    brightness=0.3,
    contrast=(0.75, 1.25),
    noise=0.1,
    blur=(0.5, 1.0),
    low_resolution=(1.0, 2.0),
    probability=0.5,
    noise_probability=0.2,
)


_NOISY = GENTLE.model_copy(update={"noise_probability": 0.5})


def over_the_defaults(cls: type[Config], value: Any, info: ValidationInfo) -> Any:
    """One number given, as ``views.spatial.rotate_deg=5``, leaves the others as they are."""
    if not isinstance(value, dict):
        return value
    return {**cls.model_fields[str(info.field_name)].default.model_dump(), **value}


class ViewOptions(Config):
    """How strongly two views of one sample differ."""

    spatial: Spatial = Spatial(rotate_deg=10.0, scale=(0.8, 1.25))
    """Rotation, zoom, bending, flips."""
    intensity: Intensity = GENTLE
    """Grey values."""
    overlap: float = Field(default=0.5, ge=0, le=1)
    """Smallest share of a view, per axis, that the first view shows too: below it, two views of
    one sample show different anatomy."""
    style: Share | None = None
    """Batch style standardisation (Scalbert et al. 2023): all samples of a step share the low
    frequencies of one of them, so that scanner and site cannot tell them apart."""

    _partly = field_validator("spatial", "intensity", mode="before")(over_the_defaults)


class ExactViews(ViewOptions):
    """Two views of one place: bending is no part of ``place``, so there is none."""

    spatial: Spatial = Spatial(rotate_deg=10.0, scale=(0.8, 1.2))
    """Rotation, zoom, flips."""
    intensity: Intensity = _NOISY
    """Grey values."""

    @field_validator("spatial")
    @classmethod
    def _places_are_exact(cls, spatial: Spatial) -> Spatial:
        if spatial.elastic_mm:
            raise ValueError("elastic_mm has to be 0: matching places would be wrong by the bend")
        return spatial


class StackOptions(Config):
    """How two stacks of one volume differ; all slices of a stack are cut and changed alike."""

    spatial: Spatial = Spatial(rotate_deg=10.0, scale=(0.8, 1.25))
    """Rotation, zoom, bending, flips in the plane."""
    intensity: Intensity = GENTLE
    """Grey values."""
    overlap: float = Field(default=0.5, ge=0, le=1)
    """Smallest share of a view that the first one shows too, per axis: pixels and slices."""

    _partly = field_validator("spatial", "intensity", mode="before")(over_the_defaults)


def pair_of_views(options: ViewOptions, setting: Setting, *, count: int = 2) -> ViewSpec:
    """``count`` full-size views of one place."""
    view = View(
        crop=setting.crop, count=count, spatial=options.spatial, intensity=options.intensity
    )
    return ViewSpec(
        views=(view,),
        overlap=options.overlap,
        min_tissue=0.2,
        style=style_of(options, setting),
        clip=setting.frames,
    )


def style_of(options: ViewOptions, setting: Setting) -> Share | None:
    """The option, where the data can have it.

    Raises:
        ConfigError: clips have none.
    """
    if options.style and setting.frames:
        what = "the samples of a step cannot share the style of their clips"
        raise ConfigError(what, fix="objective.views.style=null")
    return options.style
