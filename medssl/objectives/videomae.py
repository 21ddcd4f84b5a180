"""Masked autoencoding of clips: rebuild tubes that are hidden in every frame.

Neighbouring frames look alike: a patch hidden in one frame is shown by the next. So the same
patches are hidden in all frames (tubes), and far more of them than in pictures. What is left, one
token in ten, has to explain the rest, which takes knowledge of what moves how. The encoder
computes visible tokens only.

Algorithm:
    hide mask_ratio of the patches, the same ones in every time step
    y = decoder(encoder(visible tokens) + mask tokens, positions)
    loss = mean of (y - target)^2 over hidden voxels of tissue

Loss:
    L = sum((y - t)^2 m) / sum(m) per sample, m = hidden and tissue, mean over samples;
    t = (x - mean) / sqrt(var + 1e-6) per tubelet and channel

When to use:
    The first choice for clips and small batches, with the transformer ``video_vit``: no pairs, no
    teacher, nothing that collapses. Its global vector is weak without fine-tuning; where frozen
    features shall be used, compare with discovr and vjepa. Other encoders of clips: mae.

Source:
    Tong et al. 2022, "VideoMAE: Masked Autoencoders are Data-Efficient Learners for
    Self-Supervised Video Pre-Training". Departures: the mean is taken per sample first, over tissue
    only; a decoder of half the encoder's width; flips only where left and right are equal (never
    for echocardiography).
"""

from __future__ import annotations

from pydantic import Field

from medssl.core.errors import ConfigError
from medssl.core.viewspec import MaskKind, Setting
from medssl.encoders._base import Encoder
from medssl.objectives import mae
from medssl.objectives._parts.clips import refuse_all_but_clips


class Config(mae.Config):
    """Options of ``videomae``: those of ``mae``, with tubes."""

    mask_ratio: float = Field(default=0.9, gt=0, lt=1)
    """Share of tokens hidden."""
    mask_kind: MaskKind = "tube"
    """Shape of what is hidden, as in ``mae``; other shapes than tubes leak from frame to frame."""


class Objective(mae.Objective):
    """``videomae`` wired to an encoder of clips with tokens.

    Raises:
        ConfigError: the encoder takes no clips, or has no tokens.
    """

    def __init__(self, encoder: Encoder, config: Config, setting: Setting) -> None:
        refuse_all_but_clips("videomae", encoder)
        if not encoder.returns_tokens:
            what = "videomae needs an encoder that leaves hidden tokens out"
            raise ConfigError(what, fix="encoder=video_vit-s, or objective=mae")
        super().__init__(encoder, config, setting)
        self.groups = encoder.in_channels  # standardised per tubelet and channel
