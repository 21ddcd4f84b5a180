"""``quality.csv`` of predict: how sure the model is of each case, and which ones to refer.

``quality`` is the expected mean Dice of a segmentation, the probability of a predicted class, the
mean of those of a video's frames (:mod:`medssl.evaluation.refusal`); segmentations have that of
each label too. ``refer`` is ``yes`` below the threshold that was chosen on the validation cases of
the fine-tuning, and empty where there were none.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from medssl.core.errors import UsageError
from medssl.encoders.card import Calibration, Card
from medssl.evaluation.refusal import risk_threshold, share_threshold
from medssl.inference.writers import append_table, write_table

if TYPE_CHECKING:
    from medssl.stages.predict import PredictConfig

NAME = "quality.csv"
COLUMNS = ("record_id", "quality", "refer")
# Of the validation cases, where nothing is asked for.
REFER_SHARE = 0.05


class Rule(NamedTuple):
    """Refer what is below; None = there is no threshold."""

    below: float | None
    why: str


def refer_rule(cards: Sequence[Card], config: PredictConfig) -> Rule:
    """The threshold of the validation cases; of several models the highest.

    Raises:
        UsageError: both options, or one where nothing was validated; a risk that no threshold
            reaches.
    """
    if config.max_risk is not None and config.refer_share is not None:
        raise UsageError("max_risk and refer_share both set the threshold", fix="give one of them")
    known = [card.calibration for card in cards]
    if any(one is None for one in known):
        if config.max_risk is None and config.refer_share is None:
            return Rule(None, "none: a model without validation cases")
        fix = "finetune with 10 or more patients, or name a validation split"
        raise UsageError("the model has no validation cases to choose a threshold on", fix=fix)
    found = [_threshold(one, config) for one in known if one is not None]
    share = REFER_SHARE if config.refer_share is None else config.refer_share
    asked = f"refer_share={share}" if config.max_risk is None else f"max_risk={config.max_risk}"
    counts = ", ".join(str(len(one.quality)) for one in known if one is not None)
    return Rule(max(found), f"{asked} on {counts} validation cases")


def _threshold(known: Calibration, config: PredictConfig) -> float:
    if config.max_risk is None:
        share = REFER_SHARE if config.refer_share is None else config.refer_share
        return share_threshold(known.quality, share)
    risk = [1 - score for score in known.score]
    below = risk_threshold(known.quality, risk, config.max_risk)
    if math.isinf(below):
        what = f"no threshold keeps the risk of the validation cases at {config.max_risk}"
        mean = sum(risk) / len(risk)
        raise UsageError(what, fix=f"their mean risk is {mean:.3f}; ask for more, or train longer")
    return below


class QualityTable:
    """The table of an output folder."""

    def __init__(self, out: Path, rule: Rule, labels: Sequence[str] = ()) -> None:
        """``labels``: those that have an expected Dice of their own."""
        self.path, self.rule = out / NAME, rule
        self.header = [*COLUMNS, *(f"dice_{name}" for name in labels)]
        self.referred: list[str] = []

    def begin(self, kept: Collection[str]) -> None:
        """Start the table with the rows of the records that are kept."""
        rows: list[list[str]] = []
        if kept and self.path.exists():
            text = self.path.read_text(encoding="utf-8")
            # The end of the file may be a row that a crash has torn.
            found = csv.reader(io.StringIO(text[: text.rfind("\n") + 1]))
            rows = [row for row in found if len(row) == len(self.header) and row[0] in kept]
        self.referred = [row[0] for row in rows if row[2] == "yes"]
        write_table(self.path, [self.header, *rows])

    def add(self, record_id: str, quality: float, each: Sequence[float] = ()) -> None:
        """One case, with the expected Dice of its labels."""
        below = self.rule.below
        refer = "" if below is None else "yes" if quality < below else "no"
        if refer == "yes":
            self.referred.append(record_id)
        row = (record_id, f"{quality:.4f}", refer, *(f"{dice:.4f}" for dice in each))
        append_table(self.path, [row])

    def report(self) -> dict[str, Any]:
        """For ``run.json``."""
        refer = {"below": self.rule.below, "rule": self.rule.why, "records": self.referred}
        return {"referred": len(self.referred), "refer": refer}
