"""Start from the weights of another run."""

from __future__ import annotations

import json
from pathlib import Path

from medssl.core.config import Component
from medssl.core.errors import UsageError
from medssl.core.taskmodule import TaskModule
from medssl.encoders._adapter import PREFIX
from medssl.encoders._base import Decoder, Encoder, in_mm
from medssl.encoders._input import adapt_input
from medssl.encoders.card import Card, load_card, part_of
from medssl.encoders.frame_vit import options_of
from medssl.objectives._parts.frozen import Frozen
from medssl.training.checkpoint import load_newest

# Image encoders on frames are called so, and what follows is the image encoder.
FRAMES = "frames/"
# discovr's encoder of single frames, beside that of clips.
IMAGE_BRANCH = "image_encoder"
# Options that add weights to those of a run.
_ADDING = {"adapter"}


def encoder_of(
    asked: Component | None, card: Card, spacing_mm: tuple[float, ...] | None
) -> Component:
    """The encoder of a run, for data of this spacing.

    Raises:
        UsageError: another one was asked for, or other options.
    """
    if asked and asked.name != card.encoder.name:
        what = f"--encoder {asked.name}, but --init holds {card.encoder.name}"
        raise UsageError(what, fix=f"--encoder {card.encoder.name}")
    own = card.encoder.options
    given = asked.options if asked else {}
    added = {key: given[key] for key in _ADDING & given.keys() if not own.get(key)}
    told = json.loads(json.dumps(given))  # as cards have it: tuples are lists
    other = [key for key in told if key not in added and (key not in own or own[key] != told[key])]
    if other:
        what = f"encoder options {other} are not those of --init"
        raise UsageError(what, fix="leave them out: --init brings its own")
    if spacing_mm:
        own = {key: value for key, value in own.items() if key != "spacing_mm"}
    return in_mm(Component(name=card.encoder.name, **{**own, **added}), spacing_mm)


def of_images(card: Card) -> Card:
    """The card of the image encoder in a run of ``frames/<image encoder>`` or of discovr.

    Others as they are.
    """
    if card.encoder.name.startswith(FRAMES):
        options = card.encoder.options.get("image", {})
        part = Component(name=card.encoder.name.removeprefix(FRAMES), **options)
    elif IMAGE_BRANCH in card.parts:
        name = card.encoder.name.replace("video_vit", "frame_vit")
        part = Component(name=name, **options_of(card.encoder.options))
    else:
        return card
    return card.model_copy(update={"encoder": part})


def load_init(encoder: Encoder, decoder: Decoder | None, run: Path) -> dict[str, int]:
    """Start from a run's weights: the encoder strictly, of a decoder all but the last layer.

    An encoder of images takes the image encoder of ``frames/<image encoder>`` and of discovr.
    Adapters that the run does not have keep their start, at which they change nothing.

    Raises:
        UsageError: if the encoders differ.
    """
    card, weights = load_card(run)
    own = part_of(weights, "encoder")
    if encoder.kind == "image" and card.encoder.name.startswith(FRAMES):
        own = part_of(own, "image")
    elif encoder.kind == "image" and IMAGE_BRANCH in card.parts:
        own = {f"net.{key}": value for key, value in part_of(weights, IMAGE_BRANCH).items()}
    adapted = adapt_input(own, encoder)
    own_adapters = {k: v for k, v in encoder.state_dict().items() if k.startswith(PREFIX)}
    try:
        encoder.load_state_dict({**own_adapters, **adapted}, strict=True)
    except RuntimeError:
        fix = f"encoder={card.encoder.name}"
        raise UsageError("--init holds another encoder", where=str(run), fix=fix) from None
    if decoder is None:
        return {"encoder_tensors": len(adapted), "decoder_tensors": 0}
    own = decoder.state_dict()
    fitting = {
        key: value
        for key, value in part_of(weights, "decoder").items()
        if key in own and own[key].shape == value.shape and not key.startswith(decoder.last_layer)
    }
    decoder.load_state_dict(fitting, strict=False)
    return {"encoder_tensors": len(adapted), "decoder_tensors": len(fitting)}


def load_objective(task: TaskModule, name: str, run: Path) -> int:
    """Weights beside the encoder's, where the run has the same objective and they fit; how many.

    They lie in checkpoints only: a model folder has none. Queues, banks and clocks start anew, and
    frozen teachers are those that this run names.
    """
    found = load_newest(run / "checkpoints")
    if found is None or not found[0].get("recipe"):
        return 0
    if json.loads(found[0]["recipe"])["objective"]["name"] != name:
        return 0
    teachers = frozen_weights(task)
    own = {key: weight for key, weight in task.named_parameters() if key not in teachers}
    fitting = {
        key: value
        for key, value in found[0]["task"].items()
        if key in own and own[key].shape == value.shape and not key.startswith("encoder.")
    }
    task.load_state_dict(fitting, strict=False)
    return len(fitting)


def frozen_weights(task: TaskModule) -> set[str]:
    """Names of what stays as another run left it: the state of teachers that do not learn."""
    return {
        f"{name}.{key}"
        for name, module in task.named_modules()
        if isinstance(module, Frozen)
        for key in module.state_dict()
    }
