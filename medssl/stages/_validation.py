"""Dice on the validation patients while a segmentation model trains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from medssl.archive.store import Entry, Store
from medssl.core.errors import UsageError
from medssl.core.geometry import cut_axis
from medssl.encoders.card import Calibration, Card, load_card, save_model
from medssl.evaluation.segmentation import dice
from medssl.inference.sliding import predict_scores
from medssl.stages._calibrate import of_masks, voxels


class DiceMonitor:
    """Monitor for the loop: logs ``val_dice`` and keeps the best model in ``model_best``.

    ``val_dice`` is the mean over cases and labels, on the store's grid.
    """

    def __init__(self, store: Store, entries: list[Entry], card: Card, out: Path) -> None:
        self.store, self.entries, self.card, self.out = store, entries, card, out
        self.best = _best_so_far(out)

    def __call__(self, step: int, task: nn.Module) -> Mapping[str, float]:
        model: Any = task.model
        value = self.score(model)
        if self.best is None or value > self.best:
            self.best = value
            provenance = {**self.card.provenance, "best_step": step, "val_dice": value}
            card = self.card.model_copy(update={"provenance": provenance})
            save_model(
                self.out / "model_best", card, {"encoder": model.encoder, "decoder": model.decoder}
            )
        return {"val_dice": value}

    def score(self, model: nn.Module) -> float:
        """Mean Dice of a model."""
        model.eval()
        return float(np.mean([self._case(model, entry) for entry in self.entries]))

    def calibrate(self, model: nn.Module) -> Calibration:
        """What the validation cases say of a model's probabilities."""
        model.eval()
        cases = len(self.entries)
        return of_masks([voxels(*self._seen(model, entry), cases) for entry in self.entries])

    def _case(self, model: nn.Module, entry: Entry) -> float:
        scores, labels = self._seen(model, entry)
        found = scores.argmax(0)
        classes = range(1, len(self.card.labels))
        return float(np.mean([dice(found == k, labels == k) for k in classes]))

    def _seen(
        self, model: nn.Module, entry: Entry
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """Class probabilities (K, D, H, W) of a case, and its labels."""
        origin, end = (0, 0, 0), entry.shape[1:]
        device = next(model.parameters()).device
        x = self.store.read(entry.key, origin, end)
        labels = self.store.read_labels(entry.key, origin, end)
        scores = predict_scores(
            model,
            x,
            patch_size=self.card.patch_size,
            overlap=0.5,
            batch_windows=2,
            device=device,
            fill=entry.fill,
            axis=cut_axis(self.card.plane, end, entry.spacing_mm),
        )
        return scores, labels


def _best_so_far(out: Path) -> float | None:
    try:
        card, _ = load_card(out / "model_best")
    except UsageError:
        return None
    return float(card.provenance["val_dice"])
