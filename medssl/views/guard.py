"""Which changes make sense for which records, and views that fit none of the data.

- mirror: endoscopy, photographs and microscopy. Elsewhere left and right are told apart (organs,
  the side marker of a radiograph, left and right eyes, the view of an ultrasound scan) or the
  modality is unknown; asked for by name, it is done all the same.
- hue and saturation: pictures of three channels whose colour is seen by a camera, or of unknown
  origin. Not the colours that a machine paints (Doppler, fused PET).
- bias field: MR, whose coils receive unevenly.
- window: CT stored through a window of HU.
- all others: every record.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from medssl.core.errors import ConfigError
from medssl.core.sample import UNKNOWN
from medssl.core.viewspec import View, ViewSpec

_MIRROR_FREE = {"ES", "GM", "SM", "XC"}
_CAMERA = {*_MIRROR_FREE, "OP", UNKNOWN}


@dataclass(frozen=True)
class Levels:
    """What the stored values of a record mean.

    Attributes:
        zero: (C,) value where there is no signal.
        window_hu: ends of the window that became [0, 1]; ``None`` = no HU.
        receive_field: a smooth field multiplies the signal (MR).
        picture: channels are shown together, not measured apart as MR sequences are; several
            slices are the frames of a clip, and change alike.
        colour: the three channels are one colour.
    """

    zero: tuple[float, ...]
    window_hu: tuple[float, float] | None = None
    receive_field: bool = False
    picture: bool = False
    colour: bool = False


def levels_of(
    modality: str,
    zero: tuple[float, ...],
    window_hu: tuple[float, float] | None,
    *,
    picture: bool,
) -> Levels:
    """Of a record with as many channels as ``zero`` has values."""
    return Levels(
        zero=zero,
        window_hu=window_hu,
        receive_field=modality == "MR",
        picture=picture,
        colour=picture and _in_colour(modality, len(zero)),
    )


def may_mirror(flip: bool | None, modality: str) -> bool:
    """Whether views are mirrored: as asked for, else only where left and right are equal."""
    return modality in _MIRROR_FREE if flip is None else flip


def check_views(spec: ViewSpec, modalities: Collection[str], channels: int) -> None:
    """Refuse changes that fit none of the data: they would silently do nothing.

    Args:
        spec: views of the task.
        modalities: of all records that will be seen.
        channels: of the encoder's input.

    Raises:
        ConfigError: saying which change, and what the data are.
    """
    for view in spec.views:
        _check_intensity(view, modalities, channels)
    if spec.style and len(modalities) > 1:
        what = f"one style for records of {_names(modalities)}: their values mean different things"
        raise ConfigError(what, fix="choose one modality (--where), or leave style out")


def _check_intensity(view: View, modalities: Collection[str], channels: int) -> None:
    spec = view.intensity
    colours = bool(spec.hue) or spec.saturation != (1.0, 1.0)
    if colours and not any(_in_colour(one, channels) for one in modalities):
        what = f"hue or saturation for {_names(modalities)} with {channels} channels: no colour"
        raise ConfigError(what, fix="hue=0 and saturation=[1, 1]")
    if spec.window_jitter_hu and "CT" not in modalities:
        what = f"a window in HU for {_names(modalities)}: only CT has HU"
        raise ConfigError(what, fix="window_jitter_hu=0")
    if spec.bias_field and "MR" not in modalities:
        what = f"a bias field for {_names(modalities)}: only MR has one"
        raise ConfigError(what, fix="bias_field=0")


def _in_colour(modality: str, channels: int) -> bool:
    return channels == 3 and modality in _CAMERA


def _names(modalities: Collection[str]) -> str:
    return " and ".join(sorted(modalities))
