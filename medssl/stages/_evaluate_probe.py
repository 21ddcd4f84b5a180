"""Probes of a frozen encoder: what a few labels read out of its features.

``knn`` (20 neighbours, or as many as the rarest class has cases, none of the query's own patient),
``linear`` (logistic regression on standardised features, its penalty chosen on validation
patients), ``attentive`` (one learned query over tokens, see :mod:`medssl.evaluation.attentive`)
take a data set with classes as ``finetune`` does; ``dense``
(:mod:`medssl.stages._evaluate_dense`) one with label maps.

Where the data set names a test split that is tested; otherwise every patient is, in five folds (of
fewer, where a class has fewer patients): a fold is tested with what the others taught, one of which
is the validation set. Each probe stands beside the same architecture with random weights and the
raw pixels. All is repeated with other seeds, which draw the folds, the random weights and the
``labelled`` patients; intervals are over patients, of the mean over seeds.

N cases, K classes, D width, T tokens, S seeds.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from medssl.archive.cases import Case, refuse_leaks
from medssl.archive.split import Member, leaders
from medssl.archive.store import Store
from medssl.core.config import Component, validate
from medssl.core.errors import UsageError
from medssl.core.registry import HEADS
from medssl.core.runlog import Run
from medssl.encoders.card import Card, load_card
from medssl.evaluation.attentive import attentive_probe
from medssl.evaluation.classification import summarise
from medssl.evaluation.folds import patient_folds
from medssl.evaluation.knn import knn_predict
from medssl.evaluation.linear import linear_probe
from medssl.stages._classify import Classification, stratified_order, target_of, without_copies
from medssl.stages._evaluate_dense import dense_rows
from medssl.stages._features import Frozen, finite, pixels
from medssl.stages._init import load_init
from medssl.stages._kinds import Kind, Stored, wanted_patients
from medssl.stages._labelled_store import case_key, fill_store
from medssl.stages._predict_setup import device_of
from medssl.stages._segment import Segmentation
from medssl.stages._start import begin_records
from medssl.stages.finetune import FinetuneConfig

if TYPE_CHECKING:
    from medssl.stages.evaluate import EvaluateConfig

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
NEIGHBOURS, TEMPERATURE = 20, 0.07
# Share of the patients set aside to choose by, where the data set names a test split only.
_VAL_FOLDS = 5


class Split(NamedTuple):
    """Places of cases by use."""

    train: IntArray
    val: IntArray
    test: IntArray


@dataclass(frozen=True, eq=False)
class Cohort:
    """The labelled cases of a data set, in its order, and the network that looks at them.

    Attributes:
        patients_N: one number per patient; those who share an image are one.
        config: the fine-tuning that would see these cases and this network alike.
    """

    names: list[str]
    cases: list[Stored]
    patients_N: IntArray
    store: Store
    frozen: Frozen
    split_N: list[str | None]
    config: FinetuneConfig


def evaluate_probe(config: EvaluateConfig) -> dict[str, Any]:
    """The content of the metrics file.

    Raises:
        UsageError: no data set or run, an encoder of something else, too few patients, a patient
            or an image in two splits.
        ReadError: a case cannot be used.
        MedsslError: features that are not finite.
    """
    if config.data is None or config.checkpoint is None:
        raise UsageError("a probe needs data and checkpoint", fix="--data D --checkpoint RUN")
    dense = config.probe == "dense"
    kind: Kind = Segmentation() if dense else Classification()
    with tempfile.TemporaryDirectory(prefix="medssl-probe-") as private:
        cohort, card = _cohort(config, kind, Path(private))
        rows, facts = dense_rows(cohort, config) if dense else _class_rows(cohort, config)
    return {
        "probe": config.probe,
        "rows": rows,
        "records": len(cohort.cases),
        "patients": len(np.unique(cohort.patients_N)),
        "labels": cohort.names,
        "seeds": config.seeds,
        "weights_sha256": card.weights_sha256,
        **facts,
    }


def _cohort(config: EvaluateConfig, kind: Kind, private: Path) -> tuple[Cohort, Card]:
    assert config.data is not None and config.checkpoint is not None
    task = "segmentation" if isinstance(kind, Segmentation) else "classification"
    as_tuned = FinetuneConfig(
        task=Component(name=task),
        data=config.data,
        out=private,
        init=config.checkpoint,
        labelled=config.labelled,
        quiet=True,
    )
    card, _ = load_card(config.checkpoint)
    module, _ = HEADS.module(task)
    labelled = kind.load(config.data, None)
    start, _ = begin_records(as_tuned, labelled, validate(module.Config, {}, where=task))
    labelled = start.labelled
    load_init(start.encoder, None, config.checkpoint)
    store = Store(config.store or private / "store", start.contract)
    wanted = [case for case in labelled.cases if _is_labelled(case)]
    refuse_leaks(wanted)
    fill_store(labelled, wanted, store, Run("evaluate", private), as_tuned)
    stored = [Stored(case, store.entry(case_key(store, labelled, case))) for case in wanted]
    if task == "classification":
        without_copies(stored, [])  # refuses one image in two classes
    _refuse_copies(stored)
    crop = card.patch_size[-len(start.encoder.token_size) :]
    device = device_of(config.device)
    frozen = Frozen(start.part, start.encoder, crop, card.plane, card.clip, device)
    members = [Member(one.case.patient, (one.entry.pixel_hash,), "train") for one in stored]
    leader = leaders(members)
    _, patients_N = np.unique([leader[m.patient] for m in members], return_inverse=True)
    names = [labelled.labels[k] for k in sorted(labelled.labels)]
    splits = [one.case.split for one in stored]
    return Cohort(names, stored, patients_N, store, frozen, splits, as_tuned), card


def _refuse_copies(stored: list[Stored]) -> None:
    """No image in two splits, of whatever patient it is said to be.

    Raises:
        UsageError: naming the files of one.
    """
    by_pixels: dict[str, list[Case]] = defaultdict(list)
    for one in stored:
        by_pixels[one.entry.pixel_hash].append(one.case)
    odd = [same for same in by_pixels.values() if len({case.split for case in same}) > 1]
    if odd:
        where = ", ".join(str(case.images[0]) for case in odd[0][:5])
        what = f"{len(odd)} images stand in more than one split"
        raise UsageError(what, where=where, fix="give copies one split")


def _is_labelled(case: Any) -> bool:
    return case.label is not None or getattr(case, "target", None) is not None


def _class_rows(
    cohort: Cohort, config: EvaluateConfig
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    labels_N = np.array([target_of(one) for one in cohort.cases])
    plans = [splits_of(cohort, labels_N, seed) for seed in range(config.seeds)]
    tested = np.unique(np.concatenate([one.test for one in plans[0]]))
    rows = []
    for name, features_of in _kinds_of_features(cohort, config):
        p_SNK = np.zeros((config.seeds, len(labels_N), len(cohort.names)))
        for seed, plan in enumerate(plans):
            x = features_of(seed)
            for split in plan:
                if config.probe == "knn":
                    part = _neighbours(cohort, x, labels_N, split)
                else:
                    part = _read_out(config.probe, x, labels_N, split, seed)
                p_SNK[seed, split.test, : part.shape[1]] = part
        groups = cohort.patients_N[tested]
        found = summarise(labels_N[tested], p_SNK[:, tested], groups, cohort.names)
        rows.append({"features": name, "width": int(x.shape[-1]), **found})
    return rows, {
        "tested": len(tested),
        "folds": len(plans[0]),
        "labelled": config.labelled,
        "train_cases": [[one.train.tolist() for one in plan] for plan in plans]
        if config.labelled
        else None,
    }


def _kinds_of_features(
    cohort: Cohort, config: EvaluateConfig
) -> Iterator[tuple[str, Callable[[int], npt.NDArray[Any]]]]:
    tokens = config.probe == "attentive"

    def seen_by(frozen: Frozen) -> npt.NDArray[Any]:
        look = frozen.tokens if tokens else frozen.vector
        return finite(np.stack([look(cohort.store, one.entry) for one in cohort.cases]))

    trained = seen_by(cohort.frozen)
    yield "this checkpoint", lambda _seed: trained
    yield "random weights", lambda seed: seen_by(cohort.frozen.untrained(seed))
    raw = np.stack([pixels(cohort.store, one.entry) for one in cohort.cases])
    yield "raw pixels", lambda _seed: raw[:, None] if tokens else raw


def splits_of(cohort: Cohort, labels_N: IntArray, seed: int) -> list[Split]:
    """What is learnt from, chosen by and tested on: one split, or one per fold.

    Raises:
        UsageError: a class with too few patients, none to learn from, or ``labelled`` asks for
            more than there are.
    """
    where_N = np.array([split or "" for split in cohort.split_N])
    patients_N, all_N = cohort.patients_N, np.arange(len(labels_N))
    if "test" in where_N:
        test_N = where_N == "test"
        val_N = where_N == "val"
        if not (~test_N & ~val_N).any():
            fix = "add labelled cases outside of test and val"
            raise UsageError("no labelled case is left to learn from", fix=fix)
        if not val_N.any():
            own = all_N[~test_N]
            folds = patient_folds(patients_N[own], labels_N[own], seed, _VAL_FOLDS)
            val_N[own[folds == 0]] = True
        plans = [(~test_N & ~val_N, val_N, test_N)]
    else:
        fold_N = patient_folds(patients_N, labels_N, seed)
        count = int(fold_N.max()) + 1
        next_N = [(fold + 1) % count for fold in range(count)]
        plans = [
            ((fold_N != k) & (fold_N != next_N[k]), fold_N == next_N[k], fold_N == k)
            for k in range(count)
        ]
    return [
        Split(_first(cohort, np.flatnonzero(train), seed), *map(np.flatnonzero, rest))
        for train, *rest in plans
    ]


def _first(cohort: Cohort, train: IntArray, seed: int) -> IntArray:
    """Of the cases to learn from those of the first ``labelled`` patients, every class among them.

    Those of a smaller number are part of those of a larger one.
    """
    if cohort.config.labelled is None:
        return train
    order, least, _ = stratified_order([cohort.cases[k].case for k in train], seed)
    chosen = set(order[: wanted_patients(cohort.config, len(order), least)])
    return np.array([k for k in train if cohort.cases[k].case.patient in chosen])


def _read_out(
    probe: str | None, x: npt.NDArray[Any], labels_N: IntArray, split: Split, seed: int
) -> FloatArray:
    """(M, K) class probabilities of the tested cases, of a probe that is trained."""
    train, val = ((x[part], labels_N[part]) for part in split[:2])
    if probe == "linear":
        return np.asarray(softmax(linear_probe(train, val).scores(x[split.test]), axis=1))
    scores = attentive_probe(train, val, seed=seed).scores(x[split.test])
    return np.asarray(softmax(scores.astype(np.float64), axis=1))


def _neighbours(
    cohort: Cohort, x: npt.NDArray[Any], labels_N: IntArray, split: Split
) -> FloatArray:
    """(M, K) class shares of the tested cases; there is nothing to choose on validation cases.

    So they are in the bank too, unless it is to hold ``labelled`` patients.
    """
    few = cohort.config.labelled is not None
    bank = split.train if few else np.concatenate([split.train, split.val])
    neighbours = min(NEIGHBOURS, int(np.unique(labels_N[bank], return_counts=True)[1].min()))
    own = cohort.patients_N[split.test][:, None] == cohort.patients_N[bank]
    return knn_predict(x[bank], labels_N[bank], x[split.test], neighbours, TEMPERATURE, exclude=own)
