"""A run of an image encoder, as small as it gets, for objectives that learn from one."""

import re
import tempfile
from functools import cache
from pathlib import Path

from medssl.core.config import Component
from medssl.core.preprocess import Contract
from medssl.core.seeding import seed_everything
from medssl.encoders._base import build_encoder
from medssl.encoders.card import Card, save_model

_FOLDER = tempfile.TemporaryDirectory(prefix="medssl-teacher-")


@cache
def teacher_run(name="timm/test_vit", channels=1, spacing_mm=None, *, seed=0, **options):
    """Folder of a run whose model has random weights; a path as text, the same in every call."""
    words = map(str, (name, channels, spacing_mm, seed, *options.items()))
    run = Path(_FOLDER.name) / re.sub(r"\W+", "_", "_".join(words))
    seed_everything(seed)
    options = {"patch_size": 8, **options} if name == "timm/test_vit" else options
    encoder = build_encoder(name, options, channels)
    card = Card(
        encoder=Component(name=name, **options),
        in_channels=channels,
        channels=("grey",) * channels,
        contract=Contract(spacing_mm=spacing_mm),
        modality="MR",
        patch_size=(32,) * len(encoder.token_size),
        objective="mae",
    )
    save_model(run / "model", card, {"encoder": encoder})
    return str(run)
