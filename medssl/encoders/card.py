"""The card: what a checkpoint says of itself, and weights that reload from it strictly."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from medssl import __version__
from medssl.core.config import Component, Config, Versioned
from medssl.core.errors import MedsslError, UsageError
from medssl.core.geometry import Plane
from medssl.core.preprocess import Contract
from medssl.core.runlog import write_bytes, write_text
from medssl.core.viewspec import ClipSpec
from medssl.encoders._base import Encoder, build_encoder


class Calibration(Config):
    """What the validation cases of a fine-tuning say of its probabilities."""

    temperature: float
    """Of :func:`medssl.evaluation.calibration.temper`."""
    fitted: bool = True
    """Whether there is a best temperature; not where every validation case is right."""
    quality: tuple[float, ...]
    """Of each case, see :mod:`medssl.evaluation.refusal`; as sure as the model is."""
    score: tuple[float, ...]
    """What the quality foretells: mean Dice, or share right."""
    never_absent: tuple[bool, ...] = ()
    """Segmentation: labels that every case has."""


class Card(Versioned):
    """Architecture, input contract and origin of one set of weights."""

    medssl: str = __version__
    encoder: Component
    in_channels: int
    channels: tuple[str, ...]
    """Meaning of the input channels, in order."""
    contract: Contract
    modality: str
    """Modality assumed for files that do not state one."""
    patch_size: tuple[int, ...]
    """Training crop, (D, H, W) voxels, (H, W) pixels or (T, H, W) of clips; the window of
    sliding-window inference."""
    plane: Plane = "acquired"
    """Slices of volumes that an image encoder was trained on."""
    clip: ClipSpec | None = None
    """Frames of the clips that an encoder of clips was trained on."""
    videos: bool = False
    """An encoder of images whose head was trained on frames of videos."""
    objective: str | None = None
    head: str | None = None
    decoder: str = "auto"
    """Kind of decoder, as :meth:`Encoder.make_decoder` knows it."""
    labels: dict[int, str] = {}
    """Label values and names, background included; class k is the k-th smallest value."""
    parts: tuple[str, ...] = ("encoder",)
    """Modules in the weights file: encoder, decoder, embedding, image_encoder (discovr's)."""
    mirrored: bool = False
    """Fine-tuning showed mirrored copies too."""
    calibration: Calibration | None = None
    """None where there were no validation cases."""
    embedding: dict[str, Any] = {}
    """Options of the dense embedding, where there is one."""
    temporal: dict[str, Any] = {}
    """Options of the network over time, where there is one."""
    licence: str = "as the training data's owner states"
    provenance: dict[str, Any] = {}
    weights_sha256: str = ""


def save_model(folder: Path, card: Card, parts: dict[str, nn.Module]) -> Card:
    """Write ``weights.safetensors`` and ``card.json``, each atomically.

    Raises:
        MedsslError: if the encoder does not reload from the card.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{part}.{key}": value.detach()
        for part, module in parts.items()
        for key, value in module.state_dict().items()
    }
    data = to_safetensors(tensors)
    digest = hashlib.sha256(data).hexdigest()
    card = _without_source(card)
    card = card.model_copy(update={"weights_sha256": digest, "parts": tuple(parts)})
    assert_reloads(card, {k: v for k, v in tensors.items() if k.startswith("encoder.")})
    write_bytes(folder / "weights.safetensors", data)
    stamp(folder, card)
    return card


def stamp(folder: Path, card: Card) -> None:
    """Write another card beside weights that stay."""
    write_text(folder / "card.json", card.model_dump_json(indent=1) + "\n")


def load_card(run: Path, *, best: bool = False) -> tuple[Card, dict[str, Tensor]]:
    """Card and weights of a run folder (or of its ``model`` folder).

    Raises:
        UsageError: if there is no model, or its weights do not match the card's hash.
    """
    folder = _model_folder(run, best)
    text = (folder / "card.json").read_text(encoding="utf-8")
    try:
        card = Card.from_json(text, where=str(folder / "card.json"))
        data = (folder / "weights.safetensors").read_bytes()
        if hashlib.sha256(data).hexdigest() != card.weights_sha256:
            fix = "copy the model folder again; it was damaged or edited"
            raise UsageError("weights do not match the card's hash", where=str(folder), fix=fix)
        return card, from_safetensors(data)
    except (SafetensorError, json.JSONDecodeError, FileNotFoundError) as error:
        what = f"the model folder is damaged: {type(error).__name__}"
        raise UsageError(what, where=str(folder)) from None


def to_safetensors(tensors: dict[str, Tensor]) -> bytes:
    """One file in which a tensor with several names is stored once; the names go in the header."""
    first_name: dict[tuple[int, torch.Size], str] = {}
    unique, aliases = {}, {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.shape)
        if tensor.numel() and place in first_name:
            aliases[name] = first_name[place]
            continue
        first_name[place] = name
        unique[name] = tensor.cpu().contiguous()
    return save(unique, metadata={"aliases": json.dumps(aliases)})


def from_safetensors(data: bytes) -> dict[str, Tensor]:
    """Inverse of :func:`to_safetensors`."""
    tensors = load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    aliases = json.loads(header["__metadata__"]["aliases"])
    return {**tensors, **{name: tensors[first] for name, first in aliases.items()}}


def part_of(weights: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """State dict of one module of the weights file."""
    prefix = f"{part}."
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def build_from_card(card: Card) -> Encoder:
    """The card's encoder with random weights."""
    encoder = _without_source(card).encoder
    return build_encoder(encoder.name, encoder.options, card.in_channels)


def assert_reloads(card: Card, tensors: dict[str, Tensor]) -> None:
    """Build a fresh encoder from the card and load the weights with ``strict=True``.

    Raises:
        MedsslError: naming the first weights that do not fit.
    """
    fresh = build_from_card(card)
    try:
        fresh.load_state_dict(part_of(tensors, "encoder"), strict=True)
    except RuntimeError as error:
        first = str(error).splitlines()[1:2]
        raise MedsslError(f"encoder does not reload from its card: {first}") from None


def _without_source(card: Card) -> Card:
    """Public weights that a run began with are provenance: a card never fetches, nor holds paths.

    Their mean and standard deviation are part of the weights file.
    """
    options = dict(card.encoder.options)
    source = options.pop("weights", None)
    if not source:
        return card
    name = card.encoder.name
    named = source if source == "timm" or name.startswith("smp/") else "a file"
    encoder = Component(name=name, **options)
    provenance = {**card.provenance, "public_weights": named}
    return card.model_copy(update={"encoder": encoder, "provenance": provenance})


def _model_folder(run: Path, best: bool) -> Path:
    names = ("model_best", "model") if best else ("model",)
    for folder in (*(run / name for name in names), run):
        if (folder / "card.json").is_file():
            return folder
    fix = "give the folder that pretrain or finetune wrote; did the run finish?"
    raise UsageError("no model in this folder", where=str(run), fix=fix)
