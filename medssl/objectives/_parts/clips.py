"""Which objectives take clips, and which take nothing else."""

from __future__ import annotations

from medssl.core.errors import ConfigError
from medssl.encoders._base import Encoder


def refuse_all_but_clips(objective: str, encoder: Encoder) -> None:
    """See that the encoder takes clips.

    Raises:
        ConfigError: it takes images or volumes.
    """
    if encoder.kind != "clip":
        what = f"{objective} learns from clips, and this encoder takes {encoder.kind}s"
        raise ConfigError(what, fix="encoder=video_vit-s crop=[16,112,112], or objective=mae")


def refuse_clips(objective: str, encoder: Encoder) -> None:
    """See that the encoder takes no clips.

    Raises:
        ConfigError: it does.
    """
    if encoder.kind == "clip":
        what = f"{objective} learns from images or volumes, and this encoder takes clips"
        raise ConfigError(what, fix="objective=simclr, dino, mae, videomae or vjepa")
