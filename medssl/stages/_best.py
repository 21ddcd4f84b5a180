"""The models of a fine-tuning: the last one, ``model``, and ``model_best`` of validation cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from medssl.core.errors import UsageError
from medssl.core.registry import HEADS
from medssl.encoders.card import Calibration, Card, load_card, save_model, stamp

if TYPE_CHECKING:
    from medssl.stages._kinds import Judge

FOLDER = "model_best"


def best_so_far(out: Path, known: Sequence[str]) -> dict[str, float]:
    """Scores of the best model of an earlier part of the run; empty = there is none."""
    try:
        card, _ = load_card(out / FOLDER)
    except UsageError:
        return {}
    return {key: float(card.provenance[key]) for key in known if key in card.provenance}


def keep_best(
    out: Path, card: Card, step: int, found: Mapping[str, float], model: nn.Module
) -> None:
    """Write a model with its scores and the step that it comes from."""
    provenance = {**card.provenance, "best_step": step, **found}
    stamped = card.model_copy(update={"provenance": provenance})
    save_model(out / FOLDER, stamped, dict(model.named_children()))


def save_calibrated(out: Path, card: Card, model: nn.Module, judge: Judge | None) -> dict[str, Any]:
    """Write ``model``, calibrated as ``model_best`` is too; returns what to say of it."""
    found = judge.calibrate(model) if judge else None
    card = card.model_copy(update={"calibration": found})
    last = save_model(out / "model", card, dict(model.named_children()))
    if judge is None or found is None:
        return {"uncalibrated": "no validation patients: probabilities are as the network has them"}
    _stamp_best(out / FOLDER, last, model, judge)
    return {"calibration": _shown(found)}


def _stamp_best(folder: Path, last: Card, model: nn.Module, judge: Judge) -> None:
    try:
        best, _ = load_card(folder)
    except UsageError:  # no check was good enough to be kept
        return
    found = last.calibration
    if best.weights_sha256 != last.weights_sha256:
        module, _ = HEADS.module(best.head or "")
        other, _ = module.load_model(folder, next(model.parameters()).device)
        found = judge.calibrate(other)
    stamp(folder, best.model_copy(update={"calibration": found}))


def _shown(found: Calibration) -> dict[str, Any]:
    mean = sum(found.quality) / len(found.quality)
    return {
        "temperature": round(found.temperature, 4),
        "fitted": found.fitted,
        "validation_cases": len(found.quality),
        "mean_quality": round(mean, 4),
        "mean_score": round(sum(found.score) / len(found.score), 4),
    }
