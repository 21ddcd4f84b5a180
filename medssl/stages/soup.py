"""``medssl soup``: one model from several fine-tunings that began alike, the mean of their weights.

Validation cases are those that none of the fine-tunings learned from: all must have had the same
training cases, and the data have to be theirs. Segmentation and classification.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import yaml
from pydantic import BeforeValidator, Field

from medssl.archive.store import Store
from medssl.core.config import Component, Config
from medssl.core.errors import UsageError
from medssl.core.runlog import Run
from medssl.encoders.card import Card
from medssl.inference.soup import greedy, mean_weights
from medssl.stages._best import save_calibrated
from medssl.stages._kinds import Judge, Kind, Stored
from medssl.stages._labelled_store import case_key, fill_store
from medssl.stages._predict_members import check_alike
from medssl.stages._predict_setup import as_tuple, device_of
from medssl.stages.finetune import KINDS, FinetuneConfig, cases_digest
from medssl.stages.predict import load_model

# Options of a fine-tuning that decide which cases it learned from.
_CHOICE = ("seed", "labelled", "val_fraction")


class SoupConfig(Config):
    """What to mix."""

    data: Path
    """Labelled data set of the fine-tunings."""
    labels: Path | None = None
    """Of videos: as for ``finetune``."""
    checkpoint: Annotated[tuple[Path, ...], BeforeValidator(as_tuple), Field(min_length=2)]
    """Run folders of finetune."""
    out: Path
    how: Literal["greedy", "uniform"] = "greedy"
    """``greedy``: those that help on validation cases; ``uniform``: all."""
    store: Path | None = None
    """Preprocessed data set, where one is kept."""
    device: str = "auto"
    """``cpu``, ``cuda``, ``cuda:1``; ``auto`` takes a GPU where there is one."""
    overwrite: bool = False


def run(config: SoupConfig) -> Run:
    """Mix, judge, calibrate; writes ``model/``, which predict takes.

    Raises:
        UsageError: models that did not begin alike, or learned from other cases; other data.
    """
    device = device_of(config.device)
    loaded = [load_model(path, device) for path in config.checkpoint]
    models, cards = [m for m, _ in loaded], [c for _, c in loaded]
    _check(cards)
    run = Run.open("soup", config.out, overwrite=config.overwrite)
    run.save_config(config, {"members": [card.weights_sha256 for card in cards]})
    judge = _judge(config, cards, run)
    model = models[0]
    members = [{k: v.clone() for k, v in one.state_dict().items()} for one in models]
    scores = [judge.score(one) for one in models]

    def score(weights: dict[str, torch.Tensor]) -> float:
        model.load_state_dict(weights)
        return judge.score(model)

    kept = list(range(len(members)))
    if config.how == "greedy":
        kept, _ = greedy(members, scores, score)
    final = score(mean_weights([members[k] for k in kept]))
    card = _card(cards, kept, scores, final)
    calibrated = save_calibrated(run.out, card, model, judge)
    rounded = [round(one, 4) for one in scores]
    return run.finish(scores=rounded, kept=kept, score=round(final, 4), **calibrated)


def _check(cards: Sequence[Card]) -> None:
    check_alike(cards)
    if cards[0].head not in KINDS:
        what = f"soups are of segmentation and classification models, not of {cards[0].head}"
        raise UsageError(what, fix="predict --checkpoint A --checkpoint B takes their mean")
    starts = {card.provenance.get("init_weights_sha256", "") for card in cards}
    if len(starts) > 1 or "" in starts or len({card.encoder.name for card in cards}) > 1:
        what = "the models did not begin with the same weights: their mean is no model"
        raise UsageError(what, fix="fine-tune all of them from one --init")
    if len({card.provenance.get("cases_digest") for card in cards}) > 1:
        what = "the models learned from different cases: what one was judged by another has seen"
        raise UsageError(what, fix="fine-tune all of them on the same cases")


def _judge(config: SoupConfig, cards: Sequence[Card], run: Run) -> Judge:
    """On the validation cases that the fine-tunings had.

    Raises:
        UsageError: other data than theirs, or no validation cases.
    """
    card = cards[0]
    kind: Kind = KINDS[card.head or ""]()
    own = FinetuneConfig(
        task=Component(name=card.head or ""), data=config.data, out=config.out,
        **_choice(config.checkpoint[0]),
    )  # fmt: skip
    labelled = kind.load(config.data, config.labels)
    labelled = replace(labelled, modality=card.modality, channels=card.channels)
    cases = kind.choose(labelled, own)
    if not cases.val:
        what = "there are no validation cases to judge by"
        raise UsageError(what, fix="fine-tune with 10 or more patients, or name a split")
    store = Store(config.store or run.out / "store", card.contract)
    fill_store(labelled, [*cases.train, *cases.val], store, run, own)
    (train, val), _ = kind.check([
        [Stored(case, store.entry(case_key(store, labelled, case))) for case in group]
        for group in (cases.train, cases.val)
    ])  # fmt: skip
    if cases_digest(train, kind.targets(train)) != card.provenance.get("cases_digest"):
        what = "these are not the cases that the models learned from"
        raise UsageError(what, fix="give the --data of the fine-tunings")
    return kind.judge(store, val, card, run.out)


def _choice(checkpoint: Path) -> dict[str, Any]:
    """The first run's, of which each member had the same cases."""
    for folder in (checkpoint, checkpoint.parent):
        path = folder / "resolved.yaml"
        if path.is_file():
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
            return {key: values[key] for key in _CHOICE if key in values}
    what = "the run does not say which cases it learned from: there is no resolved.yaml"
    raise UsageError(what, where=str(checkpoint), fix="give the folder that finetune wrote")


def _card(
    cards: Sequence[Card], kept: Sequence[int], scores: Sequence[float], final: float
) -> Card:
    provenance = {
        **cards[kept[0]].provenance,
        "stage": "soup",
        "members": [cards[k].weights_sha256 for k in kept],
        "val_scores": [scores[k] for k in kept],
        "val_score": final,
    }
    return cards[kept[0]].model_copy(update={"provenance": provenance})
