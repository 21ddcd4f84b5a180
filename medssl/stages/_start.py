"""What a fine-tuning begins with: the config's where it says so, else that of ``init``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from medssl.archive.labelled import Labelled
from medssl.core.config import Component
from medssl.core.errors import UsageError
from medssl.core.preprocess import Contract
from medssl.core.sample import UNKNOWN
from medssl.core.seeding import seed_everything
from medssl.encoders._base import Encoder, build_encoder, in_mm
from medssl.encoders.card import Card, load_card
from medssl.stages import _train
from medssl.stages._init import encoder_of

if TYPE_CHECKING:
    from medssl.stages.finetune import FinetuneConfig

# Where neither the user nor ``init`` names one.
_ENCODERS = {"volume": "resenc-xs", "image": "timm/resnet18"}
_PICTURE_CHANNELS = {1: ("grey",), 3: ("red", "green", "blue")}


@dataclass(frozen=True)
class Start:
    """An encoder with random weights, its input contract, and the cases as both see them.

    Attributes:
        part: the encoder's name and options, for the card.
    """

    part: Component
    encoder: Encoder
    contract: Contract
    labelled: Labelled


def begin(config: FinetuneConfig, labelled: Labelled) -> Start:
    """Settle encoder, contract and channels.

    Raises:
        UsageError: another encoder than that of ``init``, or one that takes volumes only.
    """
    card = load_card(config.init)[0] if config.init else None
    if card and labelled.modality == UNKNOWN:
        labelled = replace(labelled, modality=card.modality)
    part = _encoder_part(config, card, labelled)
    channels = card.in_channels if card and config.match_channels else len(labelled.channels)
    contract = _train.contract_of(config, channels)
    if card:  # what the config says goes before what the pretraining had
        contract = card.contract.model_copy(update=contract.model_dump(exclude_defaults=True))
    if labelled.kind == "image" and contract.picture_channels:
        labelled = replace(labelled, channels=_PICTURE_CHANNELS[contract.picture_channels])
    seed_everything(config.seed)
    encoder = build_encoder(part.name, part.options, len(labelled.channels))
    if labelled.kind == "image" and len(encoder.token_size) == 3:
        what = f"the encoder {part.name} takes volumes, the data set holds pictures"
        raise UsageError(what, fix=f"use an image encoder, e.g. encoder={_ENCODERS['image']}")
    return Start(part, encoder, contract, labelled)


def _encoder_part(config: FinetuneConfig, card: Card | None, labelled: Labelled) -> Component:
    if card:
        return encoder_of(config.encoder, card, config.spacing_mm)
    part = config.encoder or Component(name=_ENCODERS.get(labelled.kind, _ENCODERS["volume"]))
    return in_mm(part, config.spacing_mm)
