"""What a head decides of a fine-tuning: data, choice of cases, weights of its own, judgement."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from medssl.archive.cases import Case
from medssl.archive.labelled import Labelled
from medssl.archive.store import Entry, Store
from medssl.core.errors import UsageError
from medssl.encoders._base import Encoder
from medssl.encoders.card import Calibration, Card

if TYPE_CHECKING:
    from torch import nn

    from medssl.stages.finetune import FinetuneConfig

# With fewer labelled patients than this none is set aside: the last checkpoint counts.
VALIDATION_FROM = 10


@dataclass(frozen=True)
class Cases:
    """Labelled cases by use."""

    train: list[Case]
    val: list[Case]


class Stored(NamedTuple):
    """A case and its place in the store."""

    case: Case
    entry: Entry


@dataclass(frozen=True)
class Judge:
    """How a model is judged while it trains.

    Attributes:
        monitor: logs metrics of the validation cases and keeps ``model_best``.
        best: metrics of the best model so far, for ``run.json``.
        calibrate: what the validation cases say of a model's probabilities.
        score: of a model on them; larger is better.
    """

    monitor: Callable[[int, nn.Module], Mapping[str, float]]
    best: Callable[[], dict[str, float]]
    calibrate: Callable[[nn.Module], Calibration]
    score: Callable[[nn.Module], float]


class Kind(ABC):
    """One task of ``medssl finetune``."""

    @abstractmethod
    def load(self, data: Path, labels: Path | None) -> Labelled:
        """The labelled data set; ``labels`` are those of videos, where they lie elsewhere."""

    @abstractmethod
    def choose(self, labelled: Labelled, config: FinetuneConfig) -> Cases:
        """Training and validation cases; a patient is never in both."""

    def check(self, cases: Sequence[list[Stored]]) -> tuple[list[list[Stored]], Counter[str]]:
        """Training and validation cases whose pixels agree with their use, and remarks."""
        return list(cases), Counter()

    @abstractmethod
    def part(
        self,
        encoder: Encoder,
        labelled: Labelled,
        train: Sequence[Stored],
        options: Any,
    ) -> Any:
        """What the head is built from, beside the encoder."""

    def targets(self, cases: Sequence[Stored]) -> list[int] | None:  # noqa: ARG002
        """One number per case, where that is its label."""
        return None

    @abstractmethod
    def judge(self, store: Store, val: Sequence[Stored], card: Card, out: Path) -> Judge:
        """The judge of a run, on its validation cases."""

    def counts(self, labelled: Labelled, train: list[Stored], val: list[Stored]) -> dict[str, Any]:  # noqa: ARG002
        """More numbers for ``run.json``."""
        return {}


def wanted_patients(config: FinetuneConfig, there: int, least: int = 1) -> int:
    """How many labelled patients are used of those that are ``there``.

    Raises:
        UsageError: ``labelled`` asks for more, or for fewer than ``least``.
    """
    wanted = there if config.labelled is None else config.labelled
    if wanted > there or wanted < least:
        what = f"labelled={wanted}, but {there} labelled patients are there"
        if wanted < least <= there:
            what = f"labelled={wanted} patients cannot show every class"
        raise UsageError(what, fix=f"labelled={min(max(wanted, least), there)}")
    return wanted
