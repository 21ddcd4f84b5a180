"""How a tool model is judged while it trains: mean average precision over validation frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import expit
from torch import nn

from medssl.archive.store import Store
from medssl.encoders.card import Calibration, Card
from medssl.evaluation.tools import average_precisions, mean_average_precision
from medssl.stages._best import best_so_far, keep_best
from medssl.stages._calibrate import of_tools
from medssl.stages._kinds import Stored
from medssl.stages._video_frames import stored_frames


class ToolMonitor:
    """Monitor for the loop: logs the mean average precision, keeps the best ``model_best``."""

    def __init__(
        self,
        store: Store,
        val: Sequence[Stored],
        labels: Mapping[str, tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]],
        card: Card,
        out: Path,
    ) -> None:
        self.store, self.val, self.labels = store, val, labels
        self.card, self.out = card, out
        self.best = best_so_far(out, ["val_map"])

    def __call__(self, step: int, task: nn.Module) -> Mapping[str, float]:
        model = task.get_submodule("model")
        found = {"val_map": self.score(model)}
        if not self.best or found["val_map"] > self.best["val_map"]:
            self.best = found
            keep_best(self.out, self.card, step, found, model)
        return found

    def score(self, model: nn.Module) -> float:
        """Mean average precision of a model."""
        model.eval()
        there, scores = [], []
        for one in self.val:
            tools_TK, labelled_T = self.labels[one.case.name]
            there.append(tools_TK[labelled_T])
            scores.append(self._scores(model, one)[labelled_T])
        ap_K = average_precisions(np.concatenate(there), np.concatenate(scores))
        return mean_average_precision(ap_K)

    def calibrate(self, model: nn.Module) -> Calibration:
        """What the validation videos say of a model's probabilities."""
        model.eval()
        p, there = [], []
        for one in self.val:
            tools_TK, labelled_T = self.labels[one.case.name]
            there.append(tools_TK[labelled_T])
            p.append(expit(self._scores(model, one)[labelled_T].astype(np.float64)))
        return of_tools(p, there)

    @torch.inference_mode()
    def _scores(self, model: nn.Module, one: Stored) -> npt.NDArray[np.float32]:
        device = next(model.parameters()).device
        frames = stored_frames(self.store, one.entry, self.card.patch_size)
        return np.concatenate([model(x.to(device)).float().cpu().numpy() for x in frames])
