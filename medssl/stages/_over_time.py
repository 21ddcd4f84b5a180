"""The second stage of a phase model: a network over time learns on features of whole videos.

T frames, D features, K phases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from lightning.fabric import Fabric
from torch import nn
from torch.utils.data import Dataset

from medssl.core.phases import NONE
from medssl.core.runlog import Run
from medssl.core.seeding import seed_everything
from medssl.encoders.card import Calibration, Card
from medssl.evaluation.phases import plain_scores
from medssl.heads._temporal import TemporalNetwork
from medssl.heads.phase import Config, PhaseModel, TemporalTask
from medssl.stages import _train
from medssl.stages._best import best_so_far, keep_best
from medssl.stages._calibrate import of_classes
from medssl.stages._kinds import Judge
from medssl.training.data import record_at

if TYPE_CHECKING:
    from medssl.encoders._base import Encoder
    from medssl.stages.finetune import FinetuneConfig

_METRICS = ("accuracy", "jaccard", "f1")


class VideoFeatures(NamedTuple):
    """One video as the encoder sees it."""

    features_TD: npt.NDArray[np.float32]
    phase_T: npt.NDArray[np.int64]


class FeatureDataset(Dataset[dict[str, Any]]):
    """Whole videos by global position; each step sees one."""

    def __init__(self, videos: Sequence[VideoFeatures], seed: int) -> None:
        self.videos, self.seed = videos, seed

    def __getitem__(self, position: int) -> dict[str, Any]:
        one = self.videos[record_at(self.seed, position, len(self.videos))]
        return {"features": one.features_TD, "phase": one.phase_T}


class PhaseMonitor:
    """Monitor for the loop: logs scores of the validation videos, keeps the best ``model_best``.

    Best is the largest accuracy, averaged over videos; of equals the first.
    """

    def __init__(
        self, encoder: Encoder, videos: Sequence[VideoFeatures], card: Card, out: Path
    ) -> None:
        self.encoder, self.videos, self.card, self.out = encoder, videos, card, out
        self.best = best_so_far(out, [f"val_{key}" for key in _METRICS])

    def __call__(self, step: int, task: nn.Module) -> Mapping[str, float]:
        assert isinstance(task, TemporalTask)
        task.eval()
        model = PhaseModel(self.encoder, task.network)
        found = self._means(model)
        if not self.best or found["val_accuracy"] > self.best["val_accuracy"]:
            self.best = found
            keep_best(self.out, self.card, step, found, model)
        return found

    def score(self, model: nn.Module) -> float:
        """Accuracy of a model with this encoder, the mean over videos."""
        assert isinstance(model, PhaseModel)
        return self._means(model.eval())["val_accuracy"]

    def _means(self, model: PhaseModel) -> dict[str, float]:
        each = [self._scores(model, one) for one in self.videos]
        return {f"val_{key}": float(np.mean([s[key] for s in each])) for key in _METRICS}

    def calibrate(self, model: nn.Module) -> Calibration:
        """What the validation videos say of the probabilities of a model with this encoder."""
        assert isinstance(model, PhaseModel)
        model.eval()
        p, phase = zip(*(self._seen(model, one) for one in self.videos), strict=True)
        return of_classes(p, phase)

    def _scores(self, model: PhaseModel, one: VideoFeatures) -> dict[str, float]:
        p_NK, phase_N = self._seen(model, one)
        return plain_scores(phase_N, p_NK.argmax(1), p_NK.shape[1]).means()

    @torch.inference_mode()
    def _seen(
        self, model: PhaseModel, one: VideoFeatures
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Probabilities (N, K) and phases (N,) of the labelled frames."""
        device = next(model.temporal.parameters()).device
        p_TK = model.probabilities(torch.from_numpy(one.features_TD).to(device)).cpu().numpy()
        there = one.phase_T != NONE
        return p_TK[there], one.phase_T[there]


def train_over_time(
    config: FinetuneConfig,
    options: Config,
    fabric: Fabric,
    encoder: Encoder,
    videos: Mapping[str, Sequence[VideoFeatures]],
    card: Card,
) -> tuple[PhaseModel, Judge | None]:
    """The model with its network over time, and its judge where there are validation videos.

    Its checkpoints and metrics lie in ``temporal`` of the run folder. The encoder stays as it is.

    Args:
        config: of the run.
        options: of the head.
        fabric: the device.
        encoder: that made the features, for ``model_best``.
        videos: those of ``train`` and ``val``.
        card: of the model.
    """
    run = Run.open("finetune", config.out / "temporal", resume=True)
    own = _config(config, options)
    seed_everything(config.seed)
    network = TemporalNetwork(encoder.width, len(card.labels), options.temporal)
    task = TemporalTask(network, options.smoothing)
    identity = {"card": card.digest}
    training = _train.Training(
        own, fabric, run, task, FeatureDataset(videos["train"], config.seed), identity
    )
    monitor = PhaseMonitor(encoder, videos["val"], card, config.out) if videos["val"] else None
    kept = _train.train(training, [monitor] if monitor else [])
    assert isinstance(kept, TemporalTask)
    run.finish()
    judge = (
        Judge(monitor, lambda: monitor.best, monitor.calibrate, monitor.score) if monitor else None
    )
    return PhaseModel(encoder, kept.network), judge


def _config(config: FinetuneConfig, options: Config) -> FinetuneConfig:
    """Adam at a constant rate, one video per step, whatever the first stage was given."""
    return config.model_copy(
        update={
            "out": config.out / "temporal",
            "steps": options.temporal_steps,
            "optimizer": "adamw",
            "lr": options.temporal_lr,
            "batch_size": 1,
            "accumulate": 1,
            "betas": (0.9, 0.999),
            "weight_decay": 0.0,
            "weight_decay_end": None,
            "warmup": 0,
            "schedule": "infinite",
            "cooldown": 0,
            "constant_share": 1.0,
            "anneal": 0,
            "layer_decay": 1.0,
            "ema_decay": None,
            "workers": 0,
            "precision": "32-true",
        }
    )
