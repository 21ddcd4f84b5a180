"""Validation cases as a fine-tuned model sees them: its temperature, and how sure it is of each.

Voxels, frames and cases weigh so that every case counts the same. Of a large volume up to
``MOST_VOXELS`` are drawn, as many of each predicted class as of another, from a box around what was
predicted: there probabilities are in doubt, and far from it they say nothing of an outline.

N voxels, frames or cases, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medssl.core.seeding import generator
from medssl.encoders.card import Calibration, Card
from medssl.evaluation.calibration import (
    BOUNDS,
    as_two_classes,
    fit_temperature,
    temper,
    temper_chance,
)
from medssl.evaluation.refusal import soft_dice
from medssl.evaluation.segmentation import dice

MOST_VOXELS = 200_000
# And of all cases together, which lie in memory at once.
_ALL_VOXELS = 2_000_000
# The box reaches beyond what was predicted by a share of its sides, and by voxels at least.
_MARGIN, _LEAST_VOXELS = 0.25, 5

Probabilities = npt.NDArray[np.floating[Any]]
Classes = npt.NDArray[np.integer[Any]]


class Voxels(NamedTuple):
    """Voxels of one case, with what each stands for; and the labels and Dice of the whole case."""

    p_NK: Probabilities
    class_N: Classes
    label_N: Classes
    weight_N: npt.NDArray[np.float64]
    present: tuple[bool, ...]
    dice: float


def region(class_DHW: Classes) -> tuple[slice, ...]:
    """A box around the predicted foreground and what is near; everything where there is none."""
    found = np.nonzero(class_DHW)
    if not len(found[0]):
        return tuple(slice(0, side) for side in class_DHW.shape)
    box = []
    for at, side in zip(found, class_DHW.shape, strict=True):
        low, high = int(at.min()), int(at.max()) + 1
        room = max(round(_MARGIN * (high - low)), _LEAST_VOXELS)
        box.append(slice(max(low - room, 0), min(high + room, side)))
    return tuple(box)


def quality_of(p_KDHW: Probabilities, card: Card) -> npt.NDArray[np.float64]:
    """Expected Dice (K - 1,) of the labels that probabilities give, on their own grid."""
    class_DHW = p_KDHW.argmax(0)
    box = region(class_DHW)
    n_classes = len(p_KDHW)
    known = card.calibration
    p_KV = temper(p_KDHW[(slice(None), *box)].reshape(n_classes, -1), temperature_of(card), axis=0)
    never_absent = known.never_absent if known else (True,) * n_classes
    return soft_dice(p_KV, class_DHW[box].ravel(), never_absent)


def temperature_of(card: Card) -> float:
    """The model's; 1 where none was fitted."""
    return card.calibration.temperature if card.calibration else 1.0


def voxels(p_KDHW: Probabilities, label_DHW: Classes, cases: int = 1) -> Voxels:
    """Voxels of one of so many validation cases; the same ones for the same case."""
    class_DHW = p_KDHW.argmax(0)
    box = region(class_DHW)
    n_classes = len(p_KDHW)
    p_NK = p_KDHW[(slice(None), *box)].reshape(n_classes, -1).T
    class_N, label_N = class_DHW[box].ravel(), label_DHW[box].ravel()
    rng = generator(0, "calibration")
    most = min(MOST_VOXELS, _ALL_VOXELS // cases) // n_classes
    drawn, weights = [], []
    for k in range(n_classes):
        own = np.flatnonzero(class_N == k)
        few = rng.permutation(own)[:most]
        drawn.append(few)
        weights.append(np.full(len(few), len(own) / max(len(few), 1)))
    at = np.concatenate(drawn)
    each = [dice(class_DHW == k, label_DHW == k) for k in range(1, n_classes)]
    return Voxels(
        p_NK=p_NK[at],
        class_N=class_N[at],
        label_N=label_N[at],
        weight_N=np.concatenate(weights),
        present=tuple(bool((label_DHW == k).any()) for k in range(n_classes)),
        dice=float(np.mean(each)),
    )


def of_masks(cases: Sequence[Voxels]) -> Calibration:
    """Of segmentations: expected and true mean Dice."""
    temperature, fitted = _temperature(
        [one.p_NK for one in cases],
        [one.label_N for one in cases],
        [one.weight_N for one in cases],
    )
    never_absent = tuple(map(all, zip(*(one.present for one in cases), strict=True)))
    expected = [
        soft_dice(temper(one.p_NK, temperature).T, one.class_N, never_absent, one.weight_N)
        for one in cases
    ]
    return Calibration(
        temperature=temperature,
        fitted=fitted,
        quality=tuple(float(dice_K.mean()) for dice_K in expected),
        score=tuple(one.dice for one in cases),
        never_absent=never_absent,
    )


def of_classes(p: Sequence[Probabilities], label: Sequence[Classes]) -> Calibration:
    """Of classes, or of the phases of videos: one (N, K) and (N,) per case or video.

    Quality is the mean probability of what was predicted, score the share that is right.
    """
    temperature, fitted = _temperature(p, label)
    return Calibration(
        temperature=temperature,
        fitted=fitted,
        quality=tuple(float(temper(one, temperature).max(1).mean()) for one in p),
        score=tuple(float((a.argmax(1) == b).mean()) for a, b in zip(p, label, strict=True)),
    )


def of_tools(p: Sequence[Probabilities], there: Sequence[Classes]) -> Calibration:
    """Of tools: one (N, K) of chances, and of what is in view, per video."""
    temperature, fitted = _temperature(
        [as_two_classes(one) for one in p], [np.asarray(one, dtype=int).ravel() for one in there]
    )
    return Calibration(
        temperature=temperature,
        fitted=fitted,
        quality=tuple(sureness(temper_chance(one, temperature)) for one in p),
        score=tuple(float(((a > 0.5) == (b > 0)).mean()) for a, b in zip(p, there, strict=True)),
    )


def sureness(p: Probabilities) -> float:
    """Mean chance of the likelier of yes and no."""
    return float(np.maximum(p, 1 - p).mean())


def _temperature(
    p: Sequence[Probabilities], label: Sequence[Classes], weight: Sequence[Any] | None = None
) -> tuple[float, bool]:
    """Of all cases, each with the same weight; 1 and False where there is no best one."""
    weights = weight or [np.ones(len(one)) for one in label]
    found = fit_temperature(
        np.concatenate(p),
        np.concatenate(label),
        np.concatenate([one / one.sum() for one in weights]),
    )
    return (1.0, False) if found in BOUNDS else (found, True)
