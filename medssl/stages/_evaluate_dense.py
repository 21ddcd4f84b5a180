"""The dense probe on labelled volumes or pictures, see :mod:`medssl.evaluation.dense`.

Dice is on the prepared grid, as ``finetune`` judges its validation cases: the mean over labels of a
case, then over cases. A case's windows overlap by a quarter and are blended, as in ``predict``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import nn

from medssl.core.errors import UsageError
from medssl.core.geometry import cut_axis
from medssl.core.seeding import generator
from medssl.evaluation.bootstrap import bootstrap_mean
from medssl.evaluation.dense import DenseProbe
from medssl.evaluation.folds import FOLDS
from medssl.evaluation.segmentation import dice
from medssl.inference.sliding import predict_scores
from medssl.stages._features import GreyLevels, finite
from medssl.stages._kinds import Stored, wanted_patients

if TYPE_CHECKING:
    from medssl.stages._evaluate_probe import Cohort
    from medssl.stages.evaluate import EvaluateConfig

IntArray = npt.NDArray[np.int64]
# Windows that one probe learns from, drawn from those of its cases.
_WINDOWS = 64
_OVERLAP = 0.25


def dense_rows(
    cohort: Cohort, config: EvaluateConfig
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Dice of this checkpoint, random weights and grey levels; and how it was measured.

    Raises:
        UsageError: fewer than two patients, or ``labelled`` asks for more than there are.
        MedsslError: features that are not finite.
    """
    finite(cohort.frozen.vector(cohort.store, cohort.cases[0].entry)[None])
    plans = [_plan(cohort, seed) for seed in range(config.seeds)]
    tested = np.unique(np.concatenate([test for _, test in plans[0]]))
    kinds: list[tuple[str, Callable[[int], nn.Module]]] = [
        ("this checkpoint", lambda _seed: cohort.frozen.encoder),
        ("random weights", lambda seed: cohort.frozen.untrained(seed).encoder),
        ("raw pixels", lambda _seed: GreyLevels()),
    ]
    rows = []
    for name, encoder_of in kinds:
        dice_SNK = np.full((config.seeds, len(cohort.cases), len(cohort.names) - 1), np.nan)
        for seed, plan in enumerate(plans):
            encoder = encoder_of(seed)
            for train, test in plan:
                probe = _fitted(cohort, encoder, train, seed)
                for k in test:
                    dice_SNK[seed, k] = _dice(cohort, probe, cohort.cases[k])
        rows.append({"features": name, **_row(dice_SNK[:, tested], cohort, tested)})
    facts = {"tested": len(tested), "folds": len(plans[0]), "labelled": config.labelled}
    return rows, facts


def _plan(cohort: Cohort, seed: int) -> list[tuple[IntArray, IntArray]]:
    """Cases to learn from and to test on: the named test split, or folds of patients.

    The penalty is fixed, so there is nothing to choose on validation cases: these teach too.

    Raises:
        UsageError: no patient is left to learn from, or ``labelled`` asks for more than there are.
    """
    test_N = np.array([split == "test" for split in cohort.split_N])
    names = np.setdiff1d(cohort.patients_N, cohort.patients_N[test_N])
    order = names[generator(seed, "labelled").permutation(len(names))]
    if test_N.any():
        parts = [(order, np.flatnonzero(test_N))]
    else:
        folds = [order[k::FOLDS] for k in range(min(FOLDS, len(order)))]
        parts = [
            (order[~np.isin(order, fold)], np.flatnonzero(np.isin(cohort.patients_N, fold)))
            for fold in folds
        ]
    if not all(len(who) for who, _ in parts):
        what = f"all {len(np.unique(cohort.patients_N))} labelled patients are tested"
        raise UsageError(what, fix="add labelled patients to learn from, outside of test")
    return [
        (
            np.flatnonzero(
                np.isin(cohort.patients_N, who[: wanted_patients(cohort.config, len(who))])
            ),
            test,
        )
        for who, test in parts
    ]


def _fitted(cohort: Cohort, encoder: nn.Module, train: IntArray, seed: int) -> DenseProbe:
    images, labels = [], []
    for k in train:
        for batch in cohort.frozen.windows(cohort.store, cohort.cases[k].entry, labels=True):
            images += list(batch[:, :-1].to(cohort.frozen.device))
            labels += [window.numpy().astype(np.int64) for window in batch[:, -1]]
    chosen = generator(seed, "windows").permutation(len(images))[:_WINDOWS]
    probe = DenseProbe(encoder, len(cohort.names))
    probe.fit([images[i] for i in chosen], [labels[i] for i in chosen], seed)
    return probe


def _dice(cohort: Cohort, probe: DenseProbe, one: Stored) -> list[float]:
    """Dice of each label but the background."""
    frozen, entry = cohort.frozen, one.entry
    end = entry.shape[1:]
    scores_KDHW = predict_scores(
        probe,
        cohort.store.read(entry.key, (0, 0, 0), end),
        patch_size=frozen.crop,
        overlap=_OVERLAP,
        batch_windows=1,
        device=frozen.device,
        fill=entry.fill,
        axis=cut_axis(frozen.plane, end, entry.spacing_mm),
    )
    found_DHW = scores_KDHW.argmax(0)
    truth_DHW = cohort.store.read_labels(entry.key, (0, 0, 0), end)
    return [dice(found_DHW == k, truth_DHW == k) for k in range(1, len(cohort.names))]


def _row(dice_SNK: npt.NDArray[np.float64], cohort: Cohort, tested: IntArray) -> dict[str, Any]:
    """As ``metrics.json`` holds Dice; of several seeds the mean, with their ``seed_sd``."""
    groups = cohort.patients_N[tested]

    def interval(values_SN: npt.NDArray[np.float64]) -> dict[str, Any]:
        found: dict[str, Any] = bootstrap_mean(values_SN.mean(0), groups).as_json()
        if len(values_SN) > 1:
            found["seed_sd"] = float(values_SN.mean(1).std(ddof=1))
        return found

    per_label = {name: interval(dice_SNK[:, :, k]) for k, name in enumerate(cohort.names[1:])}
    return {"dice": {**interval(dice_SNK.mean(2)), "per_label": per_label}}
