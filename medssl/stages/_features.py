"""Frozen features of stored records: what a trained network sees, and the two baselines.

A record is covered by windows as large as the training crops, without overlap; its vector is the
mean over them. Image encoders see up to ``SLICES`` slices of a volume or frames of a clip, evenly
spaced; encoders of clips see clips as :mod:`medssl.stages._clip_windows` spreads them.

C channels, D width, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medssl.archive.store import Entry, Store
from medssl.core.config import Component
from medssl.core.errors import MedsslError
from medssl.core.features import Features
from medssl.core.geometry import Plane, cut_axis
from medssl.core.seeding import seed_everything
from medssl.core.viewspec import ClipSpec
from medssl.encoders._base import Encoder, build_encoder
from medssl.encoders.card import Card, build_from_card, load_card, part_of
from medssl.inference.sliding import memory_named, window_batches
from medssl.stages._clip_windows import clip_pieces, stored_clip

FloatArray = npt.NDArray[np.float32]
# Most slices of a volume, and frames of a clip, that an image encoder looks at.
SLICES = 16
# Most tokens of a record, evenly spaced over all its windows.
TOKENS = 128
# Sides of the small picture that stands for raw pixels, by kind of record.
PIXELS = {"image": (1, 16, 16), "volume": (8, 8, 8), "clip": (4, 8, 8)}
_WINDOWS = 8


@dataclass(frozen=True, eq=False)
class Frozen:
    """A network that only looks: evaluation mode, no gradients.

    Attributes:
        part: name and options that ``encoder`` was built from.
        crop: window.
        plane, clip: as in the card.
    """

    part: Component
    encoder: Encoder
    crop: tuple[int, ...]
    plane: Plane = "acquired"
    clip: ClipSpec | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        self.encoder.to(self.device).eval().requires_grad_(False)

    @classmethod
    def of_run(cls, run: Path, device: str = "cpu") -> tuple[Self, Card]:
        """The encoder of a run, and its card.

        Raises:
            UsageError: no model there.
        """
        card, weights = load_card(run)
        encoder = build_from_card(card)
        encoder.load_state_dict(part_of(weights, "encoder"), strict=True)
        return cls(card.encoder, encoder, card.patch_size, card.plane, card.clip, device), card

    def untrained(self, seed: int) -> Self:
        """The same architecture with random weights."""
        seed_everything(seed)
        options = {k: v for k, v in self.part.options.items() if k != "weights"}
        encoder = build_encoder(self.part.name, options, self.encoder.in_channels)
        return replace(self, encoder=encoder)

    def vector(self, store: Store, entry: Entry) -> FloatArray:
        """(D,) mean over the windows of a record.

        Raises:
            ReadError: it cannot be read, or does not fit into memory.
        """
        total, count = torch.zeros(()), 0
        for _, features in self._looks(store, entry):
            pooled_BD = pooled(features)
            total = total + pooled_BD.double().sum(0).cpu()
            count += len(pooled_BD)
        return np.asarray((total / count).float().numpy())

    def tokens(self, store: Store, entry: Entry) -> FloatArray:
        """(``TOKENS``, D) tokens of a record; those of small records come again.

        Raises:
            ReadError: as :meth:`vector`.
        """
        found = [
            self.encoder.tokens(features, size).flatten(0, 1).float().cpu()
            for size, features in self._looks(store, entry)
        ]
        return spread(torch.cat(found).numpy(), TOKENS)

    def windows(self, store: Store, entry: Entry, *, labels: bool = False) -> Iterator[Tensor]:
        """Windows (B, C, *crop) of a record; with ``labels`` one more channel holds its label map.

        That channel is -1 where a window reaches beyond the record.
        """
        whole = entry.shape[1:]
        flat, axis, fill = len(self.crop) == 2, 0, entry.fill
        if entry.kind == "clip" and not flat:
            spec = self.clip or ClipSpec()
            pieces = clip_pieces(stored_clip(store, entry), spec, self.crop[0])
        elif entry.kind == "clip":
            frames = stored_clip(store, entry).frames(evenly(whole[0], SLICES))
            pieces = iter([frames])
        else:
            axis = cut_axis(self.plane, whole, entry.spacing_mm)
            x = store.read(entry.key, (0, 0, 0), whole)
            if labels:
                y = store.read_labels(entry.key, (0, 0, 0), whole)[None]
                x, fill = np.concatenate([x, y.astype(np.float32)]), (*fill, -1.0)
            if flat:
                x = x.take(evenly(whole[axis], SLICES), axis=1 + axis)
            pieces = iter([x])
        for x in pieces:
            yield from window_batches(
                x, patch_size=self.crop, overlap=0.0, batch_windows=_WINDOWS, fill=fill, axis=axis
            )

    @torch.no_grad()
    def _looks(self, store: Store, entry: Entry) -> Iterator[tuple[tuple[int, ...], Features]]:
        with memory_named(entry.shape):
            for x in self.windows(store, entry):
                yield self.crop, self.encoder(x.to(self.device))


def finite(x_N: FloatArray) -> FloatArray:
    """The features of N records as they are.

    Raises:
        MedsslError: some are not finite.
    """
    bad = sum(not np.isfinite(x).all() for x in x_N)
    if bad:
        what = f"the features of {bad} of {len(x_N)} records are not finite"
        fix = "the weights may have diverged: take another run, with a lower learning rate"
        raise MedsslError(what, fix=fix)
    return x_N


class GreyLevels(nn.Module):
    """No network: the grey values and means over 2, 4 and 8 of them along each axis, as maps."""

    def forward(self, x: Tensor) -> Features:
        pool = nn.functional.avg_pool3d if x.ndim == 5 else nn.functional.avg_pool2d
        sides = [side for side in (2, 4, 8) if min(x.shape[2:]) >= side]
        maps = [x, *(pool(x, side) for side in sides)]
        return Features(x.flatten(2).mean(2), None, None, maps)


def pooled(features: Features) -> Tensor:
    """One vector (B, D) per sample: the mean of the tokens, or the global vector without any.

    A class token is trained by some objectives only; the mean of the tokens by all.
    """
    tokens = features.tokens_BND
    return features.global_BD if tokens is None else tokens.mean(1)


def pixels(store: Store, entry: Entry) -> FloatArray:
    """The record as a small picture, see ``PIXELS``, in one vector."""
    if entry.kind == "clip":
        x = stored_clip(store, entry).frames(evenly(entry.shape[1], SLICES))
    else:
        x = store.read(entry.key, (0, 0, 0), entry.shape[1:])
    small = nn.functional.adaptive_avg_pool3d(torch.from_numpy(x), PIXELS[entry.kind])
    return np.asarray(small.flatten().numpy())


def evenly(there: int, most: int) -> npt.NDArray[np.int64]:
    """Places of up to ``most`` of so many things, the middles of equal parts.

    >>> evenly(10, 3).tolist(), evenly(2, 3).tolist()
    ([1, 5, 8], [0, 1])
    """
    count = min(there, most)
    return ((np.arange(count) + 0.5) * there / count).astype(np.int64)


def spread(rows_ND: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """``count`` rows, evenly spaced; fewer ones are repeated, each as often as the next."""
    return rows_ND[((np.arange(count) + 0.5) * len(rows_ND) / count).astype(np.int64)]
