"""One run of ``medssl predict``: its cases, its ledger, what it counts."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import Progress

from medssl.archive.build import record_id_of
from medssl.archive.identity import load_salt
from medssl.archive.quarantine import Ledger
from medssl.core.errors import NothingUsableError, ReadError, ResourceError
from medssl.core.geometry import Kind
from medssl.core.runlog import Run
from medssl.encoders.card import Card
from medssl.inference.writers import write_label_names
from medssl.readers._base import Found, Refused
from medssl.stages._cases import Case, group_channels, name_cases, scan_input
from medssl.stages._predict_case import Window
from medssl.stages._predict_members import Members
from medssl.stages._predict_quality import QualityTable, refer_rule
from medssl.stages._predict_setup import check_unchanged, write_paths

if TYPE_CHECKING:
    from medssl.stages.predict import PredictConfig


class Session(ABC):
    """One run: its cases, ledger and counts. What a case gets is up to the head."""

    def __init__(self, run: Run, config: PredictConfig, members: Members, device: str) -> None:
        self.run, self.config, self.members = run, config, members
        self.model, self.card = members.together()
        card = self.card
        self.out = run.out
        self.window = Window(
            overlap=config.overlap, batch_windows=config.batch_windows, device=device
        )
        rule = refer_rule(members.cards, config)
        resolved = {
            "model": card.weights_sha256,
            "contract": card.contract.digest,
            "refer_below": rule.below,
        }
        check_unchanged(self.out, {**config.model_dump(), **resolved})
        run.save_config(config, resolved)
        write_label_names(self.out / "labels.json", card.labels)
        self.quality = QualityTable(self.out, rule, self.measured)
        self.salt = load_salt(self.out)
        self.ledger = Ledger(self.out / "quarantine.jsonl")
        self.cases: list[Case] = []
        self.done: set[str] = set()
        self.failed: Counter[str] = Counter()
        self.failed_ids: set[str] = set()
        self.skipped: Counter[str] = Counter()
        self.case_s: list[float] = []

    def find(self, progress: Progress) -> None:
        """Scan the input; what cannot be a case goes to the ledger."""
        task = progress.add_task("scan", total=None)
        assert self.config.input is not None  # else it is read online
        scan, self.skipped = scan_input(
            self.config.input,
            lambda done, total: progress.update(task, completed=done, total=total),
            kinds=self.kinds,
        )
        groups, misfits = group_channels(
            scan.found, self.card.in_channels, self.card.contract.picture_channels
        )
        self.cases = name_cases(
            groups,
            scan.root,
            lambda channels: self._record_id(channels, scan.root),
            hashed_names=self.config.hashed_names,
        )
        self.begin()
        rows = [
            (case.record_id, file, self.result_of(case))
            for case in self.cases
            for one in case.channels
            for file in one.files
        ]
        for bad in (*scan.refused, *misfits):
            record_id = self._record_id([bad], scan.root)
            rows += [(record_id, file, "") for file in bad.files]
            self.quarantine(record_id, bad.reason, bad.message)
        self.ledger.save()
        write_paths(self.out / "paths.parquet", rows)

    def todo(self) -> list[Case]:
        """Cases without a result; the results of the others are kept."""
        if self.config.resume:
            self.done = {case.record_id for case in self.cases if self.is_complete(case)}
        self.begin_tables(self.done)
        self.quality.begin(self.done)
        return [c for c in self.cases if self.result_of(c) and c.record_id not in self.done]

    def predict(self, case: Case) -> None:
        """Predict and write one case, or note why not."""
        started_s = time.perf_counter()
        try:
            self.write(case)
        except ReadError as error:
            self.quarantine(case.record_id, error.reason, error.what)
            self.ledger.save()
            return
        self.case_s.append(time.perf_counter() - started_s)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What the model takes: volumes, and with an image encoder pictures."""
        return ("volume", "image") if len(self.card.patch_size) == 2 else ("volume",)

    @property
    def measured(self) -> tuple[str, ...]:
        """Labels that have an expected Dice of their own."""
        return ()

    @abstractmethod
    def begin(self) -> None:
        """The cases are known."""

    @abstractmethod
    def begin_tables(self, kept: Collection[str]) -> None:
        """Start the tables with the rows of the records that are kept."""

    @abstractmethod
    def result_of(self, case: Case) -> str:
        """Name of a case's first result below the output folder; empty if it gets none."""

    @abstractmethod
    def is_complete(self, case: Case) -> bool:
        """Whether an earlier run finished a case."""

    @abstractmethod
    def write(self, case: Case) -> None:
        """Predict one case and write what it gets; last what makes it complete.

        Raises:
            ReadError: it cannot be predicted.
            ResourceError: the disk is full.
        """

    def finish(self) -> Run:
        """Write ``run.json``; raise if nothing was predicted."""
        self.ledger.keep("predict", {(record_id, "") for record_id in self.failed_ids})
        self.ledger.save()
        predicted = len(self.case_s)
        nothing = predicted + len(self.done) == 0
        if nothing:
            error = self._nothing()
            self.run.exit_code = error.exit_code
        elif self.failed:
            self.run.exit_code = 4
        self.run.finish(
            model=self.card.weights_sha256,
            device=str(self.window.device),
            predicted=predicted,
            kept=len(self.done),
            quarantined=dict(sorted(self.failed.items())),
            skipped=dict(sorted(self.skipped.items())),
            mean_case_s=round(sum(self.case_s) / max(predicted, 1), 3),
            **self.quality.report(),
        )
        if nothing:
            raise error
        return self.run

    def _nothing(self) -> NothingUsableError | ResourceError:
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(self.failed.items()))
        if self.failed and set(self.failed) == {"out_of_memory"}:
            fix = "lower batch_windows, or predict on a machine with more memory"
            return ResourceError(f"every scan ran out of memory ({reasons})", fix=fix)
        what = f"no scan could be predicted ({reasons or 'no scan found'})"
        return NothingUsableError(what, where=str(self.config.input))

    def quarantine(self, record_id: str, reason: str, message: str) -> None:
        """Note what could not be used."""
        self.failed[reason] += 1
        self.failed_ids.add(record_id)
        self.ledger.add(record_id, "predict", reason, message)

    def _record_id(self, parts: Sequence[Found | Refused], root: Path) -> str:
        files = tuple(file for one in parts for file in one.files)
        part = ";".join(one.part for one in parts if isinstance(one, Found) and one.part)
        return record_id_of(files, root, self.salt, part)


def foreground(card: Card) -> tuple[str, ...]:
    """Names of the labels but the background, in the order of the classes."""
    return tuple(card.labels[value] for value in sorted(card.labels)[1:])
