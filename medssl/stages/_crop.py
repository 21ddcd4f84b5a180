"""The crop of a pretraining that is given none: as large as the records, or as fits in them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from medssl.core.config import validate
from medssl.core.registry import OBJECTIVES
from medssl.core.viewspec import Setting, ViewSpec
from medssl.encoders._base import Encoder
from medssl.stages._data import Shaped, auto_crop

if TYPE_CHECKING:
    from medssl.stages.pretrain import PretrainConfig


def crop_of(config: PretrainConfig, encoder: Encoder, entries: Sequence[Shaped]) -> tuple[int, ...]:
    """The automatic crop; where the objective puts crops side by side, so many fit in a record.

    Raises:
        ConfigError: objective, encoder and crop do not fit together.
    """
    crop = auto_crop(entries, encoder)
    tiles = tiles_of(views_asked(config, encoder, crop, len(entries)))
    return auto_crop(entries, encoder, tiles) if tiles else crop


def tiles_of(spec: ViewSpec) -> tuple[int, ...]:
    """Crops side by side along each axis; empty = every view is alone."""
    return next((view.tiles for view in spec.views if view.tiles), ())


def views_asked(
    config: PretrainConfig, encoder: Encoder, crop: tuple[int, ...], records: int
) -> ViewSpec:
    """What the objective asks for; encoder and random numbers stay as they are.

    Raises:
        ConfigError: objective, encoder and crop do not fit together.
    """
    part = config.objective
    module, _ = OBJECTIVES.module(part.name)
    options = validate(module.Config, part.options, where=f"objective {part.name}")
    setting = Setting(crop=crop, records=records, kind=encoder.kind, clip=config.clip)
    with torch.random.fork_rng(devices=[]):
        spec: ViewSpec = module.Objective(copy.deepcopy(encoder), options, setting).views()
    return spec
