"""What frozen features of clips know, beside plain statistics of their grey levels.

N videos, K clips of each, C channels, T frames, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

import medssl
from medssl.archive.clips import plan_clip, prepared_frames
from medssl.core.preprocess import Contract
from medssl.core.seeding import seed_everything
from medssl.encoders._base import Encoder, build_encoder
from medssl.encoders.card import build_from_card, load_card, part_of
from medssl.stages._video_frames import centre
from pipelines._short_run import short_run

Array = npt.NDArray[Any]
# The smallest encoder, on clips of a second: what is compared sees them all alike.
ENCODER, CROP, BATCH = "video_vit-xs", (16, 112, 112), 8
# Other than the shipped rates, which are for 20,000 steps; from trials on phantom hearts.
_LR = {"discovr": 7.0e-4}
# Levels of the grey values of a frame, beside their mean and spread.
_PERCENT = (5, 25, 50, 75, 95)
# Clips that pass the encoder at once.
_CLIPS = 16


# Arms without a pretraining.
RANDOM, GREY = "random weights", "grey statistics"


class Job(NamedTuple):
    """One pretraining, or what it is compared with."""

    arm: str
    seed: int


@dataclass(frozen=True)
class Looks:
    """Which clips are cut from a video.

    Attributes:
        crop: frames and pixels; the shorter side of a frame is resized to that of the crop.
        stride_ms: between two frames of a clip; short videos hold their last frame.
        clips: of each video, evenly spread.
    """

    crop: tuple[int, int, int] = CROP
    stride_ms: float = 66.0
    clips: int = 3
    modality: str = "US"

    def of(self, path: Path) -> Array:
        """(K, C, T, H, W) grey clips in 0..1, float32; the middle of each frame."""
        sample = replace(medssl.read(path), modality=self.modality)
        contract = Contract(short_side_px=min(self.crop[1:]), picture_channels=1)
        plan = plan_clip(sample, np.uint8, contract)
        assert plan.times_s is not None
        length_s = (self.crop[0] - 1) * self.stride_ms / 1000
        starts = np.linspace(0, max(plan.times_s[-1] - length_s, 0), self.clips)
        wanted = starts[:, None] + np.arange(self.crop[0]) * self.stride_ms / 1000
        places = np.abs(plan.times_s - wanted.ravel()[:, None]).argmin(1)
        needed, back = np.unique(places, return_inverse=True)
        x_CTHW = prepared_frames(sample, plan, needed).astype(np.float32) / np.float32(255)
        x = centre(x_CTHW, self.crop[1:], (0.0,))[:, back]
        return np.asarray(x.reshape(1, self.clips, *self.crop).swapaxes(0, 1))

    def all(self, paths: Sequence[Path]) -> Array:
        """(N, K, C, T, H, W)."""
        return np.stack([self.of(path) for path in paths])


@torch.inference_mode()
def features(encoder: Encoder, x_NKCTHW: Array) -> Array:
    """(N, 2 D): the mean token of each time step, its mean and spread over time.

    The spread counts: whoever averages a clip's tokens alone loses most of what moves.
    """
    encoder.eval()
    count, clips = x_NKCTHW.shape[:2]
    found = []
    for part in torch.split(torch.from_numpy(x_NKCTHW).flatten(0, 1), _CLIPS):
        tokens_BND = encoder(part).tokens_BND
        assert tokens_BND is not None
        steps = encoder.grid(tuple(part.shape[2:]))[0]
        found.append(tokens_BND.float().unflatten(1, (steps, -1)).mean(2).numpy())
    return over_time(np.concatenate(found).reshape(count, clips, steps, -1))


def grey_statistics(x_NKCTHW: Array) -> Array:
    """(N, 14): mean, spread and percentiles of each frame, their mean and spread over time."""
    flat = x_NKCTHW.reshape(*x_NKCTHW.shape[:4], -1)[:, :, 0]
    levels = [flat.mean(-1), flat.std(-1), *np.percentile(flat, _PERCENT, axis=-1)]
    return over_time(np.stack(levels, axis=-1))


def over_time(x_NKTD: Array) -> Array:
    """(N, 2 D): mean over time and spread over time, means over the clips of a video."""
    return np.concatenate([x_NKTD.mean((1, 2)), x_NKTD.std(2).mean(1)], axis=1)


def random_encoder(seed: int) -> Encoder:
    """Random weights on grey clips."""
    seed_everything(seed)
    return build_encoder(ENCODER, {}, 1)


def index_ultrasound(archive: Path, catalog: Path) -> None:
    """Catalog of all clips of a folder, once."""
    if not catalog.is_dir():
        split = {"train": 1.0, "val": 0.0, "test": 0.0}
        medssl.index(archive=archive, out=catalog, split=split, modality="US")


def pretrained_encoder(
    objective: str, options: Mapping[str, Any], out: Path, *, catalog: Path, samples: int, seed: int
) -> Encoder:
    """Pretrain on the clips of a catalog into ``out``; its store lies beside the catalog."""
    run = short_run(
        objective,
        steps=samples // BATCH,
        batch_size=BATCH,
        data=catalog,
        out=out,
        store=catalog.parent / "store",
        encoder=ENCODER,
        channels=1,
        match_channels=True,
        size_px=min(CROP[1:]),
        crop=list(CROP),
        seed=seed,
        **({"lr": _LR[objective]} if objective in _LR else {}),
        **options,
    )
    card, weights = load_card(run.out)
    encoder = build_from_card(card)
    encoder.load_state_dict(part_of(weights, "encoder"), strict=True)
    return encoder
