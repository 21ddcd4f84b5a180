"""What a fine-tuning begins with: the config's where it says so, else that of ``init``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from medssl.archive.labelled import Labelled
from medssl.archive.labelled_frames import LabelledFrames
from medssl.core.config import Component
from medssl.core.errors import UsageError
from medssl.core.geometry import Kind
from medssl.core.preprocess import Contract
from medssl.core.sample import UNKNOWN
from medssl.core.seeding import seed_everything
from medssl.core.viewspec import ClipSpec
from medssl.encoders._base import Encoder, build_encoder, in_mm
from medssl.encoders.card import Card, load_card
from medssl.heads._model import HeadConfig
from medssl.heads.classification import Config as ClassOptions
from medssl.heads.segmentation import Config as SegmentationOptions
from medssl.stages import _train
from medssl.stages._init import encoder_of, of_images

if TYPE_CHECKING:
    from medssl.stages.finetune import FinetuneConfig

# Where neither the user nor ``init`` names one.
_ENCODERS = {"volume": "resenc-xs", "image": "timm/resnet18", "clip": "video_vit-xs"}
_WORDS = {"volume": "volumes", "image": "pictures", "clip": "clips"}
# Shorter side of a video's frames for encoders of images, unless told.
FRAME_SIDE_PX = 224
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
        UsageError: another encoder than that of ``init``, or one that takes something else.
    """
    card = load_card(config.init)[0] if config.init else None
    if card and labelled.kind == "image":
        card = of_images(card)
    if card and labelled.modality == UNKNOWN:
        labelled = replace(labelled, modality=card.modality)
    part = _encoder_part(config, card, labelled)
    channels = card.in_channels if card and config.match_channels else len(labelled.channels)
    contract = _train.contract_of(config, channels)
    if card:  # what the config says goes before what the pretraining had
        contract = card.contract.model_copy(update=contract.model_dump(exclude_defaults=True))
    if labelled.kind != "volume" and contract.picture_channels:
        labelled = replace(labelled, channels=_PICTURE_CHANNELS[contract.picture_channels])
    seed_everything(config.seed)
    encoder = build_encoder(part.name, part.options, len(labelled.channels))
    _refuse_other_kind(part.name, encoder.kind, labelled.kind)
    return Start(part, encoder, contract, labelled)


def begin_videos(
    config: FinetuneConfig, labelled: Labelled, fps: float | None, side_px: int
) -> Start:
    """As :func:`begin`, for videos at ``fps``; ``side_px`` is of frames, where nobody says it."""
    start = begin(config, labelled)
    known = load_card(config.init)[0].contract if config.init else start.contract
    side = config.size_px or known.size_px or (known.short_side_px if config.init else None)
    contract = start.contract.model_copy(update={"fps": fps, "short_side_px": side or side_px})
    return replace(start, contract=contract)


def begin_records(
    config: FinetuneConfig, labelled: Labelled, options: HeadConfig
) -> tuple[Start, HeadConfig]:
    """What fits the data: volumes, pictures, clips or frames; also the head's options, settled."""
    if isinstance(options, ClassOptions) and labelled.kind == "clip":
        return _begin_clips(config, labelled, options)
    if isinstance(options, SegmentationOptions) and isinstance(labelled, LabelledFrames):
        return begin_videos(config, labelled, options.fps, FRAME_SIDE_PX), options
    return begin(config, labelled), options


def _begin_clips(
    config: FinetuneConfig, labelled: Labelled, options: ClassOptions
) -> tuple[Start, ClassOptions]:
    """Rate and clips are those of the options, else of ``init``, else of every pretraining."""
    card = load_card(config.init)[0] if config.init else None
    fps = options.fps or (card.contract.fps if card else _train.CLIP_FPS)
    clip = options.clip or (card.clip if card else None) or ClipSpec()
    start = begin_videos(config, labelled, fps, _train.SHORT_SIDE_PX)
    return start, options.model_copy(update={"clip": clip})


def _refuse_other_kind(name: str, takes: Kind, holds: Kind) -> None:
    """Clips are for encoders of clips alone, pictures for those of images; slices are pictures."""
    if takes == holds or (takes, holds) == ("image", "volume"):
        return
    what = f"the encoder {name} takes {_WORDS[takes]}, the data set holds {_WORDS[holds]}"
    other = f"frames/{name}" if (takes, holds) == ("image", "clip") else _ENCODERS[holds]
    raise UsageError(what, fix=f"use an encoder of {_WORDS[holds]}, e.g. encoder={other}")


def _encoder_part(config: FinetuneConfig, card: Card | None, labelled: Labelled) -> Component:
    if card:
        return encoder_of(config.encoder, card, config.spacing_mm)
    part = config.encoder or Component(name=_ENCODERS.get(labelled.kind, _ENCODERS["volume"]))
    return in_mm(part, config.spacing_mm)
