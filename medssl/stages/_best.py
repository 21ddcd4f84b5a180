"""The model that did best on validation cases: ``model_best`` of a run, and its scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from medssl.core.errors import UsageError
from medssl.encoders.card import Card, load_card, save_model

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
