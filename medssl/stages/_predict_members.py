"""Which models predict together, and on which views of a scan."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from medssl.core.errors import UsageError
from medssl.encoders.card import Card
from medssl.inference.ensemble import Ensemble, View
from medssl.stages._calibrate import temperature_of

# Training shows contrasts from 0.75 to 1.25.
CONTRASTS = (0.85, 1.15)
# What members have to agree on, beside their weights.
_SHARED = (
    *("head", "labels", "channels", "contract", "modality"),
    *("patch_size", "plane", "clip", "videos"),
)
_SIDES = re.compile(r"(?<![a-z])(left|right|l|r|lt|rt|links|rechts|gauche|droite?)(?![a-z])", re.I)


class Members(NamedTuple):
    """Models with their cards, and the views that each sees."""

    models: tuple[nn.Module, ...]
    cards: tuple[Card, ...]
    views: tuple[View, ...]

    @property
    def single(self) -> bool:
        """One model on the scan as it is."""
        return len(self.models) == len(self.views) == 1

    def together(self) -> tuple[nn.Module, Card]:
        """As one model, calibrated within, and its card."""
        first = self.cards[0]
        if self.single:
            return self.models[0], first
        temperatures = [temperature_of(card) for card in self.cards]
        tools = first.head == "tools"
        model = Ensemble(self.models, temperatures, self.views, single=tools).eval()
        known = [card.calibration for card in self.cards]
        calibration = first.calibration
        if calibration is not None:
            never = (one.never_absent if one else () for one in known)
            calibration = calibration.model_copy(
                update={
                    "temperature": 1.0,
                    "never_absent": tuple(map(all, zip(*never, strict=False))),
                }
            )
        names = "".join(card.weights_sha256 for card in self.cards) + repr(self.views)
        digest = hashlib.sha256(names.encode()).hexdigest()
        update = {"weights_sha256": digest, "calibration": calibration}
        return model, first.model_copy(update=update)


def load_members(
    checkpoints: Sequence[Path], load: Callable[[Path], tuple[nn.Module, Card]], *, views: bool
) -> Members:
    """The models of some runs.

    Raises:
        UsageError: they do not take the same input, or do not give the same labels.
    """
    loaded = [load(path) for path in checkpoints]
    models, cards = tuple(m for m, _ in loaded), tuple(c for _, c in loaded)
    check_alike(cards)
    return Members(models, cards, views_of(cards) if views else (View(),))


def check_alike(cards: Sequence[Card]) -> None:
    """Refuse models that cannot work together.

    Raises:
        UsageError: they do not take the same input, or do not give the same labels.
    """
    for card in cards[1:]:
        odd = [name for name in _SHARED if getattr(card, name) != getattr(cards[0], name)]
        if odd:
            what = f"the checkpoints differ in {', '.join(odd)}"
            raise UsageError(what, fix="give runs of the same data and crop")


def views_of(cards: Sequence[Card]) -> tuple[View, ...]:
    """As it is, two contrasts, and one mirror image per axis.

    Mirrored are axes in space, where training mirrored too and no label has a side.
    """
    flips = []
    if all(card.mirrored for card in cards) and not is_sided(cards[0]):
        first = 1 if cards[0].clip is not None else 0  # not time
        flips = [View(flip=axis) for axis in range(first, len(cards[0].patch_size))]
    return (View(), *(View(contrast=c) for c in CONTRASTS), *flips)


def is_sided(card: Card) -> bool:
    """Whether a label is of the left or of the right."""
    return any(_SIDES.search(name.replace("_", " ")) for name in card.labels.values())
