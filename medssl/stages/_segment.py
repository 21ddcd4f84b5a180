"""What is particular to fine-tuning a segmentation model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.archive.cases import refuse_leaks
from medssl.archive.labelled import Labelled, load_labelled
from medssl.archive.labelled_frames import LabelledFrames, load_frames
from medssl.archive.store import Store
from medssl.core.seeding import generator
from medssl.encoders._base import Decoder, Encoder
from medssl.encoders.card import Card
from medssl.stages._kinds import VALIDATION_FROM, Cases, Judge, Kind, Stored, wanted_patients
from medssl.stages._validation import DiceMonitor

if TYPE_CHECKING:
    from medssl.stages.finetune import FinetuneConfig


class Segmentation(Kind):
    """Label maps, a decoder, Dice."""

    def load(self, data: Path, labels: Path | None) -> Labelled:
        return load_labelled(data) if labels is None else load_frames(data, labels)

    def choose(self, labelled: Labelled, config: FinetuneConfig) -> Cases:
        return choose_cases(labelled, config)

    def part(
        self,
        encoder: Encoder,
        labelled: Labelled,
        train: Sequence[Stored],  # noqa: ARG002
        options: Any,
    ) -> Decoder:
        return encoder.make_decoder(len(labelled.labels), options.decoder)

    def judge(self, store: Store, val: Sequence[Stored], card: Card, out: Path) -> Judge:
        monitor = DiceMonitor(store, [one.entry for one in val], card, out)
        return Judge(
            monitor,
            lambda: {} if monitor.best is None else {"val_dice": monitor.best},
            monitor.calibrate,
            monitor.score,
        )

    def counts(
        self,
        labelled: Labelled,
        train: list[Stored],  # noqa: ARG002
        val: list[Stored],  # noqa: ARG002
    ) -> dict[str, Any]:
        if not isinstance(labelled, LabelledFrames):
            return {}
        return {"skipped": dict(labelled.skipped)}


def choose_cases(labelled: Labelled, config: FinetuneConfig) -> Cases:
    """Training and validation cases; a patient is never in both.

    Raises:
        UsageError: fewer labelled patients than ``labelled`` asks for, or a patient in two splits.
    """
    with_label = [case for case in labelled.cases if case.label is not None]
    usable = [case for case in with_label if case.split != "test"]
    named = any(case.split == "val" for case in usable)
    refuse_leaks(usable)
    pool = sorted({case.patient for case in usable if case.split != "val" or not named})
    order = [pool[i] for i in generator(config.seed, "labelled").permutation(len(pool))]
    wanted = wanted_patients(config, len(order))
    chosen = order[:wanted]
    if named:
        val = [case for case in usable if case.split == "val"]
    else:
        held = round(config.val_fraction * wanted) if wanted >= VALIDATION_FROM else 0
        val = [case for case in usable if case.patient in chosen[wanted - held :]]
        chosen = chosen[: wanted - held]
    train = [c for c in usable if c.patient in chosen and (c.split != "val" or not named)]
    return Cases(train, val)
